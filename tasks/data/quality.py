"""Data quality of a load. Reads the lake and earlier loads; writes the scorecard, in the load's transaction.

Measures what no single row tells (age, gaps, late and missing rows), and refuses a batch as a whole: then
nothing is written, and the last good state stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import Final

import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract, Dimension, Table
from models.errors import DataError
from models.gates.quality import DIMENSIONS, Measure, Score, Scorecard, count_scores, expected_rows, longest_gap
from tasks.home import Home
from tasks.data.manifest import committed_files
from tasks.tables import LOADS, QUALITY
from tasks.data.validate import event_column

CREATED: Final = "created_timestamp"
REASONS_KEPT: Final = 10


@dataclass(frozen=True)
class Arrived:
    """What was new of one table in a load, sorted out but not committed."""

    kept: pl.DataFrame  # typed rows with `created_timestamp`
    faults: pl.DataFrame  # of the rows that are not kept, as `find_faults` gives them
    measures: tuple[Measure, ...] = field(default_factory=tuple)  # of the source: a total that it gives, ...

    @property
    def bad(self) -> int:
        return self.faults["row"].n_unique()

    @property
    def rows(self) -> int:
        return len(self.kept) + self.bad


class BatchRefused(DataError):
    """A whole batch is refused; the scorecard says why."""

    def __init__(self, message: str, card: Scorecard) -> None:
        super().__init__(message)
        self.card = card


def judge_batch(
    arrived: Mapping[str, Arrived], contract: Contract, *, charter: Charter, home: Home, engine: sa.Engine,
    as_of: datetime,
) -> Scorecard:
    """The scorecard of a load that is about to be committed.

    Args:
        arrived: every table of the effective contract, in the order in which they were validated.

    Raises:
        BatchRefused: a limit of the charter's requirements is broken; the first table's first one is named.
        DataError: a table of the contract was not judged.
    """
    missing = [table.name for table in contract.present if table.name not in arrived]
    if missing:
        raise DataError(f"cannot judge the load as of {as_of:%Y-%m-%d}: nothing is known of {', '.join(missing)}. "
                        "Ingest every table of the sources file; nothing was written")
    scores: list[Score] = []
    for name, batch in arrived.items():
        table = contract.table(name)
        measures = [*_bad_rows(batch, charter), *_expected(name, batch, contract, charter, engine, as_of),
                    *_by_time(table, batch, charter, home, engine, as_of), *batch.measures]
        failing, reasons = _failing(batch)
        late, reason = _late_rows(table, batch, charter)
        failing["timeliness"], reasons["timeliness"] = late, [(reason, late)] if late else []
        scores += count_scores(name, batch.rows, failing, reasons, measures)
    card = Scorecard(as_of, tuple(scores))
    if card.broken:
        table_name, measure = card.broken[0]
        step = f". {measure.step}" if measure.step else ""
        raise BatchRefused(f"cannot accept {table_name} as of {as_of:%Y-%m-%d}: {measure.text}{step}; nothing was "
                           "written", card)
    return card


def _failing(
    batch: Arrived
) -> tuple[dict[Dimension, int], dict[Dimension, list[tuple[str, int]]]]:
    failing: dict[Dimension, int] = {}
    reasons: dict[Dimension, list[tuple[str, int]]] = {}
    for dimension in DIMENSIONS:
        faults = batch.faults.filter(pl.col("dimension") == dimension)
        failing[dimension] = faults["row"].n_unique()
        counted = faults.group_by("reason").agg(pl.col("row").n_unique()).sort(["row", "reason"],
                                                                               descending=[True, False])
        reasons[dimension] = [(reason, count) for reason, count in counted.head(REASONS_KEPT).iter_rows()]
    return failing, reasons


def _bad_rows(batch: Arrived, charter: Charter) -> list[Measure]:
    if not batch.rows:
        return []
    limit, share = charter.requirements.max_bad_share, batch.bad / batch.rows
    text = f"{batch.bad:,} of {batch.rows:,} new rows are bad ({share:.1%}), at most {limit:.1%} (max_bad_share)"
    dimension = "accuracy"
    if batch.bad:
        common = batch.faults.group_by("reason", "dimension").agg(pl.col("row").n_unique()).sort(
            ["row", "reason"], descending=[True, False]).row(0, named=True)
        text, dimension = f"{text}; most often: {common['reason']} ({common['row']:,})", common["dimension"]
    return [Measure(dimension, "bad rows", share, "share", text, limit,  # type: ignore[arg-type]  # a Dimension
                    step="Mend the source, or the rule in the contract")]


def _expected(
    name: str, batch: Arrived, contract: Contract, charter: Charter, engine: sa.Engine, as_of: datetime
) -> list[Measure]:
    expected = expected_rows(_history(engine, name), as_of, batch.rows)
    if expected is None:
        return [Measure("completeness", "arrived rows", None, "share of expected",
                        f"{batch.rows:,} new rows; too little is known to expect a number")]
    share, limit = expected.arrived / expected.rows, charter.requirements.least_row_share
    if name == contract.contacts:  # campaigns come and go: a month without one is no broken feed
        return [Measure("completeness", "arrived rows", share, "share of expected", f"{batch.rows:,} new rows")]
    span = f"{expected.days:.0f} day{'s' if expected.days >= 1.5 else ''}"
    text = (f"{expected.arrived:,} new rows in {span}, where {expected.rows:,.0f} were to be expected by the "
            f"{expected.loads} loads before ({share:.1%}), at least {limit:.1%} (least_row_share)")
    return [Measure("completeness", "arrived rows", share, "share of expected", text, limit, "at least",
                    step="Complete the batch, or lower the limit if this is right")]


def _history(engine: sa.Engine, name: str) -> list[tuple[datetime, int]]:
    """`as_of` and new rows of a table in every committed load, oldest first."""
    with engine.connect() as connection:
        loads = connection.execute(sa.select(LOADS.c.as_of, LOADS.c.counts).order_by(LOADS.c.as_of)).all()
    counted = [(datetime.fromisoformat(as_of), json.loads(counts).get(name)) for as_of, counts in loads]
    return [(as_of, counts["kept"] + counts["quarantined"]) for as_of, counts in counted if counts is not None]


def _by_time(
    table: Table, batch: Arrived, charter: Charter, home: Home, engine: sa.Engine, as_of: datetime
) -> list[Measure]:
    event, requirements = event_column(table).name, charter.requirements
    before = _newest(home, engine, table)
    here: datetime | None = batch.kept[event].max()  # type: ignore[assignment]  # a timestamp column
    newest = max((moment for moment in (before, here) if moment is not None), default=None)
    age_limit, gap_limit = requirements.max_data_age_days, requirements.max_missing_days
    age = None if newest is None else (as_of - newest) / timedelta(days=1)
    seen = "it has no rows" if newest is None else f"its newest event is of {newest:%Y-%m-%d}"
    # A table that not every source has (a customer list) may rest for months; orders may not.
    judged = not table.optional
    measures = [Measure(
        "timeliness", "age of newest event", age, "days",
        f"{seen}, at most {age_limit:g} days old may it be (max_data_age_days)" if judged else seen,
        age_limit if judged else None, step="Mend the feed or use an earlier AS_OF",
    )]
    if judged:
        measures.append(_gap(batch, event, before, age_limit if gap_limit is None else gap_limit,
                             "max_data_age_days" if gap_limit is None else "max_missing_days"))
    late, reason = _late_rows(table, batch, charter)
    if len(batch.kept):
        share, limit = late / len(batch.kept), requirements.max_late_share
        measures.append(Measure(
            "timeliness", "late rows", share, "share",
            f"{late:,} of {len(batch.kept):,} rows {reason} ({share:.1%}), at most {limit:.1%} (max_late_share)", limit,
            refuses=False,
        ))
    return measures


def _gap(batch: Arrived, event: str, before: datetime | None, limit: float, setting: str) -> Measure:
    """Days without an event since the newest one of earlier loads: an older gap was judged by its own load."""
    days: list[date] = batch.kept[event].dt.date().unique().to_list()
    since = [before.date()] if before is not None else []
    missing, first, last = longest_gap([*since, *(day for day in days if not since or day > since[0])])
    span = f", {first} to {last}" if missing else ""
    return Measure("completeness", "missing days", missing, "days in a row",
                   f"no event on {missing} days in a row{span}, at most {limit:g} ({setting})", limit,
                   step="Mend the feed, or raise max_missing_days if nothing happened then")


def _late_rows(table: Table, batch: Arrived, charter: Charter) -> tuple[int, str]:
    """How many kept rows were learnt of when a label of their day may have been called mature, and in words."""
    days = max(1, charter.problem.label_delay_days)
    delay = pl.col(CREATED) - pl.col(event_column(table).name)
    late: int = batch.kept.select((delay > timedelta(days=days)).sum()).item()
    return late, f"learnt of over {days} day{'s' if days > 1 else ''} after their event"


def _newest(home: Home, engine: sa.Engine, table: Table) -> datetime | None:
    """The newest event of the committed rows."""
    files = committed_files(home, engine, table.name)
    if not files:
        return None
    newest: datetime | None = pl.scan_parquet(files).select(pl.col(event_column(table).name).max()).collect().item()
    return newest


def record_scorecard(connection: sa.Connection, card: Scorecard) -> None:
    """Write a scorecard inside the load's transaction."""
    connection.execute(QUALITY.delete().where(QUALITY.c.as_of == card.as_of.isoformat()))
    for score in card.scores:
        connection.execute(QUALITY.insert().values(
            as_of=card.as_of.isoformat(), table_name=score.table, dimension=score.dimension, rows=score.rows,
            failing=score.failing, score=score.score, detail=json.dumps({
                "reasons": score.reasons, "measures": [asdict(measure) for measure in score.measures],
            }),
        ))


def read_scorecards(engine: sa.Engine) -> list[Scorecard]:
    """The scorecard of every committed load, oldest first."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(QUALITY).order_by(QUALITY.c.as_of)).mappings().all()
    cards: dict[str, list[Score]] = {}
    for row in rows:
        detail = json.loads(row["detail"])
        cards.setdefault(row["as_of"], []).append(Score(
            row["table_name"], row["dimension"], row["rows"], row["failing"],
            tuple((reason, count) for reason, count in detail["reasons"]),
            tuple(Measure(**measure) for measure in detail["measures"]),
        ))
    return [
        Scorecard(datetime.fromisoformat(as_of),
                  tuple(sorted(scores, key=lambda score: (score.table, DIMENSIONS.index(score.dimension)))))
        for as_of, scores in cards.items()
    ]
