"""SQL over the lake. Reads committed raw partitions as views of what was known at a moment; writes nothing.

The SQL of the domain sees these views, not files: the latest version of each row among those that had
arrived, and for features only what had happened before the cut. So it cannot see the future by mistake.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import duckdb
import polars as pl
import psutil
import sqlalchemy as sa

from models.contract import Column, Contract, Table
from models.errors import DataError
from tasks.home import MEMORY_LIMIT, Home, check_memory_limit
from tasks.data.keys import CREATED, KEY, VERSION
from tasks.data.manifest import committed_files
from tasks.data.validate import event_column

_FROM, _UNTIL = "_known_from", "_known_until"
_SQL_TYPES: Final = {
    "string": "VARCHAR", "int64": "BIGINT", "float64": "DOUBLE", "decimal": "DECIMAL(18,2)",
    "timestamp": "TIMESTAMP", "bool": "BOOLEAN",
}


@contextmanager
def open_lake(
    contract: Contract, *, home: Home, engine: sa.Engine, known_by: datetime, side_by_side: bool = False,
    memory_limit: str = MEMORY_LIMIT,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database over the raw tables' history; `show_tables` then says which moment the SQL sees.

    Args:
        known_by: rows that arrived later are not read.
        side_by_side: for several moments, each in a cursor and thread of its own: the files are read once, into the
            database, and a query takes one thread, which costs a sixth less CPU than sharing it.
        memory_limit: what DuckDB may hold, "4GB"; the rest goes to a folder of its own, removed afterwards.

    Raises:
        ConfigError: the memory limit cannot be read.
        DataError: the files cannot be read, or not within the limit.
    """
    check_memory_limit(memory_limit)
    with spill_folder(home) as spill:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit, "temp_directory": spill,
            "preserve_insertion_order": False,  # who needs an order sorts; keeping one takes memory
            **({"threads": 1} if side_by_side else {}),
            "autoinstall_known_extensions": False,  # nothing is downloaded at run time
        }
        with duckdb.connect(config=config) as connection:
            try:
                for table in contract.tables:
                    files = [str(file) for file in committed_files(home, engine, table.name)]
                    connection.execute(f"CREATE {'TABLE' if side_by_side else 'VIEW'} {_history_of(table)} AS "
                                       f"{_history(connection, table, files, known_by)}")
            except duckdb.OutOfMemoryException as error:
                raise DataError(f"cannot read the lake within {memory_limit}: {_first_line(error)}. Raise "
                                "CHURN_MEMORY_LIMIT") from error
            except duckdb.Error as error:
                raise DataError(f"cannot read the lake: {_first_line(error)}. Ingest into another CHURN_HOME, if an "
                                "older version wrote it") from error
            yield connection


@contextmanager
def spill_folder(home: Home) -> Iterator[str]:
    """A folder for what DuckDB puts to disk, removed afterwards; those of killed processes as well."""
    home.lake.mkdir(parents=True, exist_ok=True)
    for left in home.lake.glob(".spill-*"):  # of a process that was killed
        if not psutil.pid_exists(int(left.name.split("-")[1])):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".spill-{os.getpid()}-", dir=home.lake) as folder:
        yield folder


def show_tables(
    connection: duckdb.DuckDBPyConnection, contract: Contract, *, known_by: datetime,
    happened_before: datetime | None = None,
) -> None:
    """Make each raw table, by its name, what was known at a moment: the latest version of each row by then.

    Args:
        happened_before: events at it or later are not there; None: all.
    """
    known = f"{_FROM} <= {_moment(known_by)} AND ({_UNTIL} IS NULL OR {_UNTIL} > {_moment(known_by)})"
    for table in contract.tables:
        happened = ""
        if happened_before is not None:
            happened = f' AND "{event_column(table).name}" < {_moment(happened_before, zone=False)}'
        connection.execute(f'CREATE OR REPLACE TEMP VIEW "{table.name}" AS SELECT * EXCLUDE ({_FROM}, {_UNTIL}) '
                           f'FROM {_history_of(table)} WHERE {known}{happened}')


def run_sql(
    connection: duckdb.DuckDBPyConnection, text: str, *, name: str, values: Mapping[str, object]
) -> pl.DataFrame:
    """The rows of a query of the domain, in no order.

    Args:
        name: the file in feature_repo/, for the error.
        values: parameters by name; those the query does not use are left out.

    Raises:
        DataError: DuckDB cannot run it.
    """
    bare = re.sub(r"--[^\n]*", "", text)  # a parameter named only in a comment is not one
    used = {parameter: value.replace(tzinfo=None) if isinstance(value, datetime) else value
            for parameter, value in values.items() if re.search(rf"\${parameter}\b", bare)}
    try:
        return pl.DataFrame(connection.sql(bare, params=used).to_arrow_table())
    except duckdb.OutOfMemoryException as error:
        raise DataError(f"cannot run feature_repo/{name}: {_first_line(error)}. Raise CHURN_MEMORY_LIMIT") from error
    except duckdb.Error as error:
        raise DataError(f"cannot run feature_repo/{name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _history_of(table: Table) -> str:
    return f'"history of {table.name}"'


def _history(connection: duckdb.DuckDBPyConnection, table: Table, files: Sequence[str], known_by: datetime) -> str:
    """Every version of every row, with the moments it was known from and until (null: still)."""
    if not files:
        empty = ", ".join(f'CAST(NULL AS {_SQL_TYPES[column.dtype]}) AS "{column.name}"' for column in table.columns)
        return f"SELECT {empty}, {_moment(known_by)} AS {_FROM}, {_moment(known_by)} AS {_UNTIL} WHERE false"
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    arrived = f"FROM read_parquet([{quoted}]) WHERE {CREATED} <= {_moment(known_by)}"
    columns = ", ".join(_sql_column(column) for column in table.columns)
    # Few rows are ever corrected: only their keys are ordered by arrival, the others are read without their key.
    corrected = f'"corrected {table.name}"'
    connection.execute(f"CREATE TABLE {corrected} AS SELECT DISTINCT {KEY} {arrived} AND {VERSION} > 0")
    if not connection.sql(f"FROM {corrected} LIMIT 1").fetchall():
        return f"SELECT {columns}, {CREATED} AS {_FROM}, CAST(NULL AS TIMESTAMPTZ) AS {_UNTIL} {arrived}"
    return f"""
        SELECT {columns}, {CREATED} AS {_FROM}, CAST(NULL AS TIMESTAMPTZ) AS {_UNTIL}
        FROM (SELECT * {arrived}) ANTI JOIN {corrected} USING ({KEY})
        UNION ALL
        SELECT {columns}, {CREATED} AS {_FROM},
            lead({CREATED}) OVER (PARTITION BY {KEY} ORDER BY {CREATED}, {VERSION}) AS {_UNTIL}
        FROM (SELECT * {arrived}) SEMI JOIN {corrected} USING ({KEY})"""


def _sql_column(column: Column) -> str:
    # Moments are UTC without a zone in SQL: arithmetic on zoned ones needs a DuckDB extension it would download.
    value = f'make_timestamp(epoch_us("{column.name}"))' if column.dtype == "timestamp" else f'"{column.name}"'
    return f'CAST({value} AS {_SQL_TYPES[column.dtype]}) AS "{column.name}"'


def _moment(moment: datetime, *, zone: bool = True) -> str:
    # A literal of the column's own type: with a function around the column DuckDB could skip no row group.
    text = moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
    return f"TIMESTAMPTZ '{text}+00'" if zone else f"TIMESTAMP '{text}'"
