"""Snapshots. Reads committed raw partitions; writes one snapshot partition a cut, and answers labels.

The SQL of the domain sees views, not files: the latest version of each row among those that had arrived,
and for features only what had happened before the cut. So a query cannot see the future by mistake.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import polars as pl
import sqlalchemy as sa

from models.charter import Problem
from models.contract import Column, Contract, Table
from models.errors import DataError
from tasks.home import Home
from tasks.ingest import CREATED, KEY, committed_loads
from tasks.lake import raw_partition, snapshot_folder, snapshot_partition, write_partition
from tasks.sources import POLARS_TYPES
from tasks.state import last_load
from tasks.validate import event_column

MEMORY_LIMIT: Final = "4GB"
_SQL_TYPES: Final = {
    "string": "VARCHAR", "int64": "BIGINT", "float64": "DOUBLE", "decimal": "DECIMAL(18,2)",
    "timestamp": "TIMESTAMP", "bool": "BOOLEAN",
}


def build_snapshot(
    contract: Contract, schema: Any, *, home: Home, engine: sa.Engine, cut: datetime
) -> Path:
    """The partition of a cut, computed if it is not there yet; a published one is never rewritten.

    Args:
        contract: the effective contract: its SQL runs, its columns are kept.
        schema: Pandera model of the snapshot; None for the contract of an older release, whose checks
            ran when it was made.

    Raises:
        DataError: the SQL does not give the contract's columns, or a value breaks its checks.
    """
    path = snapshot_partition(home, contract.fingerprint, cut)
    if not path.exists():
        _refuse_unloaded(engine, cut)
        frame = _query(contract, "snapshot.sql", home=home, engine=engine, known_by=cut, happened_before=cut,
                       values={"cut": cut, **contract.parameters})
        write_partition(_conform(frame, contract, schema, cut), path)
    write_contract(contract, home)
    return path


def write_contract(contract: Contract, home: Home) -> None:
    """Lay the contract beside the folder of its snapshots: what they are made of can be told without the code."""
    folder = snapshot_folder(home, contract.fingerprint)
    path = folder.with_name(f"{folder.name}.json")
    if not path.exists():
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        beside.write_text(contract.to_json(), encoding="utf-8")
        beside.rename(path)


def read_labels(
    contract: Contract, *, problem: Problem, home: Home, engine: sa.Engine, cuts: Sequence[datetime], as_of: datetime
) -> pl.DataFrame:
    """Mature labels: one row a known entity and cut: entity key, `event_timestamp` (the cut), label.

    Raises:
        DataError: a cut whose label is not mature at `as_of`.
    """
    _refuse_unloaded(engine, as_of)
    frames = []
    for cut in cuts:
        if cut + problem.maturity > as_of:
            raise DataError(f"cannot label the cut {cut:%Y-%m-%d} as of {as_of:%Y-%m-%d}: its label is mature on "
                            f"{cut + problem.maturity:%Y-%m-%d}")
        frame = _query(contract, "labels.sql", home=home, engine=engine, known_by=as_of, happened_before=None,
                       values={"cut": cut, "as_of": as_of, "window_end": cut + problem.horizon})
        frames.append(frame.select(contract.entity_key, pl.lit(cut, dtype=POLARS_TYPES["timestamp"]).alias(
            "event_timestamp"), pl.col(contract.label).cast(pl.Boolean)))
    return pl.concat(frames).sort("event_timestamp", contract.entity_key)


def _refuse_unloaded(engine: sa.Engine, moment: datetime) -> None:
    # What has not been loaded yet would be taken for what did not happen, and a snapshot is never rewritten.
    load = last_load(engine)
    if load is None or moment > load:
        known = "nothing was loaded" if load is None else f"the last load is of {load:%Y-%m-%d}"
        raise DataError(f"cannot look at the data as of {moment:%Y-%m-%d}: {known}. Run ingest first")


def first_event(contract: Contract, *, home: Home, engine: sa.Engine, as_of: datetime) -> datetime:
    """The earliest event of a table that is not optional, as known at `as_of`.

    Raises:
        DataError: there is none.
    """
    needed = [table for table in contract.present if not table.optional]
    moments = [
        moment
        for table in needed
        for load in committed_loads(engine)
        if table.name in load.counts
        for moment in [pl.scan_parquet(raw_partition(home, table.name, load.as_of)).filter(pl.col(CREATED) <= as_of)
                       .select(pl.col(event_column(table).name).min()).collect().item()]
        if moment is not None
    ]
    if not moments:
        raise DataError(f"cannot take features as of {as_of:%Y-%m-%d}: the lake has no rows of "
                        f"{', '.join(table.name for table in needed)}. Run ingest first")
    earliest: datetime = min(moments)
    return earliest.astimezone(UTC)


def _query(
    contract: Contract, sql: str, *, home: Home, engine: sa.Engine, known_by: datetime,
    happened_before: datetime | None,
    values: dict[str, object],
) -> pl.DataFrame:
    text = re.sub(r"--[^\n]*", "", contract.sql[sql])  # a parameter named only in a comment is not one
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT, "temp_directory": str(home.lake / "spill"),
        "autoinstall_known_extensions": False,  # nothing is downloaded at run time
    }
    with duckdb.connect(config=config) as connection:
        for table in contract.tables:
            connection.execute(_view(table, home, engine, known_by, happened_before))
        used = {name: value.replace(tzinfo=None) if isinstance(value, datetime) else value
                for name, value in values.items() if re.search(rf"\${name}\b", text)}
        try:
            return pl.DataFrame(connection.sql(text, params=used).to_arrow_table())
        except duckdb.Error as error:
            raise DataError(f"cannot run feature_repo/{sql}: {str(error).splitlines()[0]}") from error


def _view(table: Table, home: Home, engine: sa.Engine, known_by: datetime, happened_before: datetime | None) -> str:
    files = [str(raw_partition(home, table.name, load.as_of)) for load in committed_loads(engine)
             if table.name in load.counts]
    columns = ", ".join(_sql_column(column) for column in table.columns)
    if not files:
        empty = ", ".join(f'CAST(NULL AS {_SQL_TYPES[column.dtype]}) AS "{column.name}"' for column in table.columns)
        return f'CREATE VIEW "{table.name}" AS SELECT {empty} WHERE false'
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    event = event_column(table).name
    past = f'WHERE epoch_us("{event}") < {_micros(happened_before)}' if happened_before else ""
    return f"""
        CREATE VIEW "{table.name}" AS SELECT {columns} FROM (
            SELECT * FROM read_parquet([{quoted}])
            WHERE epoch_us({CREATED}) <= {_micros(known_by)}
            QUALIFY row_number() OVER (PARTITION BY {KEY} ORDER BY {CREATED} DESC, _content) = 1
        ) {past}"""


def _sql_column(column: Column) -> str:
    # Moments are UTC without a zone in SQL: arithmetic on zoned ones needs a DuckDB extension it would download.
    value = f'make_timestamp(epoch_us("{column.name}"))' if column.dtype == "timestamp" else f'"{column.name}"'
    return f'CAST({value} AS {_SQL_TYPES[column.dtype]}) AS "{column.name}"'


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _conform(frame: pl.DataFrame, contract: Contract, schema: Any, cut: datetime) -> pl.DataFrame:
    """The contract's columns, types and checks; a snapshot that breaks them is not published."""
    moment = pl.lit(cut, dtype=POLARS_TYPES["timestamp"])
    stamped = frame.with_columns(moment.alias("event_timestamp"), moment.alias("created_timestamp"))
    missing = [column.name for column in contract.snapshot if column.name not in stamped.columns]
    if missing:
        raise DataError(f"cannot take the snapshot of {cut:%Y-%m-%d}: snapshot.sql gives no column {missing[0]!r}")
    typed = stamped.select(_typed(column) for column in contract.snapshot).sort(contract.entity_key)
    if typed.is_empty():
        raise DataError(f"cannot take the snapshot of {cut:%Y-%m-%d}: no row had arrived before it. Use a later AS_OF")
    if typed[contract.entity_key].is_duplicated().any():
        raise DataError(f"cannot take the snapshot of {cut:%Y-%m-%d}: snapshot.sql gives an entity twice")
    if schema is not None:
        _check_values(typed, contract, schema, cut)
    return typed


def _typed(column: Column) -> pl.Expr:
    expression = pl.col(column.name).cast(POLARS_TYPES[column.dtype])
    return expression.fill_nan(None) if column.dtype == "float64" else expression


def _check_values(typed: pl.DataFrame, contract: Contract, schema: Any, cut: datetime) -> None:
    import pandera.polars as pa

    absent = [name for name in schema.to_schema().columns if name not in {column.name for column in contract.snapshot}]
    try:
        schema.to_schema().remove_columns(absent).validate(typed, lazy=True)
    except pa.errors.SchemaErrors as error:
        first = error.failure_cases.row(0, named=True)
        raise DataError(f"cannot publish the snapshot of {cut:%Y-%m-%d}: {first['column']} fails {first['check']} in "
                        f"{len(error.failure_cases):,} rows (value {first['failure_case']})") from None
