"""The scorecard of a load: how good its rows are, by table and dimension of data quality (DAMA).

Overall is the weakest dimension of any table, never the mean: a mean hides the one that is broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Final, Literal, get_args

from models.contract import Dimension

DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)
LEAST_RATES: Final = 3  # loads that must have brought rows before a load can be called small
LOOK_BACK: Final = 30  # of them, the latest
LEAST_EXPECTED: Final = 30  # rows; below that a quiet day is as small by chance


@dataclass(frozen=True)
class Measure:
    """One number about a table's load, and the limit it has to keep."""

    dimension: Dimension
    name: str
    value: float | None  # None: cannot be told
    unit: str
    text: str  # value, limit and setting in words, as a refusal prints them
    limit: float | None = None  # None: shown, not judged
    sense: Literal["at most", "at least"] = "at most"
    refuses: bool = True  # a broken limit refuses the batch; else it is only shown
    step: str = ""  # what to do about a broken limit

    @property
    def kept(self) -> float:
        """1 within the limit; beyond it the share of the limit kept, and 0 for a value that cannot be told."""
        if self.limit is None:
            return 1.0
        if self.value is None:
            return 0.0
        small, large = (self.limit, self.value) if self.sense == "at most" else (self.value, self.limit)
        return 1.0 if large <= small else small / large

    @property
    def broken(self) -> bool:
        return self.kept < 1


@dataclass(frozen=True)
class Score:
    """One dimension of one table in one load."""

    table: str
    dimension: Dimension
    rows: int  # new in this load
    failing: int  # distinct rows with a fault of this dimension; of timeliness: rows that landed late
    reasons: tuple[tuple[str, int], ...] = ()  # wording and rows, the commonest first
    measures: tuple[Measure, ...] = ()

    @property
    def score(self) -> float | None:
        """1 - failing / rows, or less where a measure breaks its limit; None without rows or a broken limit."""
        kept = min((measure.kept for measure in self.measures if measure.refuses), default=1.0)
        if not self.rows:
            return kept if kept < 1 else None
        return min(1 - self.failing / self.rows, kept)

    @property
    def blame(self) -> str:
        """The check or measure that costs most."""
        broken = sorted((measure for measure in self.measures if measure.broken and measure.refuses),
                        key=lambda measure: measure.kept)
        if broken and (not self.rows or broken[0].kept <= 1 - self.failing / self.rows):
            return broken[0].text
        if not self.reasons:
            return "no row fails"
        reason, count = self.reasons[0]
        if count < self.failing:
            return f"{self.failing:,} of {self.rows:,} rows, most often: {reason}"
        return f"{reason}: {count:,} of {self.rows:,} rows"


@dataclass(frozen=True)
class Scorecard:
    """Every dimension of every table in one load."""

    as_of: datetime
    scores: tuple[Score, ...]

    @property
    def weakest(self) -> Score | None:
        """The lowest score; None where nothing new was there to be judged."""
        judged = [(score.score, score) for score in self.scores if score.score is not None]
        return min(judged, key=lambda pair: pair[0])[1] if judged else None

    @property
    def overall(self) -> float | None:
        return self.weakest.score if self.weakest else None

    def worst(self, dimension: Dimension) -> float | None:
        """The lowest score of a dimension over the tables."""
        return min((score.score for score in self.scores
                    if score.dimension == dimension and score.score is not None), default=None)

    @property
    def broken(self) -> list[tuple[str, Measure]]:
        """Table and measure of every limit that refuses the batch, in the order of the tables."""
        return [(score.table, measure) for score in self.scores for measure in score.measures
                if measure.refuses and measure.broken]

    @property
    def line(self) -> str:
        """One line: overall, the weakest dimension, and what is to blame."""
        weakest = self.weakest
        if weakest is None or weakest.score is None:
            return "no new rows to judge"
        if weakest.score == 1:
            return "1.000 overall: no row fails"
        return (f"{floor3(weakest.score)} overall: weakest {weakest.dimension} of {weakest.table} "
                f"({weakest.blame})")

    @property
    def markdown(self) -> str:
        """Two tables: the scores, and the measures with their limits."""
        scores = [
            f"| {score.table} | {score.dimension} | {score.rows:,} | {score.failing:,} | "
            f"{'' if score.score is None else floor3(score.score)} | "
            f"{'; '.join(f'{reason} ({count:,})' for reason, count in score.reasons[:3])} |" for score in self.scores
        ]
        measures = [
            f"| {score.table} | {score.dimension} | {measure.name} | {_state(measure)} | {measure.text} |"
            for score in self.scores for measure in score.measures
        ]
        return "\n".join([
            f"**{self.line}**, as of {self.as_of:%Y-%m-%d}", "",
            "| table | dimension | new rows | failing | score | most often |", "|---|---|---:|---:|---:|---|",
            *scores, "",
            "| table | dimension | measure | | seen and limit |", "|---|---|---|---|---|",
            *measures,
        ])

    @property
    def evidence(self) -> dict[str, float | int | str | None]:
        """For the ledger: the scores by table and dimension, overall, and the weakest."""
        found: dict[str, float | int | str | None] = {
            f"{score.table} {score.dimension}": score.score for score in self.scores
        }
        weakest = self.weakest
        return found | {"overall": self.overall,
                        "weakest": f"{weakest.dimension} of {weakest.table}: {weakest.blame}" if weakest else None}


