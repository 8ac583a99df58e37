"""The sample world as files: one CSV a table and month of arrival, a few rows of it spoiled."""

from collections.abc import Mapping
from itertools import count, cycle
from pathlib import Path

import numpy as np
import polars as pl

from examples.shop.dirt import CUSTOMER_SPOILS, ORDER_SPOILS, Spoil, spoil
from examples.shop.law import CHANNELS, DAY, PLANS, Ints, World
from examples.shop.world import Month, People

ORDERS = ("order_id", "customer_id", "ordered_at", "items", "amount", "arrived_at")
FIRST_SPOILED_ORDER = 9_000_000  # all clean numbers are lower


def write_files(folder: Path, world: World, people: People, months: list[Month]) -> None:
    """Write `customers/`, `orders/` and `truth/dirty.csv` into `folder`."""
    tables: list[tuple[str, pl.DataFrame, Mapping[str, Spoil]]] = [
        ("customers", customer_rows(world, people, months), CUSTOMER_SPOILS),
        ("orders", order_rows(world, months), ORDER_SPOILS),
    ]
    order_numbers = count(FIRST_SPOILED_ORDER)
    dirty: list[tuple[str, int, str]] = []
    for table, rows, spoils in tables:
        (folder / table).mkdir()
        whats = cycle(spoils)
        batches = rows.with_columns(pl.col("arrived_at").str.head(7).alias("month")).partition_by(
            "month", as_dict=True, include_key=False
        )
        for (month,), batch in sorted(batches.items()):
            file = f"{table}/{month}.csv"
            rng = np.random.default_rng([world.seed, 4, *map(ord, file)])
            mixed, spoiled = spoil(
                batch, spoils, share=world.dirty_share, whats=whats, order_numbers=order_numbers, rng=rng
            )
            mixed.write_csv(folder / file)
            dirty += [(file, line, what) for line, what in spoiled]
    (folder / "truth").mkdir()
    columns = {"file": pl.String, "line": pl.Int64, "what": pl.String}
    pl.DataFrame(dirty, schema=columns, orient="row").write_csv(folder / "truth" / "dirty.csv")


def customer_rows(world: World, people: People, months: list[Month]) -> pl.DataFrame:
    """A row a sign-up and a row a change of plan, by arrival; all columns strings.

    Those who signed up before the files begin are carried over on their first day: that is when their rows
    were written, and when they arrived.
    """
    # A stream each: so more months, or more customers in them, leave the earlier ones as they were.
    past, lead, soon, soon_changed = (np.random.default_rng([world.seed, 5, i]) for i in range(4))
    start = _seconds(world, 0)
    old = people.month < 0
    first_order = np.full(old.size, np.iinfo(np.int64).max)
    for month in months:
        np.minimum.at(first_order, month.order_customer, month.order_at)
    signed_up = first_order - lead.integers(60, 3_600, old.size)
    begin, end = (np.array([_seconds(world, int(m) + i) for m in people.month[old]]) for i in (0, 1))
    signed_up[old] = past.integers(begin, end)

    changed, changed_at, changed_plan = (
        np.concatenate([getattr(m, name) for m in months])
        for name in ("changed", "changed_at", "changed_plan")
    )
    customer = np.concatenate([np.arange(old.size), changed])
    updated = np.concatenate([np.where(old, start, signed_up), changed_at])
    plan = np.concatenate([people.plan, changed_plan])
    delay = np.where(old, 0, soon.integers(60, 3_600, old.size))
    arrived = updated + np.concatenate([delay, soon_changed.integers(60, 3_600, changed.size)])
    rows = pl.DataFrame(
        {
            "customer_id": customer_ids(customer),
            "updated_at": _times(updated),
            "signed_up_at": _times(signed_up[customer]),
            "birth_year": pl.Series((people.year - people.age)[customer]).cast(pl.String),
            "plan": np.array(PLANS)[plan],
            "channel": np.array(CHANNELS)[people.channel[customer]],
            "arrived_at": _times(arrived),
        }
    )
    return rows.sort("arrived_at", "customer_id", "updated_at")


def order_rows(world: World, months: list[Month]) -> pl.DataFrame:
    """A row an order, numbered in the order of their time, sorted by arrival; all columns strings."""
    customer, at, cents, items = (
        np.concatenate([getattr(m, f"order_{name}") for m in months])
        for name in ("customer", "at", "cents", "items")
    )
    by_time = np.lexsort((customer, at))
    customer, at, cents, items = customer[by_time], at[by_time], cents[by_time], items[by_time]
    arrived = at + np.concatenate([_delays(world, m) for m in months])
    rows = pl.DataFrame(
        {
            "order_id": pl.Series(np.arange(1, at.size + 1)).cast(pl.String).str.zfill(7),
            "customer_id": customer_ids(customer),
            "ordered_at": _times(at),
            "items": pl.Series(items).cast(pl.String),
            "cents": pl.Series(cents),
            "arrived_at": _times(arrived),
        }
    )
    amount = pl.format("{}.{}", pl.col("cents") // 100, (pl.col("cents") % 100).cast(pl.String).str.zfill(2))
    rows = rows.with_columns(pl.format("o{}", "order_id").alias("order_id"), amount.alias("amount"))
    return rows.select(ORDERS).sort("arrived_at", "order_id")


def customer_ids(customer: Ints) -> pl.Series:
    """Index to name: the first customer is c000001."""
    return "c" + pl.Series(customer + 1).cast(pl.String).str.zfill(6)


def _delays(world: World, month: Month) -> Ints:
    """Seconds from order to arrival: minutes or hours, and 1 to 4 days for the late ones."""
    rng = np.random.default_rng([world.seed, 6, month.month])
    n = month.order_at.size
    usual = rng.exponential(45 * 60, n).clip(60, DAY / 2)
    late = rng.uniform(DAY, 4 * DAY, n)
    return np.where(rng.random(n) < world.late_share, late, usual).astype(np.int64)


def _times(seconds: Ints) -> pl.Series:
    return pl.from_epoch(pl.Series(seconds), time_unit="s").dt.strftime("%Y-%m-%d %H:%M:%S")


def _seconds(world: World, month: int) -> int:
    return int(world.cut(month).timestamp())
