"""The lake. Parquet, one file a partition, written beside and renamed; append-only.

    lake/raw/TABLE/load=AS_OF.parquet           kept rows, with created_timestamp, _key, _content and _version
    lake/quarantine/TABLE/load=AS_OF.parquet    bad rows as text, with every reason, file and line
    lake/.../load=AS_OF,N.parquet               what a re-drive or an erasure put in its place
    lake/snapshots/FINGERPRINT/cut=CUT.parquet  one row a customer
    lake/training/..., lake/scores/..., lake/truth/cut=CUT.parquet

A kept row's `_version` is 0 where the lake had no row of its `_key` before, and higher for each correction
of it. So a reader has to choose only among keys that have a version above 0, and there the latest known is
the first by `created_timestamp DESC, _version DESC`; every other row is the only one of its key.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa

from models.errors import DataError
from tasks.home import Home

SPILL_SECONDS = 86_400  # no query takes so long: what it spilt to disk was left by one that was killed
_STAMP = "%Y-%m-%dT%H%M%S.%fZ"


def stamp(moment: datetime) -> str:
    """A moment as it stands in a partition's name: to the second where that is exact."""
    text = moment.astimezone(UTC).strftime(_STAMP)
    return text.replace(".000000Z", "Z").replace("T000000Z", "")


def parse_stamp(text: str) -> datetime | None:
    """The moment `stamp` wrote, or None."""
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H%M%SZ", "%Y-%m-%dT%H%M%S.%fZ"):
        try:
            moment = datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return moment if stamp(moment) == text else None
    return None


def raw_partition(home: Home, table: str, as_of: datetime) -> Path:
    """Where the load of `as_of` writes a table's kept rows; the manifest says which files count."""
    return home.lake / "raw" / table / f"load={stamp(as_of)}.parquet"


def quarantine_partition(home: Home, table: str, as_of: datetime) -> Path:
    """Where the load of `as_of` writes a table's bad rows; the manifest says which files count."""
    return home.lake / "quarantine" / table / f"load={stamp(as_of)}.parquet"


def snapshot_folder(home: Home, fingerprint: str) -> Path:
    return home.lake / "snapshots" / fingerprint


def snapshot_partition(home: Home, fingerprint: str, cut: datetime) -> Path:
    return snapshot_folder(home, fingerprint) / f"cut={stamp(cut)}.parquet"


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Say which snapshot cannot be read.

    Raises:
        DataError: in place of whatever Polars and Arrow raise.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, pa.ArrowInvalid, OSError) as error:
        why = str(error).partition("\n")[0]
        raise DataError(f"cannot read the snapshot {path}: {why}. Move the file away and run the features flow; it is "
                        "made anew from the lake") from error


def write_partition(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame as a partition; see `beside`."""
    with beside(path) as file:
        frame.write_parquet(file, compression="zstd", statistics=True)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Where to write what is renamed to `path` at the end: a reader sees the old file, the new one, or none.

    The file, then its name are on the disk when this returns: what our state says of it later holds after a
    power failure, too. What it is called while it is written ends in `.tmp`, and no reader of `*.parquet` or of
    the folder takes it in; `sweep_unfinished` finds it.
    """
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        file.touch(mode=0o600)
        yield file
        sync(file)
        file.rename(path)
        for folder in (path.parent, *(new.parent for new in made)):
            sync(folder)
    finally:
        file.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """To the disk: a file's bytes, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep_unfinished(home: Home) -> int:
    """Remove files that a process was writing when it died; those of living processes stay. Returns how many."""
    swept = 0
    for path in home.lake.rglob(".*.tmp"):
        writer = re.search(r"\.(\d+)\.tmp$", path.name)
        if writer and not _lives(int(writer[1])):
            path.unlink(missing_ok=True)
            swept += 1
    for folder in home.lake.glob(".spill-*"):
        if time.time() - folder.stat().st_mtime > SPILL_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
            swept += 1
    return swept


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