def _state(measure: Measure) -> str:
    if measure.limit is None:
        return "no limit"
    return "over its limit" if measure.broken else "ok"


def floor3(score: float) -> str:
    """Three decimals, cut off and not rounded: a dimension with a failing row never reads 1.000."""
    return f"{int(score * 1000 + 1e-9) / 1000:.3f}"


def count_scores(
    table: str, rows: int, failing: Mapping[Dimension, int], reasons: Mapping[Dimension, Sequence[tuple[str, int]]],
    measures: Iterable[Measure],
) -> tuple[Score, ...]:
    """The four scores of a table; a dimension without faults or measures is there all the same."""
    found = list(measures)
    return tuple(
        Score(table, dimension, rows, failing.get(dimension, 0), tuple(reasons.get(dimension, ())),
              tuple(measure for measure in found if measure.dimension == dimension))
        for dimension in DIMENSIONS
    )


def longest_gap(days: Iterable[date]) -> tuple[int, date | None, date | None]:
    """The most days in a row without an event between the first and the last one: how many, from, to."""
    ordered = sorted(set(days))
    gaps = [(after - before).days - 1 for before, after in pairwise(ordered)]
    if not gaps or max(gaps) == 0:
        return 0, None, None
    at = gaps.index(max(gaps))
    return gaps[at], ordered[at] + timedelta(days=1), ordered[at + 1] - timedelta(days=1)


@dataclass(frozen=True)
class Expected:
    """What a load should bring by the rate of earlier ones."""

    rows: float
    arrived: int
    days: float
    loads: int  # the rate is the median of so many


def expected_rows(history: Sequence[tuple[datetime, int]], as_of: datetime, rows: int) -> Expected | None:
    """Expected against arrived rows, or None where nothing can be expected yet.

    The first load is the history of unknown length and counts for nothing. From then on, rows are
    gathered over at least a day and until some arrive, so a weekly feed that is asked nightly is judged
    by the week, and one asked hourly by the day. A load without new rows is one too small once there were
    none for as long as the longest span before it took to bring some: not on a weekly feed's six nights
    between, nor on a shop's quiet Sunday.

    Args:
        history: `as_of` and new rows of every earlier load, oldest first.
        rows: new rows of this load.
    """
    if not history:
        return None
    since, gathered, rates, longest = history[0][0], 0, [], timedelta(0)
    for moment, count in history[1:]:
        gathered += count
        if gathered and moment - since >= timedelta(days=1):
            rates.append(gathered / _days(moment - since))
            longest = max(longest, moment - since)
            since, gathered = moment, 0
    days = _days(as_of - since)
    if len(rates) < LEAST_RATES or days < 1:
        return None
    if not rows and as_of - max(moment for moment, count in history[1:] if count) < longest:
        return None
    latest = rates[-LOOK_BACK:]
    expected = Expected(median(latest) * days, gathered + rows, days, len(latest))
    return expected if expected.rows >= LEAST_EXPECTED else None


def _days(span: timedelta) -> float:
    return span / timedelta(days=1)
