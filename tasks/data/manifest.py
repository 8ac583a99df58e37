"""The manifest. Reads and writes which files of the lake are committed, and their hashes, in our state.

A partition counts from the transaction that lists it: a file without a row is what a killed process
left, and no reader sees it. Correcting the lake (a re-drive, an erasure) writes new files, and swaps rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import polars as pl
import sqlalchemy as sa

from models.errors import DataError
from tasks.home import Home
from tasks.data.lake import hash_file, sweep_unfinished, write_partition
from tasks.tables import PARTITIONS

Kind = Literal["raw", "quarantine"]


@dataclass(frozen=True)
class Partition:
    """A committed file of the lake."""

    path: str  # relative to the lake
    table: str
    kind: str
    as_of: datetime  # of the load it belongs to
    rows: int
    sha256: str


def write_raw(home: Home, frame: pl.DataFrame, path: Path, *, table: str, kind: Kind, as_of: datetime) -> Partition:
    """Write a partition; it counts once `record_partitions` lists it."""
    write_partition(frame, path)
    return Partition(str(path.relative_to(home.lake)), table, kind, as_of, len(frame), hash_file(path))


def record_partitions(
    connection: sa.Connection, add: Iterable[Partition], *, remove: Iterable[Partition] = ()
) -> None:
    """List new partitions and strike old ones, inside the caller's transaction."""
    for partition in remove:
        connection.execute(PARTITIONS.delete().where(PARTITIONS.c.path == partition.path))
    for partition in add:
        connection.execute(PARTITIONS.insert().values(
            path=partition.path, table_name=partition.table, kind=partition.kind,
            as_of=partition.as_of.isoformat(), rows=partition.rows, sha256=partition.sha256,
        ))


def committed_partitions(
    source: sa.Engine | sa.Connection, table: str | None = None, *, kind: Kind = "raw"
) -> list[Partition]:
    """The committed partitions of a table (None: of all), oldest load first."""
    query = sa.select(PARTITIONS).where(PARTITIONS.c.kind == kind).order_by(PARTITIONS.c.as_of, PARTITIONS.c.path)
    if table is not None:
        query = query.where(PARTITIONS.c.table_name == table)
    if isinstance(source, sa.Engine):
        with source.connect() as connection:
            rows = connection.execute(query).mappings().all()
    else:
        rows = source.execute(query).mappings().all()
    return [
        Partition(row["path"], row["table_name"], row["kind"], datetime.fromisoformat(row["as_of"]), row["rows"],
                  row["sha256"])
        for row in rows
    ]


def committed_files(
    home: Home, source: sa.Engine | sa.Connection, table: str, *, kind: Kind = "raw"
) -> list[Path]:
    """The files of a table's committed partitions, oldest load first."""
    return [home.lake / partition.path for partition in committed_partitions(source, table, kind=kind)]


def check_lake(home: Home, source: sa.Engine | sa.Connection) -> None:
    """Every committed file is there, with the bytes that were committed. The caller holds the lake.

    Raises:
        DataError: one is not: every feature would be a little wrong.
    """
    listed = [*committed_partitions(source), *committed_partitions(source, kind="quarantine")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads run
        hashes = pool.map(lambda one: hash_file(path) if (path := home.lake / one.path).exists() else None, listed)
    restore = "Restore it from a backup, or start with another CHURN_HOME"
    for partition, seen in zip(listed, hashes, strict=True):
        path = home.lake / partition.path
        if seen is None:
            raise DataError(f"cannot ingest: {path} is missing from the lake, and the manifest lists it. {restore}")
        if seen != partition.sha256:
            raise DataError(f"cannot ingest: {path} is not what the manifest lists: its bytes changed. {restore}")


def dataset_version(partitions: Sequence[Partition]) -> str:
    """Hash of the raw partitions' hashes, twelve hex digits: names the data a model was made from."""
    lines = sorted(f"{partition.path} {partition.sha256}" for partition in partitions)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def current_version(engine: sa.Engine) -> str:
    """The dataset version of what is committed now."""
    return dataset_version(committed_partitions(engine))


def sweep_leftovers(home: Home, engine: sa.Engine) -> int:
    """Remove what killed writers left: half-written files of dead processes, and partitions that no row lists.

    The caller holds the lake. Without a committed load nothing unlisted is removed: a state that was lost must
    not take the lake with it. Returns how many files.
    """
    swept = sweep_unfinished(home)
    with engine.connect() as connection:
        listed = {home.lake / path for path in connection.execute(sa.select(PARTITIONS.c.path)).scalars()}
    for kind in ("raw", "quarantine"):
        for path in sorted((home.lake / kind).rglob("*.parquet")) if listed else ():
            if path not in listed:
                path.unlink()
                swept += 1
    return swept
