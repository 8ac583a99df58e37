"""Snapshots. Reads committed raw partitions; writes one snapshot partition a cut, and answers labels.

The SQL of the domain sees views, not files: the latest version of each row among those that had arrived,
and for features only what had happened before the cut. So a query cannot see the future by mistake.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import sqlalchemy as sa

from models.charter import Problem
from models.contract import Column, Contract
from models.errors import DataError
from tasks.data.keys import CREATED
from tasks.data.lake import snapshot_folder, snapshot_partition, write_partition
from tasks.data.lake_sql import open_lake, run_sql, show_tables
from tasks.data.manifest import committed_files
from tasks.data.sources import POLARS_TYPES
from tasks.data.validate import event_column
from tasks.home import MEMORY_LIMIT, Home
from tasks.state import last_load


def build_snapshot(
    contract: Contract, schema: Any, *, home: Home, engine: sa.Engine, cut: datetime, memory_limit: str = MEMORY_LIMIT,
) -> Path:
    """The partition of a cut, computed if it is not there yet; a published one is never rewritten.

    Args:
        contract: the effective contract: its SQL runs, its columns are kept.
        schema: Pandera model of the snapshot; None for the contract of an older release, whose checks
            ran when it was made.
        memory_limit: what DuckDB may hold, "4GB"; it changes no byte of the partition.

    Raises:
        DataError: the SQL does not give the contract's columns, or a value breaks its checks.
    """
    return build_snapshots(contract, schema, home=home, engine=engine, cuts=[cut], memory_limit=memory_limit)[0]


def build_snapshots(
    contract: Contract, schema: Any, *, home: Home, engine: sa.Engine, cuts: Sequence[datetime],
    memory_limit: str = MEMORY_LIMIT,
) -> list[Path]:
    """The partitions of several cuts, each as `build_snapshot` would make it, from one reading of the lake."""
    paths = {cut: snapshot_partition(home, contract.fingerprint, cut) for cut in cuts}
    wanted = [cut for cut, path in paths.items() if not path.exists()]
    for cut in wanted:
        _refuse_unloaded(engine, cut)
    if wanted:
        several = len(wanted) > 1
        with (
            open_lake(contract, home=home, engine=engine, known_by=max(wanted), side_by_side=several,
                      memory_limit=memory_limit) as lake,
            ThreadPoolExecutor(os.cpu_count() if several else 1) as threads,
        ):
            taken = [threads.submit(_take, lake, contract, schema, cut, paths[cut]) for cut in wanted]
            for one in taken:
                one.result()
    write_contract(contract, home)
    return list(paths.values())


def _take(lake: duckdb.DuckDBPyConnection, contract: Contract, schema: Any, cut: datetime, path: Path) -> None:
    with lake.cursor() as cursor:
        show_tables(cursor, contract, known_by=cut, happened_before=cut)
        rows = run_sql(cursor, contract.sql["snapshot.sql"], name="snapshot.sql",
                       values={"cut": cut, **contract.parameters})
    write_partition(_conform(rows, contract, schema, cut), path)


def write_contract(contract: Contract, home: Home) -> None:
    """Lay the contract beside the folder of its snapshots: what they are made of can be told without the code."""
    folder = snapshot_folder(home, contract.fingerprint)
    path = folder.with_name(f"{folder.name}.json")
    if not path.exists():
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        beside.write_text(contract.to_json(), encoding="utf-8")
        beside.rename(path)


def read_labels(
    contract: Contract, *, problem: Problem, home: Home, engine: sa.Engine, cuts: Sequence[datetime], as_of: datetime,
    memory_limit: str = MEMORY_LIMIT,
) -> pl.DataFrame:
    """Mature labels: one row a known entity and cut: entity key, `event_timestamp` (the cut), label.

    Raises:
        DataError: a cut whose label is not mature at `as_of`.
    """
    rows = read_targets(contract, contract.sql["labels.sql"], name="labels.sql", problem=problem, home=home,
                        engine=engine, cuts=cuts, as_of=as_of, memory_limit=memory_limit)
    return rows.with_columns(pl.col(contract.label).cast(pl.Boolean))


def read_targets(
    contract: Contract, sql: str, *, name: str, problem: Problem, home: Home, engine: sa.Engine,
    cuts: Sequence[datetime], as_of: datetime, memory_limit: str = MEMORY_LIMIT,
) -> pl.DataFrame:
    """What a query says happened in [cut, cut + horizon), as known at `as_of`; sorted by cut and entity.

    Args:
        sql: takes $cut, $window_end and $as_of; gives the entity key and one more column.
        name: its file in feature_repo/, for errors.

    Raises:
        DataError: a cut whose label is not mature at `as_of`.
    """
    _refuse_unloaded(engine, as_of)
    for cut in cuts:
        if cut + problem.maturity > as_of:
            raise DataError(f"cannot label the cut {cut:%Y-%m-%d} as of {as_of:%Y-%m-%d}: its label is mature on "
                            f"{cut + problem.maturity:%Y-%m-%d}")
    with open_lake(contract, home=home, engine=engine, known_by=as_of, memory_limit=memory_limit) as lake:
        show_tables(lake, contract, known_by=as_of)
        frames = [
            run_sql(lake, sql, name=name, values={"cut": cut, "as_of": as_of, "window_end": cut + problem.horizon})
            .with_columns(pl.lit(cut, dtype=POLARS_TYPES["timestamp"]).alias("event_timestamp"))
            for cut in cuts
        ]
    columns = [contract.entity_key, "event_timestamp"]
    return pl.concat(frames).select(*columns, pl.exclude(columns)).sort("event_timestamp", contract.entity_key)


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
        for file in committed_files(home, engine, table.name)
        for moment in [pl.scan_parquet(file).filter(pl.col(CREATED) <= as_of)
                       .select(pl.col(event_column(table).name).min()).collect().item()]
        if moment is not None
    ]
    if not moments:
        raise DataError(f"cannot take features as of {as_of:%Y-%m-%d}: the lake has no rows of "
                        f"{', '.join(table.name for table in needed)}. Run ingest first")
    earliest: datetime = min(moments)
    return earliest.astimezone(UTC)


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
    entity = typed[contract.entity_key]
    if (entity == entity.shift()).any():  # sorted, so that twins are neighbours
        raise DataError(f"cannot take the snapshot of {cut:%Y-%m-%d}: snapshot.sql gives an entity twice")
    if schema is not None:
        _check_values(typed, schema, cut)
    return typed


def _typed(column: Column) -> pl.Expr:
    expression = pl.col(column.name).cast(POLARS_TYPES[column.dtype])
    return expression.fill_nan(None) if column.dtype == "float64" else expression


def _check_values(typed: pl.DataFrame, schema: Any, cut: datetime) -> None:
    import pandera.polars as pa

    checks = _checks(schema, tuple(typed.columns))
    if _pass_all(typed, checks):
        return
    try:
        checks.validate(typed, lazy=True)
    except pa.errors.SchemaErrors as error:
        first = error.failure_cases.row(0, named=True)
        raise DataError(f"cannot publish the snapshot of {cut:%Y-%m-%d}: {first['column']} fails {first['check']} in "
                        f"{len(error.failure_cases):,} rows (value {first['failure_case']})") from None


@lru_cache
def _checks(schema: Any, columns: tuple[str, ...]) -> Any:
    """The Pandera schema of the columns there are, made once: a backfill takes many snapshots."""
    whole = schema.to_schema()
    return whole.remove_columns([name for name in whole.columns if name not in columns])


def _pass_all(typed: pl.DataFrame, checks: Any) -> bool:
    """Whether every row passes, asked in one expression; False also where a check is none of the usual ones.

    Pandera takes a millisecond and a half a column however few the rows; it is asked when something fails,
    for it says what, and whenever a check is not known here.
    """
    rules = []
    for name, column in checks.columns.items():
        if not column.nullable:
            rules.append(pl.col(name).is_not_null())
        for check in column.checks:
            if check.name == "greater_than_or_equal_to":
                rules.append(pl.col(name) >= check.statistics["min_value"])
            elif check.name == "less_than_or_equal_to":
                rules.append(pl.col(name) <= check.statistics["max_value"])
            elif check.name == "isin":
                rules.append(pl.col(name).is_in(list(check.statistics["allowed_values"])))
            else:
                return False
    return all(typed.select(rule.all().alias(str(number)) for number, rule in enumerate(rules)).row(0))
