"""The lake. Parquet, one file a partition, written beside and renamed; append-only.

    lake/raw/TABLE/load=AS_OF.parquet           kept rows, with created_timestamp, _key and _content
    lake/quarantine/TABLE/load=AS_OF.parquet    bad rows as text, with every reason, file and line
    lake/snapshots/FINGERPRINT/cut=CUT.parquet  one row a customer
    lake/training/..., lake/scores/...
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from tasks.home import Home

_STAMP = "%Y-%m-%dT%H%M%S.%fZ"


def stamp(moment: datetime) -> str:
    """A moment as it stands in a partition's name: to the second where that is exact."""
    text = moment.astimezone(UTC).strftime(_STAMP)
    return text.replace(".000000Z", "Z").replace("T000000Z", "")


def raw_partition(home: Home, table: str, as_of: datetime) -> Path:
    return home.lake / "raw" / table / f"load={stamp(as_of)}.parquet"


def quarantine_partition(home: Home, table: str, as_of: datetime) -> Path:
    return home.lake / "quarantine" / table / f"load={stamp(as_of)}.parquet"


def snapshot_folder(home: Home, fingerprint: str) -> Path:
    return home.lake / "snapshots" / fingerprint


def snapshot_partition(home: Home, fingerprint: str, cut: datetime) -> Path:
    return snapshot_folder(home, fingerprint) / f"cut={stamp(cut)}.parquet"


def write_partition(frame: pl.DataFrame, path: Path) -> None:
    """Write beside and rename: a reader sees the old file, the new one, or none; never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.touch(mode=0o600)
        frame.write_parquet(beside, compression="zstd", statistics=True)
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dataset_version(partitions: Iterable[Path]) -> str:
    """Hash of the partitions' hashes, twelve hex digits: names the data a model was made from."""
    lines = sorted(f"{path.parent.name}/{path.name} {hash_file(path)}" for path in partitions if path.exists())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
