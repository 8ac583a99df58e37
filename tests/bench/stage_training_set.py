"""The training set of six cuts: `join_point_in_time` by Feast, beside a bare DuckDB ASOF JOIN over the same files.

Imports, snapshots and labels are not measured: Feast and Ibis take seven CPU seconds to import, the last half second
of them at the first join of a process, so `prepare` joins one label. Opening the store and planning the query are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import duckdb
import polars as pl
import pyarrow as pa

from tasks.data.lake import snapshot_folder
from tasks.features.apply import apply_features, join_point_in_time
from tasks.features.snapshots import build_snapshot, read_labels
from tests.bench.measure import Pair
from tests.bench.world import AS_OF, CUTS, World

LABELLED: Final = CUTS[4:10]


@dataclass(frozen=True)
class State:
    world: World
    labels: pl.DataFrame


def prepare(world: World) -> State:
    """Twelve snapshots, the registry, and the labels of six cuts."""
    for cut in CUTS:
        build_snapshot(world.contract, None, home=world.home, engine=world.engine, cut=cut)
    apply_features(world.contract, world.home)
    labels = read_labels(world.contract, problem=world.charter.problem, home=world.home, engine=world.engine,
                         cuts=LABELLED, as_of=AS_OF)
    join_point_in_time(labels.head(1), world.contract, world.home)
    return State(world, labels)


def ours(state: State) -> pl.DataFrame:
    return join_point_in_time(state.labels, state.world.contract, state.world.home)


def unbucketed(state: State) -> pl.DataFrame:
    return join_point_in_time(state.labels, state.world.contract, state.world.home, entities_a_join=2**62)


def against(state: State) -> pa.Table:
    """What the join needs and nothing more: no check, no type of ours, no order, customers of any age."""
    contract = state.world.contract
    features = ", ".join(f'f."{name}"' for name in (contract.eligible, *contract.feature_names))
    files = snapshot_folder(state.world.home, contract.fingerprint) / "*.parquet"
    with duckdb.connect() as connection:
        connection.register("labels", state.labels.to_arrow())
        return connection.sql(f"""
            SELECT l.*, {features} FROM labels AS l ASOF LEFT JOIN read_parquet('{files}') AS f
            ON l."{contract.entity_key}" = f."{contract.entity_key}" AND l.event_timestamp >= f.event_timestamp
        """).to_arrow_table()


def same(seen: pl.DataFrame, bare: pa.Table) -> bool:
    """The bare join's rows, of who was eligible, in our types and order."""
    expected = pl.DataFrame(bare).filter("eligible").select(
        pl.col(name).cast(dtype) for name, dtype in seen.schema.items()
    ).sort("event_timestamp", "customer_id")
    return seen.equals(expected)


VARIANTS: Final = {"feast": Pair(prepare, ours, against, same, unbucketed)}
