"""Sources. Reads the sources file and the files it names; writes nothing.

Every cell is read as text and parsed by the contract, so a cell that cannot be parsed costs its row and
not the file.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl
import yaml
from pydantic import BaseModel, Field, ValidationError

from models.contract import Column, Contract, Table
from models.errors import ConfigError, DataError, nearest

MOMENT: Final = pl.Datetime("us", "UTC")
POLARS_TYPES: Final[dict[str, pl.DataType]] = {
    "string": pl.String(), "int64": pl.Int64(), "float64": pl.Float64(), "decimal": pl.Decimal(18, 2),
    "timestamp": MOMENT, "bool": pl.Boolean(),
}
_FORMATS: Final = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%d")
FILE: Final = "_file"
LINE: Final = "_line"


class TableSource(BaseModel, frozen=True, extra="forbid"):
    """Where one raw table is, and which of its columns is which of ours."""

    path: str = Field(min_length=1, description="CSV or Parquet, a path or a glob")
    columns: dict[str, str] = Field(description="ours: theirs")


class Sources(BaseModel, frozen=True, extra="forbid"):
    """The sources file."""

    tables: dict[str, TableSource]


def load_sources(path: Path, contract: Contract, *, variables: Mapping[str, str]) -> Sources:
    """Read and check a sources file.

    Raises:
        ConfigError: no such file, an unknown table or column, a needed column that is not mapped, or a
            variable that is not set.
    """
    try:
        text = path.read_text(encoding="utf-8")
        sources = Sources.model_validate(yaml.safe_load(_expand(text, variables, path)))
    except FileNotFoundError:
        raise ConfigError(f"cannot read the sources file: {path} does not exist. Set CHURN_SOURCES to a file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the sources file {path}: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise ConfigError(f"cannot use the sources file {path}: {key}: {fault['msg']}") from None
    for name, source in sources.tables.items():
        if name not in {table.name for table in contract.tables}:
            known = nearest(name, [table.name for table in contract.tables])
            raise ConfigError(f"cannot use the sources file {path}: unknown table {name!r}; {known}")
        _check_mapping(path, contract.table(name), source)
    return sources


def _check_mapping(path: Path, table: Table, source: TableSource) -> None:
    ours = [column.name for column in table.columns]
    for name in source.columns:
        if name not in ours:
            raise ConfigError(f"cannot use the sources file {path}: {table.name} has no column {name!r}; "
                              f"{nearest(name, ours)}")
    for column in table.columns:
        if column.required and column.name not in source.columns:
            raise ConfigError(f"cannot use the sources file {path}: {table.name}.{column.name} "
                              f"({column.description}) is not mapped; add `{column.name}: <your column>`")


def _expand(text: str, variables: Mapping[str, str], path: Path) -> str:
    def value(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = variables.get(name, default)
        if found is None:
            raise ConfigError(f"cannot use the sources file {path}: ${{{name}}} is not set in the environment")
        return found

    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, "\n".join(lines))


def read_table(table: Table, source: TableSource, *, root: Path) -> pl.DataFrame:
    """All rows of a source as text in our column names, with `_file` and `_line` (1-based, header included).

    Raises:
        DataError: no file, an empty one, one that is not UTF-8, or one that lacks a mapped column.
    """
    return pl.concat([_read_file(table, source, file) for file in find_files(table.name, source, root=root)])


def find_files(table: str, source: TableSource, *, root: Path) -> list[Path]:
    """The files of a source, sorted by name.

    Raises:
        DataError: there is none, or one is empty.
    """
    pattern = source.path if os.path.isabs(source.path) else str(root / source.path)
    files = [Path(file) for file in sorted(glob.glob(pattern))]
    if not files:
        raise DataError(f"cannot read {table}: no file matches {pattern}. Put the file there or change its path "
                        "in the sources file")
    for file in files:
        if file.stat().st_size == 0:
            raise DataError(f"cannot read {table}: {file} is empty (0 bytes); a CSV file needs a header and rows")
    return files


def _read_file(table: Table, source: TableSource, file: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        encoding = "not UTF-8; save it as UTF-8" if "utf-8" in reason.lower() or "utf8" in reason.lower() else reason
        raise DataError(f"cannot read {table.name}: {file} is {encoding}") from None
    for ours, theirs in source.columns.items():
        if theirs not in frame.columns:
            raise DataError(f"cannot read {table.name}: {file} has no column {theirs!r} (mapped to {ours}); "
                            f"{nearest(theirs, frame.columns)}")
    if frame.is_empty():
        raise DataError(f"cannot read {table.name}: {file} has a header but no rows")
    texts = [pl.col(theirs).cast(pl.String).alias(ours) for ours, theirs in source.columns.items()]
    return frame.select(*texts).with_columns(
        pl.lit(file.name).alias(FILE), pl.int_range(2, pl.len() + 2, dtype=pl.Int64).alias(LINE)
    )


def parse_text(text: pl.DataFrame, table: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Typed columns by the contract, and the cells that could not be parsed.

    Args:
        text: (n, k) all strings, as `read_table` gives it.

    Returns:
        `(typed, faults)`: n rows with every column of the table (an unmapped one is null), and one row a
        fault with `row` (0-based) and `reason`.
    """
    typed = text.select(
        *[_parsed(column, column.name in text.columns).alias(column.name) for column in table.columns], FILE, LINE
    )
    faults = [
        text.select(
            pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
            (_stripped(column.name).is_not_null() & typed[column.name].is_null()).alias("bad"),
        ).filter("bad").select("row", pl.lit(f"{column.name} is no {column.dtype}").alias("reason"))
        for column in table.columns
        if column.name in text.columns and column.dtype != "string"
    ]
    return typed, pl.concat(faults) if faults else pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String})


def _stripped(name: str) -> pl.Expr:
    stripped = pl.col(name).str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def _parsed(column: Column, mapped: bool) -> pl.Expr:
    if not mapped:
        return pl.lit(None, dtype=POLARS_TYPES[column.dtype])
    text = _stripped(column.name)
    if column.dtype == "string":
        return text
    if column.dtype == "timestamp":
        text = text.str.replace(r"Z$", "+00:00")
        return pl.coalesce(*[
            text.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC") for form in _FORMATS
        ])
    if column.dtype == "bool":
        return text.str.to_lowercase().replace_strict(
            {"true": True, "false": False, "1": True, "0": False}, default=None, return_dtype=pl.Boolean
        )
    return text.cast(POLARS_TYPES[column.dtype], strict=False)
