"""Sources. Reads the sources file, and parses cells by the contract; writes nothing.

A cell that cannot be parsed costs its row and not the file. What a source gives is read in
tasks/data/source_files.py and tasks/data/source_database.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import polars as pl
import yaml
from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator

from models.contract import Contract, Table
from models.errors import ConfigError, nearest

MOMENT: Final = pl.Datetime("us", "UTC")
PLACES: Final = 2  # of a decimal
POLARS_TYPES: Final[dict[str, pl.DataType]] = {
    "string": pl.String(), "int64": pl.Int64(), "float64": pl.Float64(), "decimal": pl.Decimal(18, PLACES),
    "timestamp": MOMENT, "bool": pl.Boolean(),
}
_FORMATS: Final = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f%#z",
                   "%Y-%m-%d %H:%M:%S%.f%#z")
_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
FILE: Final = "_file"
LINE: Final = "_line"


class TableSource(BaseModel, frozen=True, extra="forbid"):
    """Where one raw table is, and which of its columns is which of ours: files, or a query to a database."""

    columns: dict[str, str] = Field(description="ours: theirs")
    path: str | None = Field(None, min_length=1, description="CSV (also .csv.gz) or Parquet, a path or a glob")
    totals: str | None = Field(None, min_length=1, description="CSV: file, rows, and sums of columns by their names")
    database: SecretStr | None = Field(None, description="postgresql:// URL; credentials only as ${NAME}")
    query: str | None = Field(None, min_length=1, description="SELECT that gives the columns")
    watermark: str | None = Field(None, min_length=1, description="their column that says when a row landed")
    overlap_days: float = Field(1, ge=0, description="read again so many days before the watermark, for late rows")

    @model_validator(mode="after")
    def _one_kind(self) -> TableSource:
        if (self.path is None) == (self.database is None):
            raise ValueError("give it either a path or a database")
        belongs = {"path": ("totals",), "database": ("query", "watermark", "overlap_days")}
        other, mine = ("database", "path") if self.database is None else ("path", "database")
        strange = [name for name in belongs[other] if name in self.model_fields_set]
        if strange:
            raise ValueError(f"{strange[0]} belongs to a {other}, and it has a {mine}")
        lacking = [name for name in ("query", "watermark") if mine == "database" and getattr(self, name) is None]
        if lacking:
            raise ValueError(f"a database needs a {lacking[0]}")
        return self


class Sources(BaseModel, frozen=True, extra="forbid"):
    """The sources file."""

    tables: dict[str, TableSource]


def load_sources(path: Path, contract: Contract, *, variables: Mapping[str, str]) -> Sources:
    """Read and check a sources file.

    Raises:
        ConfigError: no such file, an unknown key, table or column, a needed column that is not mapped, a variable
            that is not set, a password that stands in the file, or both or neither of a path and a database.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        _refuse_passwords(raw, path)
        sources = Sources.model_validate(_expand(raw, variables, path))
    except FileNotFoundError:
        raise ConfigError(f"cannot read the sources file: {path} does not exist. Set CHURN_SOURCES to a file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the sources file {path}: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        raise ConfigError(f"cannot use the sources file {path}: {_in_words(error)}") from None
    for name, source in sources.tables.items():
        if name not in {table.name for table in contract.tables}:
            known = nearest(name, [table.name for table in contract.tables])
            raise ConfigError(f"cannot use the sources file {path}: unknown table {name!r}; {known}")
        _check_mapping(path, contract.table(name), source)
        if source.database is not None:
            _check_url(path, name, source.database.get_secret_value())
    return sources


def _in_words(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] == "extra_forbidden":
        known = TableSource.model_fields if len(fault["loc"]) > 1 else Sources.model_fields
        return f"{key}: unknown key; {nearest(str(fault['loc'][-1]), known)}"
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}"


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


def _refuse_passwords(raw: Any, path: Path) -> None:
    """Before anything is expanded: what stands in the file is not to be a secret."""
    tables = raw.get("tables") if isinstance(raw, dict) else None
    for name, source in (tables if isinstance(tables, dict) else {}).items():
        url = source.get("database") if isinstance(source, dict) else None
        literal = _VARIABLE.sub(lambda match: match.group(2) or "", url) if isinstance(url, str) else ""
        if re.search(r"//[^/?#]*:[^/?#]+@|[?&]password=[^&]|\bpassword\s*=", literal):
            raise ConfigError(f"cannot use the sources file {path}: tables.{name}.database holds a password. Put the "
                              "URL into an environment variable and write ${NAME}")


def _check_url(path: Path, table: str, url: str) -> None:
    """Never says what it saw: it may hold a password."""
    where = f"cannot use the sources file {path}: tables.{table}.database"
    try:
        parts = urlsplit(url)
        complete = bool(parts.path.strip("/")) and (parts.port or 5432) > 0
    except ValueError:
        raise ConfigError(f"{where} is no URL (host or port). Write postgresql://user@host:5432/name") from None
    if parts.scheme not in ("postgresql", "postgres") or not complete:
        raise ConfigError(f"{where} is no postgresql:// URL with a database's name. Write "
                          "postgresql://user@host:5432/name")
    if re.search(r"%(?![0-9A-Fa-f]{2})", url) or parts.netloc.count("@") > 1:
        raise ConfigError(f"{where} has a sign that has to be percent-encoded (@ as %40, % as %25)")


