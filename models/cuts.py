"""Cuts: the dates features are taken at, and which of them may train and test.

Half-open throughout: features use what is before a cut, its label what is in [cut, cut + horizon). A
label is mature at `as_of >= cut + horizon + label delay`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from models.charter import Problem
from models.errors import DataError

TEST_CUTS: Final = 1  # latest mature cut held out: one cut is what one contact budget is spent on


@dataclass(frozen=True)
class CutPlan:
    """Cuts of one training; every label window of `train` ends before the first cut of `test`."""

    train: tuple[datetime, ...]
    test: tuple[datetime, ...]


def regular_cuts(problem: Problem, *, first_event: datetime, until: datetime) -> list[datetime]:
    """Firsts of a month, every `snapshot_every_months` counted from January, in (first_event + horizon, until].

    A horizon of history comes first, else features would mostly say how young the data is.
    """
    start = first_event + problem.horizon
    cuts = []
    for month in range(start.year * 12 + start.month - 1, until.year * 12 + until.month):
        cut = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
        if month % 12 % problem.snapshot_every_months == 0 and start <= cut <= until:
            cuts.append(cut)
    return cuts


def plan_cuts(
    problem: Problem, *, train_cuts: int, test_cuts: int = TEST_CUTS, first_event: datetime, as_of: datetime,
    not_before: datetime | None = None,
) -> CutPlan:
    """Hold out the latest mature cuts, and train on the latest ones whose label windows end before them.

    A random split would let the model see next month when it predicts this one (Hyndman & Athanasopoulos,
    FPP3, section 5.8).

    Args:
        not_before: the earliest cut that may train or test (after a change of the concept).

    Raises:
        DataError: not enough mature cuts; says how many there are, how many are needed and the first
            `as_of` that would do.
    """
    known = [cut for cut in regular_cuts(problem, first_event=first_event, until=as_of)
             if not_before is None or cut >= not_before]
    mature = [cut for cut in known if cut + problem.maturity <= as_of]
    test = mature[-test_cuts:]
    train = [cut for cut in mature if test and cut + problem.horizon <= test[0]][-train_cuts:]
    if len(test) == test_cuts and train:
        return CutPlan(tuple(train), tuple(test))
    first = first_sufficient(problem, test_cuts=test_cuts, first_event=first_event, not_before=not_before)
    raise DataError(
        f"cannot train as of {as_of:%Y-%m-%d}: {len(mature)} cuts have mature labels "
        f"({', '.join(f'{cut:%Y-%m-%d}' for cut in mature) or 'none'}), needed are {test_cuts} to test and one to "
        f"train whose label window ends before. The first AS_OF that would do is {first:%Y-%m-%d}"
    )


def first_sufficient(
    problem: Problem, *, test_cuts: int = TEST_CUTS, first_event: datetime, not_before: datetime | None = None
) -> datetime:
    """The earliest `as_of` with `test_cuts` mature cuts and one training cut a horizon before them.

    Args:
        not_before: the earliest cut that counts; None: the first there is.
    """
    start = max(first_event, not_before - problem.horizon) if not_before else first_event
    # A horizon of history, one from the training cut to the test cut, and there is a cut a year at least.
    enough = 2 * problem.horizon + timedelta(days=366 * (2 + test_cuts))
    cuts = regular_cuts(problem, first_event=start, until=start + enough)
    test = [cut for cut in cuts if cut >= cuts[0] + problem.horizon][:test_cuts]
    return test[-1] + problem.maturity


def next_mature(problem: Problem, *, first_event: datetime, as_of: datetime) -> datetime:
    """The earliest `as_of` after this one at which one more cut has mature labels."""
    later = max(first_event, as_of) + problem.horizon + timedelta(days=366)  # a January at the latest
    cuts = regular_cuts(problem, first_event=first_event, until=later)
    return next(cut + problem.maturity for cut in cuts if cut + problem.maturity > as_of)
