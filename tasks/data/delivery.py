"""What a source gives for one load: its rows, and what it says of itself to compare them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import polars as pl

from models.contract import Table
from models.errors import DataError, nearest
from models.gates.quality import Measure
from tasks.data.sources import FILE, LINE, TableSource

WATERMARK: Final = "_watermark"
HASH: Final = "_hash"  # of a database's row, as its server gives it
TOO_WIDE: Final = r"(has \d+ cells where the header has \d+)"  # of a CSV line with too many cells or too few
UNPARSED: Final = {"row": pl.Int64(), "reason": pl.String()}
_FAMILIES: Final = {
    "string": "string int", "int64": "int float string", "float64": "float int decimal string",
    "decimal": "decimal float int string", "timestamp": "timestamp date string", "bool": "bool int string",
}


@dataclass(frozen=True)
class SourceFile:
    """A file as it was read."""

    path: str  # relative to where source paths start, if it lies there
    name: str  # as rows name it: `_file`
    sha256: str
    totals: str  # what the control file says of it, or nothing


@dataclass(frozen=True)
class Before:
    """What a database has before a watermark."""

    rows: int = 0
    fingerprint: int = 0  # the sum of their hashes


@dataclass(frozen=True)
class Window:
    """What was asked of a database."""

    since: str | None  # from this watermark on, None: from the beginning
    before: Before  # rows with an earlier one, which were not asked for


@dataclass(frozen=True)
class Delivery:
    """A table's part of a load, before anything is judged."""

    rows: pl.DataFrame  # by our names, text or the source's types, with `_file`, `_line`; of a database `_watermark`
    unread: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=UNPARSED))  # rows broken as a whole
    files: tuple[SourceFile, ...] = ()
    files_skipped: int = 0
    window: Window | None = None
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of a typed source: their column -> families
    measures: tuple[Measure, ...] = ()  # what the source says it has against what was read


def compare_totals(said: Mapping[str, Decimal | None], rows: pl.DataFrame, *, by: str, where: str) -> list[Measure]:
    """Rows and sums that were read against what the source says; a difference of a cent or of a row is one.

    Args:
        said: "rows" and our columns' names -> what the source says.
        by: who says so, for the message.
        where: what was read, for the message.
    """
    measures = []
    for name, total in said.items():
        read = Decimal(len(rows)) if name == "rows" else sum_of(rows[name])
        if total is None and not read:
            continue
        differs = total is None or abs(read - total) >= Decimal("0.01")
        what = "rows" if name == "rows" else f"sum of {name}"
        measures.append(Measure(
            "accuracy", f"{what} of {where}", float(abs(read - (total or 0))) if differs else 0.0, what,
            f"{what} of {where} is {read:,}, and {by} says {'nothing' if total is None else format(total, ',')}", 0.0,
            step=f"Deliver it again, or mend what {by} says",
        ))
    return measures


def sum_of(cells: pl.Series) -> Decimal:
    """To six decimals, of cells as they were delivered: what a later rounding to cents does is not the source's."""
    exact = cells.cast(pl.String).str.strip_chars().cast(pl.Decimal(38, 6), strict=False).sum()
    return Decimal(exact or 0).normalize() + 0


def check_types(table: Table, source: TableSource, seen: Mapping[str, str], *, where: str) -> None:
    """A source with types has every column, of a type that can become the contract's.

    Args:
        seen: their column -> family ("string", "int", "float", "decimal", "timestamp", "date", "bool", or the
            type's own name where it is none of them).

    Raises:
        DataError: a column is missing or has changed its type: the batch is refused, by the column's name.
    """
    for ours, theirs in source.columns.items():
        if theirs not in seen:
            raise DataError(f"cannot read {table.name}: {where} has no column {theirs!r} (mapped to {ours}); "
                            f"{nearest(theirs, seen)}")
        dtype = next(column.dtype for column in table.columns if column.name == ours)
        if seen[theirs] != "null" and seen[theirs] not in _FAMILIES[dtype].split():
            raise DataError(f"cannot read {table.name}: changed type: {theirs!r} of {where} is {seen[theirs]} now, and "
                            f"{ours} is {dtype}. Mend the source or its mapping; nothing was written")


def family(dtype: pl.DataType) -> str:
    """Of a Polars type, for `check_types`."""
    if dtype.is_integer():
        return "int"
    if dtype.is_float():
        return "float"
    known: list[tuple[Any, str]] = [
        (pl.Decimal, "decimal"), (pl.Datetime, "timestamp"), (pl.Date, "date"), (pl.Boolean, "bool"), (pl.Null, "null"),
        (pl.String, "string"), (pl.Categorical, "string"), (pl.Enum, "string"),
    ]
    return next((name for kind, name in known if isinstance(dtype, kind)), str(dtype).lower())


def no_rows(source: TableSource) -> pl.DataFrame:
    """An empty delivery."""
    return pl.DataFrame(schema={**dict.fromkeys(source.columns, pl.String), FILE: pl.String, LINE: pl.Int64})
