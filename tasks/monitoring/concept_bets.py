"""Bets on cohorts. Reads rows of `lake/truth`; says which cohorts can be bet on now, and why others cannot.

A customer counts once a label window. Who was bet on is known from the rows alone, so where those of a cohort are gone
nothing is bet on until its customers' windows are over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
import polars as pl

from models.charter import Charter
from models.gates.concept import Bet, brier_excess, log_bets, months_since, open_rows
from tasks.monitoring.concept_state import Cohort, Stream

CUT: Final = "event_timestamp"
LEAST_LEFT: Final = 0.9  # of the rows that were bet on; people who are erased are few


@dataclass(frozen=True)
class Lost:
    """A cohort that was bet on and whose customers are not known any more."""

    cut: datetime
    left: int
    rows: int


@dataclass(frozen=True)
class Look:
    """What a check found in `lake/truth` besides bets."""

    mature: int = 0
    waiting: int = 0  # cohorts whose labels are not due
    passed_over: int = 0  # mature, but most customers were bet on within a window, a later cohort was, or none counts
    unlabelled: tuple[tuple[datetime, float], ...] = field(default_factory=tuple)  # mature, not closed; share with one
    lost: Lost | None = None  # a cohort within whose horizon others stand that are not bet on
    late: bool = False  # bets were laid later than `as_of`: none is laid now


def new_cohorts(
    cohorts: Iterator[tuple[datetime, pl.DataFrame]], key: str, stream: Stream | None, charter: Charter, *,
    limit: Callable[[], float], as_of: datetime, closed: Collection[datetime] = ()
) -> tuple[list[Cohort], Look]:
    """Bets on the cohorts that are mature and were not bet on, oldest first, and what was not bet on.

    Args:
        cohorts: each cut with the release's rows of `lake/truth`, sorted by customer; oldest first.
        limit: asked for where there is something to bet on.
        closed: cuts whose cohort was closed, filled as `cohorts` is read: a release that scored a few of its customers
            may have nobody there who counts (contacted, without a label); no later label changes that.
    """
    horizon, maturity = charter.problem.horizon, charter.problem.maturity
    taken = {cohort.bet.cut: cohort for cohort in (stream.cohorts if stream else ())}
    before = max(taken, default=None)
    # A check of the past bets no more: it would not know what later ones did.
    late = any(cohort.as_of > as_of for cohort in taken.values())
    last_bet: dict[str, datetime] = {}
    new: list[Cohort] = []
    mature = waiting = passed_over = 0
    unlabelled: list[tuple[datetime, float]] = []
    unseen = sorted(taken)
    gone: list[Lost] = []
    near_lost: list[tuple[datetime, Lost]] = []
    for cut, cohort in cohorts:
        while unseen and unseen[0] < cut:
            gone.append(Lost(unseen[0], 0, taken[unseen.pop(0)].rows))
        if cut + maturity > as_of:
            waiting += 1
            continue
        mature += 1
        rows = cohort.filter(pl.col("weight").is_not_null())
        if cut in taken:  # it was closed then, so these are the customers it was bet on
            unseen.remove(cut)
            left = len(_bet_rows(rows, key, cut, last_bet, charter))
            if left < LEAST_LEFT * taken[cut].rows:
                gone.append(Lost(cut, left, taken[cut].rows))
            continue
        closed_at = rows["labelled_as_of"].max()
        if late or (before is not None and cut < before):
            passed_over += 1
        elif near := [one for one in gone if one.cut <= cut < one.cut + horizon]:
            near_lost.append((cut, max(near, key=lambda one: one.cut)))
        elif closed_at is None and cut in closed:
            passed_over += 1
        elif not isinstance(closed_at, datetime) or closed_at > as_of:
            unlabelled.append((cut, len(cohort.drop_nulls("label")) / len(cohort)))
        else:
            open_ = _bet_rows(rows, key, cut, last_bet, charter)
            if open_.is_empty():
                passed_over += 1
                continue
            new.append(_cohort(open_, cut, limit(), months_since(cut, before, horizon), as_of))
            before = cut
    still = [lost for cut, lost in near_lost if before is None or cut > before]  # the others, a later cohort went by
    return new, Look(mature, waiting, passed_over + len(near_lost) - len(still), tuple(unlabelled),
                     still[-1] if still else None, late)


def _bet_rows(
    rows: pl.DataFrame, key: str, cut: datetime, last_bet: dict[str, datetime], charter: Charter
) -> pl.DataFrame:
    """The rows of a cohort that may be bet on; marks their customers in `last_bet`."""
    chosen = rows.filter(open_rows(cut, rows[key].to_list(), last_bet, charter.problem.horizon))
    last_bet.update(dict.fromkeys(chosen[key].to_list(), cut))
    return chosen


def _cohort(rows: pl.DataFrame, cut: datetime, limit: float, months: float, as_of: datetime) -> Cohort:
    probability, label, weight = (rows[name].to_numpy() for name in ("probability", "label", "weight"))
    return Cohort(
        Bet(cut, months, log_bets(probability, label, weight, limit)), as_of, len(rows),
        brier=float(np.average((label - probability) ** 2, weights=weight)),
        excess=float(np.average(brier_excess(probability, label), weights=weight)),
        largest_weight=float(weight.max()),
    )
