"""Source files. Reads CSV, gzipped CSV and Parquet, and which of them are known already; records what was read.

An unchanged file whose rows had all arrived is not read again; any other is read whole, and the rows the
lake has drop out by their keys.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from models.contract import Table
from models.errors import DataError, nearest
from tasks.data.delivery import UNPARSED, Delivery, SourceFile, check_types, compare_totals, family, no_rows
from tasks.data.lake import hash_file
from tasks.data.source_types import families_of
from tasks.data.sources import FILE, LINE, TableSource, as_text
from tasks.tables import SOURCE_FILES

_MAGIC: Final = re.compile(r"[*?\[]")


def find_files(table: str, source: TableSource, *, root: Path) -> list[Path]:
    """The files of a source, sorted by name.

    Raises:
        DataError: there is none, one is empty, or the source is a database.
    """
    if source.path is None:
        raise DataError(f"cannot look for files of {table}: its source is a database")
    pattern = _pattern(source, root)
    files = [Path(file) for file in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(file)]
    if not files:
        raise DataError(f"cannot read {table}: no file matches {pattern}. Put the file there or change its path "
                        "in the sources file")
    for file in files:
        if file.stat().st_size == 0:
            raise DataError(f"cannot read {table}: {file} is empty (0 bytes); a CSV file needs a header and rows")
    return files


def read_files(table: Table, source: TableSource, *, root: Path, engine: sa.Engine) -> Delivery:
    """The rows of every file that is new, changed or not yet wholly in the lake.

    Raises:
        DataError: no file, an empty one, one that is not UTF-8, one that lacks a mapped column or has it in a type
            that cannot become ours, a control file that does not fit; the batch is refused.
    """
    mapping = json.dumps(source.columns, sort_keys=True)
    with engine.connect() as connection:
        known = {row["path"]: row for row in connection.execute(
            sa.select(SOURCE_FILES).where(SOURCE_FILES.c.table_name == table.name)).mappings()}
    paths = find_files(table.name, source, root=root)
    base = Path(os.path.dirname(re.split(_MAGIC, _pattern(source, root))[0]))
    totals = _read_totals(table, source, root, {_name(path, base) for path in paths})
    frames, read, unread, measures, types, offset = [], [], [], [], [], 0
    for path in paths:
        name = _name(path, base)
        file = SourceFile(_relative(path, root), name, hash_file(path), json.dumps(totals.get(name, {}), default=str))
        before = known.get(file.path)
        if before and before["complete"] and (before["sha256"], before["mapping"], before["totals"]) == (
            file.sha256, mapping, file.totals
        ):
            continue
        frame, broken = _read_file(table, source, path)
        if _typed(path):
            types.append({theirs: family(frame.schema[ours]) for ours, theirs in source.columns.items()})
        frames.append(frame.with_columns(pl.lit(name).alias(FILE)).select(*source.columns, FILE, LINE))
        measures += compare_totals(totals.get(name, {}), frame, by=str(source.totals), where=name)
        unread.append(broken.with_columns(pl.col("row") + offset))
        read.append(file)
        offset += len(frame)
    if not frames:
        return Delivery(no_rows(source), files_skipped=len(paths))
    return Delivery(_concat(frames), pl.concat(unread), tuple(read), len(paths) - len(read),
                    types=families_of(source, *types), measures=tuple(measures))


def record_files(
    connection: sa.Connection, table: str, source: TableSource, delivery: Delivery, *, waiting: Collection[str],
    as_of: datetime,
) -> None:
    """Remember the files that were read, inside the load's transaction.

    Args:
        waiting: names of the files with rows that had not arrived by `as_of`: they are read again.
    """
    for file in delivery.files:
        connection.execute(SOURCE_FILES.delete().where(
            (SOURCE_FILES.c.table_name == table) & (SOURCE_FILES.c.path == file.path)))
    if delivery.files:
        connection.execute(SOURCE_FILES.insert(), [{
            "table_name": table, "path": file.path, "as_of": as_of.isoformat(), "sha256": file.sha256,
            "complete": file.name not in waiting, "mapping": json.dumps(source.columns, sort_keys=True),
            "totals": file.totals,
        } for file in delivery.files])


def _pattern(source: TableSource, root: Path) -> str:
    path = source.path or ""
    return path if os.path.isabs(path) else str(root / path)


def _name(path: Path, base: Path) -> str:
    # Below where the glob begins: files of the same name in two folders are two.
    return str(path.relative_to(base))


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _typed(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _concat(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """One frame; a column that has another type in another file is text."""
    kinds = {name: {frame.schema[name] for frame in frames} for name in frames[0].columns}
    mixed = [name for name, seen in kinds.items() if len(seen) > 1]
    return pl.concat([frame.with_columns(as_text(frame[name]) for name in mixed) for frame in frames])


def _read_file(table: Table, source: TableSource, path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    try:
        if _typed(path):
            schema = pl.read_parquet_schema(path)
            check_types(table, source, {name: family(dtype) for name, dtype in schema.items()}, where=str(path))
            columns = sorted({*source.columns.values()})
            frame, broken = pl.read_parquet(path, columns=columns, glob=False), pl.DataFrame(schema=UNPARSED)
            frame = frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(LINE))
        else:
            frame, broken = _read_csv(path)
            check_types(table, source, dict.fromkeys(frame.columns[:-1], "string"), where=str(path))
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        said = "not UTF-8; save it as UTF-8" if "utf-8" in reason.lower() or "utf8" in reason.lower() else reason
        raise DataError(f"cannot read {table.name}: {path} is {said}") from None
    if frame.is_empty():
        raise DataError(f"cannot read {table.name}: {path} has a header but no rows")
    return frame.select(*[pl.col(theirs).alias(ours) for ours, theirs in source.columns.items()], LINE), broken


def _read_csv(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Text columns and `_line`, the line of the file on which a row begins; and rows with too many cells or too few."""
    data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    ragged = False
    try:
        frame = pl.read_csv(data, infer_schema=False)
    except pl.exceptions.ComputeError as error:
        if "more fields" not in str(error):
            raise
        frame, ragged = pl.read_csv(data, infer_schema=False, truncate_ragged_lines=True), True
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    blank = frame.select(pl.all_horizontal(pl.all().is_null()).any()).item() if len(frame) else False
    if lines != len(frame) + 1 or ragged or blank:
        return _with_lines(frame, data)
    numbered = frame.with_columns(pl.int_range(2, lines + 1, dtype=pl.Int64).alias(LINE))
    ends_empty = frame[frame.columns[-1]].is_null().arg_true().to_list() if len(frame) else []
    if not ends_empty:
        return numbered, pl.DataFrame(schema=UNPARSED)
    texts = data.split(b"\n")
    widths = pl.DataFrame({"row": ends_empty, "_width": [_width(texts[row + 1]) for row in ends_empty]},
                          schema={"row": pl.Int64, "_width": pl.Int64})
    return numbered, _odd_width(widths, len(frame.columns))