def _expand(value: Any, variables: Mapping[str, str], path: Path) -> Any:
    """`${NAME}` and `${NAME:-default}` in every text; after YAML is read, so that no value can be taken for YAML."""
    def found(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        text = variables.get(name, default)
        if text is None:
            raise ConfigError(f"cannot use the sources file {path}: ${{{name}}} is not set in the environment")
        return text

    if isinstance(value, dict):
        return {key: _expand(one, variables, path) for key, one in value.items()}
    if isinstance(value, list):
        return [_expand(one, variables, path) for one in value]
    return _VARIABLE.sub(found, value) if isinstance(value, str) else value


def parse_text(rows: pl.DataFrame, table: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Typed columns by the contract, and the cells that could not be parsed.

    Args:
        rows: (n, k) columns by our names, as text or in the types of a source that has types; `_file` and `_line`.

    Returns:
        `(typed, faults)`: n rows with every column of the table (an unmapped one is null), and one row a
        fault with `row` (0-based) and `reason`.
    """
    columns, faults = [], [pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String})]
    for column in table.columns:
        if column.name not in rows.columns:
            nothing = pl.Series(column.name, [None], dtype=POLARS_TYPES[column.dtype])
            columns.append(nothing.new_from_index(0, len(rows)))
            continue
        cells = _cells(rows[column.name])
        parsed = _parse(cells, column.dtype)
        if column.dtype == "decimal" and len(fine := _too_fine(cells, parsed)):
            parsed = _without(parsed, fine)
            faults.append(pl.DataFrame({"row": fine.cast(pl.Int64)}).with_columns(
                pl.lit(f"{column.name} has more than {PLACES} decimals").alias("reason")
            ))
            cells = _without(cells, fine)  # told already
        columns.append(parsed)
        if parsed.null_count() > cells.null_count():
            bad = (cells.is_not_null() & parsed.is_null()).arg_true().cast(pl.Int64)
            faults.append(pl.DataFrame({"row": bad}).with_columns(
                pl.lit(f"{column.name} is no {column.dtype}").alias("reason")
            ))
    return pl.DataFrame(columns).with_columns(rows[FILE], rows[LINE]), pl.concat(faults)


def as_text(cells: pl.Series) -> pl.Series:
    """Cells of any type as the quarantine keeps them: a moment in UTC without its zone, which is ISO 8601."""
    if isinstance(cells.dtype, pl.Datetime) and cells.dtype.time_zone is not None:
        cells = cells.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return cells.cast(pl.String)


def _cells(cells: pl.Series) -> pl.Series:
    """Without what means nothing is there: blanks around a text, an empty one, NaN (which is how pandas says null)."""
    if isinstance(cells.dtype, pl.Categorical | pl.Enum):
        cells = cells.cast(pl.String)
    if cells.dtype == pl.String:
        stripped = cells.str.strip_chars()
        empty = stripped == ""
        return stripped.set(empty, None) if empty.any() else stripped
    return cells.fill_nan(None) if cells.dtype.is_float() else cells


def _parse(cells: pl.Series, dtype: str) -> pl.Series:
    """Null where it cannot be done."""
    wanted = POLARS_TYPES[dtype]
    if dtype == "timestamp":
        return _moments(cells) if cells.dtype == pl.String else _as_moments(cells)
    if dtype == "bool" and cells.dtype != pl.Boolean:
        texts = cells.cast(pl.String).str.to_lowercase()
        return texts.replace_strict(
            {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}, default=None,
            return_dtype=pl.Boolean,
        )
    if dtype == "int64" and cells.dtype.is_float():
        return cells.to_frame().select(pl.when(pl.first() == pl.first().floor()).then(pl.first())).to_series().cast(
            wanted, strict=False)
    return cells.cast(wanted, strict=False)


def _too_fine(cells: pl.Series, parsed: pl.Series) -> pl.Series:
    """Positions of the numbers that would not be what was delivered once rounded to our places.

    A computed float is not exact (0.1 + 0.2): a difference up to 1e-6 is none.
    """
    if cells.dtype.is_integer():
        return pl.Series([], dtype=pl.UInt32)
    maybe = parsed.is_not_null()
    if cells.dtype == pl.String:
        maybe = maybe & cells.str.contains(rf"\.\d{{{PLACES}}}\d|[eE]")
    at = maybe.arg_true()
    change = cells.gather(at).cast(pl.Float64, strict=False) - parsed.gather(at).cast(pl.Float64)
    return at.filter((change.abs() > 1e-6).fill_null(False))


def _without(cells: pl.Series, at: pl.Series) -> pl.Series:
    kept = ~pl.int_range(pl.len(), dtype=pl.UInt32).is_in(at.implode())
    return cells.alias("cells").to_frame().select(pl.when(kept).then("cells").alias(cells.name)).to_series()


def _as_moments(cells: pl.Series) -> pl.Series:
    """Of a date its midnight, of a moment without a zone the same in UTC."""
    moments = cells.cast(pl.Datetime("us")) if not isinstance(cells.dtype, pl.Datetime) else cells
    if isinstance(moments.dtype, pl.Datetime) and moments.dtype.time_zone is None:
        moments = moments.dt.replace_time_zone("UTC")
    return moments.dt.convert_time_zone("UTC").cast(MOMENT)


def _moments(text: pl.Series) -> pl.Series:
    text = text.str.replace(r"[Zz]$", "+00:00")
    found = pl.Series(text.name, [None], dtype=MOMENT).new_from_index(0, len(text))
    for form in _FORMATS:  # the next one only for what is left: each costs as much as the first
        left = (found.is_null() & text.is_not_null()).arg_true()
        if left.is_empty():
            break
        rest = text if len(left) == len(text) else text.gather(left)
        parsed = rest.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")
        found = parsed if len(left) == len(text) else found.scatter(left, parsed)
    return found
