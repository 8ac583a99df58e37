"""The snapshots stage against one DuckDB statement: the same numbers at all twelve cuts, written to Parquet.

The statement reads each raw file once, stands an integer for each customer (the fastest of four we wrote: joined
with the cuts or a query a cut, by integer or as they are) and asks the same aggregates. It checks nothing, sorts
nothing, and knows that no row of this world was ever corrected.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import polars as pl

from feature_repo.contract import Snapshot
from tasks.data.lake import snapshot_folder
from tasks.data.manifest import committed_files
from tasks.features.snapshots import build_snapshot, build_snapshots
from tests.bench.measure import Pair
from tests.bench.world import CUTS, World


@dataclass(frozen=True)
class State:
    """A lake without snapshots, and where the other side writes."""

    world: World
    statement: str


def prepare(world: World) -> State:
    """Fill the lake, drop its snapshots, write down the statement; not timed."""
    world.fill_lake()
    shutil.rmtree(snapshot_folder(world.home, world.contract.fingerprint), ignore_errors=True)
    return State(world, _statement(world))


def ours(state: State) -> list[Path]:
    """All cuts in one call, as training asks for them."""
    world = state.world
    return build_snapshots(world.contract, Snapshot, home=world.home, engine=world.engine, cuts=CUTS)


def one_by_one(state: State) -> list[Path]:
    """A call a cut, as a nightly schedule asks for them."""
    world = state.world
    return [build_snapshot(world.contract, Snapshot, home=world.home, engine=world.engine, cut=cut) for cut in CUTS]


def against(state: State) -> Path:
    """The statement, with what it gives as one file."""
    path = state.world.folder / "against.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({state.statement}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
    return path


def same(ours_result: Sequence[Path], against_result: Path) -> bool:
    """Every value of every customer and cut."""
    mine = pl.concat([pl.read_parquet(path) for path in ours_result]).drop("created_timestamp")
    theirs = pl.read_parquet(against_result).with_columns(
        pl.col("cut").dt.replace_time_zone("UTC").alias("event_timestamp")
    ).select(mine.columns).with_columns(pl.col(name).cast(dtype) for name, dtype in mine.schema.items())
    order = ["event_timestamp", "customer_id"]
    return len(mine) > 0 and mine.sort(order).equals(theirs.sort(order))


def _statement(world: World) -> str:
    queries = " UNION ALL ".join(f"SELECT {_moment(cut)} AS cut, * FROM ({_at(world, cut)})" for cut in CUTS)
    return f"""
        WITH ids AS MATERIALIZED (
            SELECT name, CAST(row_number() OVER () AS INTEGER) AS customer_id
            FROM (SELECT DISTINCT customer_id AS name FROM {_files(world, "orders")})
        ),
        all_orders AS MATERIALIZED (
            SELECT ids.customer_id, make_timestamp(epoch_us(ordered_at)) AS ordered_at, items, amount,
                make_timestamp(epoch_us(created_timestamp)) AS created
            FROM {_files(world, "orders")} AS raw JOIN ids ON raw.customer_id = ids.name
        ),
        all_customers AS MATERIALIZED (
            SELECT ids.customer_id, make_timestamp(epoch_us(updated_at)) AS updated_at,
                make_timestamp(epoch_us(signed_up_at)) AS signed_up_at, birth_year, plan, channel,
                make_timestamp(epoch_us(created_timestamp)) AS created
            FROM {_files(world, "customers")} AS raw JOIN ids ON raw.customer_id = ids.name
        )
        SELECT name AS customer_id, q.* EXCLUDE (customer_id) FROM ({queries}) AS q JOIN ids USING (customer_id)"""


def _at(world: World, cut: datetime) -> str:
    moment = _moment(cut)
    sql = re.sub(r"--[^\n]*", "", world.contract.sql["snapshot.sql"])
    sql = sql.replace("$cut", moment).replace("$eligible_within_days", "60")
    for table, event in (("orders", "ordered_at"), ("customers", "updated_at")):
        sql = sql.replace(f"FROM {table}\n", f"FROM (SELECT * FROM all_{table} WHERE {event} < {moment} "
                                             f"AND created <= {moment})\n")
    return sql


def _files(world: World, table: str) -> str:
    files = ", ".join(f"'{file}'" for file in committed_files(world.home, world.engine, table))
    return f"read_parquet([{files}])"


def _moment(cut: datetime) -> str:
    return f"TIMESTAMP '{cut.replace(tzinfo=None)}'"


VARIANTS = {"duckdb": Pair(prepare, ours, against, same), "one_by_one": Pair(prepare, one_by_one, against, same)}
