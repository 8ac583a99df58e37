"""The quarantine. Reads the bad rows that no re-drive has let through, with every reason, file and line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from models.contract import Column, Table
from models.errors import DataError
from tasks.home import Home
from tasks.data.keys import CONTENT, KEY, LOAD
from tasks.data.manifest import Partition, committed_partitions
from tasks.data.sources import FILE, LINE, MOMENT

REASON: Final = "reason"
DIMENSIONS: Final = "dimensions"
PART: Final = "_part"  # number of its partition
DROPPED: Final = "its text was dropped: older than keep_quarantine_days"  # the reason retention leaves
REDELIVERED: Final = "its text was dropped: its key has arrived since"  # the reason a re-drive leaves
_SCHEMA: Final = {REASON: pl.String(), DIMENSIONS: pl.String(), FILE: pl.String(), LINE: pl.Int64(),
                  KEY: pl.String(), CONTENT: pl.UInt64()}


@dataclass(frozen=True)
class Waiting:
    """The rows of a table that are bad for one set of reasons."""

    table: str
    reason: str
    dimensions: str
    rows: int
    examples: tuple[str, ...]  # FILE:LINE, of the newest load first
    newest: datetime  # `as_of` of the load


def explained(faults: pl.DataFrame) -> pl.DataFrame:
    """One row a bad row: every reason, and every dimension of data quality they belong to."""
    return faults.group_by("row").agg(
        pl.col("reason").sort().str.join("; ").alias(REASON),
        pl.col("dimension").unique().sort().str.join(", ").alias(DIMENSIONS),
    )


def waiting_partitions(home: Home, engine: sa.Engine, table: str) -> list[Partition]:
    """A table's quarantine without the partitions whose text was dropped: nothing of them can be judged again."""
    return [one for one in committed_partitions(engine, table, kind="quarantine") if not text_dropped(home, one)]


def text_dropped(home: Home, partition: Partition) -> bool:
    """Whether only the keys of these rows were left, by which they are known when they are delivered again."""
    reasons = pl.scan_parquet(home.lake / partition.path, glob=False, hive_partitioning=False).select(
        pl.col(REASON).is_in([DROPPED, REDELIVERED]).all() & (pl.len() > 0))
    try:
        return bool(reasons.collect().item())
    except (OSError, pl.exceptions.PolarsError):
        return False  # whoever reads the rows says what is wrong with the file


def without_text(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    """Rows of a quarantine by key and place alone: a source may deliver them again, and they must be known then."""
    return rows.with_columns(
        *[pl.lit(None, dtype=dtype).alias(name) for name, dtype in rows.schema.items() if name not in _SCHEMA],
        pl.lit(reason).alias(REASON),
    )


def read_quarantine(home: Home, partitions: Sequence[Partition], table: str) -> pl.DataFrame:
    """Every row of a table's quarantine as it was delivered, with its reasons, load and partition.

    Raises:
        DataError: a file that the manifest lists cannot be read.
    """
    frames = [pl.DataFrame(schema={**_SCHEMA, LOAD: MOMENT, PART: pl.Int32()})]
    for part, partition in enumerate(partitions):
        path = home.lake / partition.path
        try:
            rows = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"cannot read the quarantine of {table}: {path}: {str(error).splitlines()[0]}. Restore the "
                            "file from a backup") from None
        frames.append(rows.with_columns(
            pl.lit(partition.as_of, MOMENT).alias(LOAD), pl.lit(part, pl.Int32()).alias(PART)
        ))
    return pl.concat(frames, how="diagonal")


def list_quarantine(home: Home, engine: sa.Engine, tables: Iterable[Table], *, examples: int = 3) -> list[Waiting]:
    """What waits in the quarantine, by table and reasons, the commonest first."""
    found = []
    for table in tables:
        rows = read_quarantine(home, waiting_partitions(home, engine, table.name), table.name)
        newest = rows.sort(LOAD, FILE, LINE, descending=[True, False, False])
        for (reason, dimensions), group in newest.group_by(REASON, DIMENSIONS, maintain_order=True):
            places = tuple(_place(row, table.column("row_key")) for row in group.head(examples).iter_rows(named=True))
            found.append(Waiting(table.name, str(reason), str(dimensions), len(group), places, group[LOAD][0]))
    return sorted(found, key=lambda waiting: (-waiting.rows, waiting.table, waiting.reason))


def _place(row: Mapping[str, Any], key: Column | None) -> str:
    """FILE:LINE; of a row that stood in no line, as a database's, its key where it has one."""
    if row[LINE] is not None:
        return f"{row[FILE]}:{row[LINE]}"
    number = row.get(key.name) if key else None
    return str(row[FILE]) if key is None or number is None else f"{row[FILE]} {key.name} {number}"
