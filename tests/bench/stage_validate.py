"""The validate stage against a mask written by hand: the same checks, the same bad rows, planted by `prepare`.

The harness calls `ours` and `against` in processes of their own, and compares with `same`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from feature_repo.contract import RAW_TABLES
from models.contract import Table
from tasks.data.sources import FILE, LINE
from tasks.data.validate import find_faults, known_entities
from tests.bench.measure import Pair
from tests.bench.world import World

BAD_SHARE: Final = 0.005  # as in the sample world, in turn by kind
PLANTED: Final = 7  # kinds


@dataclass(frozen=True)
class State:
    """Typed rows as the parser hands them over, and what is known of the customers."""

    orders: pl.DataFrame
    unparsed: pl.DataFrame
    customers: pl.DataFrame
    table: Table


def prepare(world: World) -> State:
    """Read the world's source files and spoil some orders; not timed."""
    if not (world.folder / "orders").exists():
        world.write_sources()
    orders = pl.concat([
        pl.read_parquet(file).with_columns(
            pl.lit(file.name).alias(FILE), pl.int_range(2, pl.len() + 2, dtype=pl.Int64).alias(LINE)
        ) for file in sorted((world.folder / "orders").glob("*.parquet"))
    ])
    every = int(1 / BAD_SHARE)
    nth = pl.int_range(pl.len())
    kind = pl.when(nth % every == every - 1).then(nth // every % PLANTED).otherwise(-1)
    orders = orders.with_columns(kind.alias("kind")).with_columns(
        pl.when(pl.col("kind") == 0).then(-pl.col("amount")).otherwise("amount").alias("amount"),
        pl.when(pl.col("kind") == 1).then(pl.lit(0)).otherwise("items").alias("items"),
        pl.when(pl.col("kind") == 2).then(None).when(pl.col("kind") == 3).then(pl.lit("nobody"))
        .otherwise("customer_id").alias("customer_id"),
        pl.when(pl.col("kind") == 4).then(pl.col("arrived_at") + pl.duration(hours=1))
        .when(pl.col("kind") == 5).then(pl.col("ordered_at") - pl.duration(days=4000))
        .otherwise("ordered_at").alias("ordered_at"),
        pl.when(pl.col("kind") == 6).then(pl.col("order_id").shift(1)).otherwise("order_id").alias("order_id"),
    ).drop("kind")
    customers = [pl.scan_parquet(file) for file in sorted((world.folder / "customers").glob("*.parquet"))]
    return State(orders, pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String}),
                 known_entities(world.contract, "customers", customers), world.contract.table("orders"))


def ours(state: State) -> pl.Series:
    """Rows with a fault, by the contract."""
    faults = find_faults(
        state.orders, state.unparsed, state.table, RAW_TABLES["orders"], known={"customers": state.customers}
    )
    return faults["row"].unique().sort()


def against(state: State) -> pl.Series:
    """Rows with a fault, by a mask over the columns, as fast as we could write it; it knows no reasons."""
    rows = state.orders
    customers = state.customers.select("customer_id", pl.col("signed_up_at").alias("_signed"))
    # Everybody known has signed up, so one join answers both who is unknown and who ordered too early.
    signed = rows.select("customer_id").join(customers, on="customer_id", how="left", maintain_order="left")["_signed"]
    good = rows.select(
        (
            pl.col("ordered_at").is_between(signed, pl.col("arrived_at"))
            & pl.col("items").is_between(1, 10_000) & pl.col("amount").is_between(0, 1_000_000)
        ).fill_null(False)
    ).to_series()
    shared = rows["order_id"].hash().is_duplicated().arg_true()
    candidates = rows[shared].select("order_id", FILE, shared.alias("row"), good[shared].alias("good"))
    repeated = candidates.filter("good").filter(pl.int_range(pl.len()).over("order_id", FILE) > 0)["row"]
    return pl.concat([(~good).arg_true(), repeated]).sort().cast(pl.Int64)


def same(ours_result: pl.Series, against_result: pl.Series) -> bool:
    """Both found the same rows, and the planted ones are among them."""
    return ours_result.to_list() == against_result.to_list() and len(ours_result) > 0


VARIANTS: Final = {"polars": Pair(prepare, ours, against, same)}
