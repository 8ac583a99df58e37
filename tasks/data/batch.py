"""A batch: one table's rows of a load, sorted into kept, quarantined, re-delivered, forgotten and not yet arrived.

Reads the committed lake for the keys that it has; writes nothing. Every row is accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Table
from models.errors import DataError
from models.gates.quality import Measure
from tasks.data.delivery import WATERMARK, Delivery
from tasks.erasure.forgotten import forgotten_entities
from tasks.home import Home
from tasks.data.keys import CONTENT, CREATED, KEY, VERSION, drop_known, find_earlier, with_keys, with_versions
from tasks.data.quarantine import explained
from tasks.data.sources import FILE, LINE, MOMENT, as_text, parse_text
from tasks.data.validate import event_column, find_faults

BEGUN: Final = "_begun"  # whether any row of its file has arrived


@dataclass(frozen=True)
class Counts:
    """Rows of one table in one load; `rows_in` is always the sum of kept, quarantined, redelivered and forgotten."""

    rows_in: int
    kept: int
    quarantined: int
    redelivered: int
    forgotten: int = 0  # of people who were erased, dropped
    files_read: int = 0
    files_skipped: int = 0  # unchanged, and all of their rows had arrived
    waiting: int = 0  # not arrived by `as_of`, in files that have begun: no part of this load

    @property
    def line(self) -> str:
        """The sum in words."""
        forgotten = f" + {self.forgotten:,} of forgotten people" if self.forgotten else ""
        waiting = f"; {self.waiting:,} not arrived yet" if self.waiting else ""
        return (f"{self.rows_in:,} in = {self.kept:,} kept + {self.quarantined:,} quarantined + "
                f"{self.redelivered:,} re-delivered{forgotten}{waiting}")


@dataclass(frozen=True)
class Batch:
    """One table's rows of a load, sorted out."""

    kept: pl.DataFrame
    quarantined: pl.DataFrame
    counts: Counts
    faults: pl.DataFrame
    delivery: Delivery
    waiting: pl.DataFrame  # `_file`, `_begun` and, of a database, `_watermark` of rows that had not arrived yet

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the source says of itself, and what has not arrived: shown, for a moment far ahead is a mistake."""
        if not self.counts.waiting:
            return self.delivery.measures
        text = f"{self.counts.waiting:,} rows of files that have begun say that they arrive later"
        return (*self.delivery.measures, Measure("timeliness", "rows not arrived yet", self.counts.waiting, "rows",
                                                 text))


def sort_out(
    delivery: Delivery,
    table: Table,
    schema: Any,
    *,
    home: Home,
    engine: sa.Engine,
    known: Mapping[str, pl.DataFrame],
    charter: Charter,
    as_of: datetime,
    previous: datetime | None,
    mapped: set[str],
) -> Batch:
    """Sort a table's delivery out.

    Args:
        schema: the table's Pandera model.
        known: what `known_entities` says of the tables that this one refers to.
        previous: `as_of` of the load before.
        mapped: the columns the source has.

    Raises:
        DataError: the very first load finds no row, or rows do not add up.
    """
    typed, unparsed = parse_text(delivery.rows, table)
    unparsed = pl.concat([unparsed, delivery.unread])
    rows = with_arrival(typed, table, charter)
    moment = None
    if delivery.window is not None:
        rows, moment = rows.with_columns(delivery.rows[WATERMARK]), WATERMARK
    rows = with_keys(rows, table, mapped, moment=moment).with_row_index("row")
    here, waiting = _split_arrived(rows, as_of)
    if here.is_empty() and previous is None:
        first = rows.select(pl.col(CREATED).min().dt.to_string("%Y-%m-%d")).item()
        seen = f"its first row arrived {first}. Use that AS_OF or a later one" if first else (
            "its source has no rows by then. Use a later AS_OF, or mend the source")
        raise DataError(f"cannot ingest {table.name} as of {as_of:%Y-%m-%d}: {seen}")
    ours = _drop_forgotten(here, table, home, engine)
    earlier = find_earlier(ours, home=home, engine=engine, table=table.name)
    fresh = drop_known(ours, earlier)
    faults = find_faults(fresh.select(typed.columns), reindexed(unparsed, fresh["row"]), table, schema, known=known)
    reasons = explained(faults).sort("row")
    bad = pl.concat([fresh[reasons["row"]], reasons.drop("row")], how="horizontal")
    good = fresh.filter(~pl.int_range(pl.len()).is_in(reasons["row"].implode())) if len(reasons) else fresh
    kept = with_versions(good, earlier).select(
        *[column.name for column in table.columns], created_after(previous), KEY, CONTENT, VERSION, FILE, LINE
    )
    originals = delivery.rows[bad["row"]]
    quarantined = pl.concat([
        originals.select(as_text(originals[name]) for name in originals.columns if name in mapped),
        bad.select("reason", "dimensions", FILE, LINE, KEY, CONTENT),
    ], how="horizontal")
    counts = Counts(len(here), len(kept), len(bad), len(ours) - len(fresh), len(here) - len(ours),
                    len(delivery.files), delivery.files_skipped, int(waiting[BEGUN].sum()))
    if counts.rows_in != counts.kept + counts.quarantined + counts.redelivered + counts.forgotten:
        raise DataError(f"cannot account for every row of {table.name}: {counts}")
    return Batch(kept.sort(event_column(table).name, KEY, VERSION), quarantined, counts, faults, delivery, waiting)


def _split_arrived(rows: pl.DataFrame, as_of: datetime) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What has not arrived yet is no part of a load; a row without a readable time counts with its file."""
    late = (rows[CREATED] > as_of).fill_null(False)
    told = [name for name in (FILE, WATERMARK) if name in rows.columns]
    if not late.any():
        return rows, rows.select(*told, pl.lit(True).alias(BEGUN)).clear()
    begun = rows.group_by(FILE).agg((pl.col(CREATED).min() <= as_of).fill_null(True).alias("begun")).filter("begun")
    in_begun = rows[FILE].is_in(begun[FILE].implode())
    return rows.filter(~late & in_begun), rows.select(*told, in_begun.alias(BEGUN)).filter(late | ~in_begun)