def _width(line: bytes) -> int:
    return len(next(csv.reader([line.decode()]))) if b'"' in line else line.count(b",") + 1


def _odd_width(rows: pl.DataFrame, width: int) -> pl.DataFrame:
    """Of rows with their `_width`, those that have too few cells or too many: what was meant cannot be told."""
    return rows.filter(pl.col("_width") != width).select(
        pl.col("row").cast(pl.Int64), pl.format("has {} cells where the header has {}", "_width", pl.lit(width))
        .alias("reason"))


def _with_lines(frame: pl.DataFrame, data: bytes) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The slow way, for a file where rows are not lines: quoted line breaks, blank lines, too many cells."""
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    begins, widths, last = [], [], 0
    for record in reader:
        begins.append(last + 1)
        widths.append(len(record))
        last = reader.line_num
    begins, widths = begins[1:], widths[1:]  # the header
    while len(begins) > len(frame) and widths and widths[-1] == 0:
        begins, widths = begins[:-1], widths[:-1]
    if len(begins) != len(frame):
        raise csv.Error(f"not to be told apart into rows ({len(frame):,} or {len(begins):,}): look for a quote that "
                        "is not closed")
    numbered = frame.with_columns(pl.Series(LINE, begins, dtype=pl.Int64), pl.Series("_width", widths)).filter(
        pl.col("_width") > 0)
    return numbered.drop("_width"), _odd_width(numbered.with_row_index("row"), len(frame.columns))


def _read_totals(
    table: Table, source: TableSource, root: Path, names: Collection[str]
) -> dict[str, dict[str, Decimal]]:
    """File -> "rows" and our columns' names -> what the control file says.

    Raises:
        DataError: it cannot be read, does not name a file that is there, or names one that is not.
    """
    if source.totals is None:
        return {}
    path = Path(source.totals) if os.path.isabs(source.totals) else root / source.totals
    start = f"cannot reconcile {table.name}: the control file {path}"
    ours = {theirs: name for name, theirs in source.columns.items()} | {"rows": "rows"}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{start} cannot be read ({reason}). Deliver it, or take `totals` out of the sources file"
                        ) from None
    strange = [name for name in (rows[0] if rows else {}) if name != "file" and name not in ours]
    if not rows or "file" not in rows[0] or "rows" not in rows[0] or strange:
        said = f"has a column {strange[0]!r}; {nearest(str(strange[0]), ours)}" if strange else (
            "needs a header `file,rows` and a line a file")
        raise DataError(f"{start} {said}")
    found: dict[str, dict[str, Decimal]] = {}
    for row in rows:
        cells: list[Any] = list(row.values())
        if None in row or None in cells:
            raise DataError(f"{start} has a line of {row['file']} with more or fewer cells than its header. Deliver it "
                            "again")
        if row["file"] in found:
            raise DataError(f"{start} names {row['file']} twice. Deliver it with one line a file")
        try:
            numbers = {ours[name]: Decimal(value) for name, value in row.items() if name != "file"}
            if not all(value.is_finite() for value in numbers.values()):
                raise InvalidOperation
            found[row["file"]] = numbers
        except InvalidOperation:
            raise DataError(f"{start} says {cells} of {row['file']}: not all of them numbers") from None
    for left, right, said in (
        (names, found, "says nothing of {}, which is there"), (found, names, "names {}, which is not there")
    ):
        if lost := sorted(set(left) - set(right)):
            raise DataError(f"{start} {said.format(lost[0])}. Complete the delivery")
    return found