def _drop_forgotten(rows: pl.DataFrame, table: Table, home: Home, engine: sa.Engine) -> pl.DataFrame:
    entity = table.column("entity_key")
    if entity is None or rows.is_empty():
        return rows
    gone = forgotten_entities(engine, home, rows[entity.name])
    return rows.filter(~gone) if gone.any() else rows


def created_after(previous: datetime | None) -> pl.Expr:
    """`created_timestamp`: a row that shows up after a load we committed was not known then, whatever it says."""
    if previous is None:
        return pl.col(CREATED)
    return pl.max_horizontal(CREATED, pl.lit(previous + timedelta(microseconds=1), dtype=MOMENT)).alias(CREATED)


def with_arrival(typed: pl.DataFrame, table: Table, charter: Charter) -> pl.DataFrame:
    """Add `created_timestamp` as it was delivered: the arrival column, or event time and the assumed delay."""
    event, arrival = event_column(table), table.column("arrival_time")
    assumed = pl.col(event.name) + pl.duration(days=charter.problem.assumed_delay_days)
    unmapped = arrival is None or typed[arrival.name].null_count() == len(typed)
    created = assumed if unmapped or arrival is None else pl.coalesce(pl.col(arrival.name), assumed)
    return typed.with_columns(created.cast(MOMENT).alias(CREATED))


def reindexed(unparsed: pl.DataFrame, positions: pl.Series) -> pl.DataFrame:
    """The faults of the parser for the rows at `positions`, numbered as those."""
    index = pl.DataFrame({"old": positions.cast(pl.Int64)}).with_row_index("new")
    joined = unparsed.join(index, left_on="row", right_on="old")
    return joined.select(pl.col("new").cast(pl.Int64).alias("row"), "reason")
