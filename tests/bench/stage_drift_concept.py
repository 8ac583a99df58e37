"""Concept drift by simulation: false alarms and delay of the e-detector on customers who return; a few rivals beside.

A shop of 3,000 customers with features that move slowly and a taste of their own that no feature shows. Every cohort
scores 250 of them, in turns, so that each is scored once a label window of twelve cohorts; labels are late by that
window. The model knows the law but not the tastes. At half of 60,000 rows something changes:

    concept     what one feature does turns round; the churn rate stays
    severe      what two features do turns round
    fading      one feature matters no more
    covariate   the customers' features move, the law stays
    prior       everybody leaves more often (+0.8 logit)

The sample world's own planted change is judged as well: monthly cohorts of everybody, its old law for a model.

A common month is a part of the log-odds that all customers of a window share. Delays are counted in labelled rows after
the first changed label.

    python -m tests.bench.stage_drift_concept      prints the rows (a minute)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from scipy import stats

from examples.shop.law import World as SampleWorld
from examples.shop.world import simulate
from models.gates.concept import (
    STAKES,
    Bet,
    Reference,
    brier_excess,
    log_bets,
    log_statistic,
    months_since,
    open_rows,
    refer,
)
from models.limits import Concept

CUSTOMERS: Final = 3000
WINDOW: Final = 12  # cohorts a label window
A_COHORT: Final = CUSTOMERS // WINDOW
ROWS: Final = 60_000
CHANGED_AT: Final = ROWS // A_COHORT // 2
TEST_ROWS: Final = 3000  # of the release: what its reference is from
HORIZON: Final = timedelta(days=30)
TASTE: Final = 0.5  # standard deviation of what no feature shows, in log-odds
START: Final = datetime(2025, 1, 1, tzinfo=UTC)
EFFECTS: Final = (1.0, 0.8)
INTERCEPT: Final = -1.6
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
POLICY: Final = Concept()
CHANGES: Final = ("concept", "severe", "fading", "covariate", "prior")
AFTER: Final = {"concept": (-1.0, 0.8), "severe": (-1.0, -0.8), "fading": (0.0, 0.8)}  # effects
QUIET: Final = 15
CHANGED: Final = 15
MOST_DELAY: Final = 1000


@dataclass(frozen=True)
class Stream:
    """Cohorts in the order of their cuts; each `(entities, probability, label)`."""

    reference: Reference
    cohorts: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]


def logistic(logit: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logit)))


def promised(logit: np.ndarray) -> np.ndarray:
    """What a model says that knows the law and how tastes vary, but nobody's taste."""
    return np.asarray(logistic(logit[:, None] + TASTE * NODES) @ WEIGHTS / WEIGHTS.sum())


def law(features: np.ndarray, effects: Sequence[float] = EFFECTS) -> np.ndarray:
    return np.asarray(INTERCEPT + features @ np.array(effects))


def make_stream(seed: int, change: str | None = None, *, common_month: float = 0.0, rows: int = ROWS) -> Stream:
    """One stream of a release.

    Args:
        change: one of `CHANGES` from cohort `CHANGED_AT` on, or None.
        common_month: standard deviation, in log-odds, of what all customers of a label window share.
    """
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=CUSTOMERS) * TASTE
    features = rng.normal(size=(CUSTOMERS, 2))
    test = law(rng.normal(size=(TEST_ROWS, 2)))
    known = rng.random(TEST_ROWS) < logistic(test + rng.normal(size=TEST_ROWS) * TASTE)
    cohorts, shared, moved = [], 0.0, np.zeros(2)
    for number in range(rows // A_COHORT):
        after = change is not None and number >= CHANGED_AT
        if number % WINDOW == 0:
            shared = rng.normal() * common_month
            features = 0.8 * features + 0.6 * rng.normal(size=features.shape)
        if after and change == "covariate":
            moved = np.array([0.8, 0.5])
        at = number % WINDOW * A_COHORT
        who = np.arange(at, at + A_COHORT)
        here = features[who] + moved
        said = promised(law(here))
        effects = AFTER.get(change or "", EFFECTS) if after else EFFECTS
        true = law(here, effects) + (0.8 if after and change == "prior" else 0.0) + shared
        label = (rng.random(A_COHORT) < logistic(true + taste[who])).astype(float)
        cohorts.append((who.astype(str), said, label))
    return Stream(refer(promised(test), known.astype(float)), tuple(cohorts))


Worth = Callable[[np.ndarray, np.ndarray, float], tuple[float, ...]]


def by_customer(probability: np.ndarray, label: np.ndarray, limit: float) -> tuple[float, ...]:
    """The detector as it is."""
    return log_bets(probability, label, np.ones(len(label)), limit)


def by_mean(probability: np.ndarray, label: np.ndarray, limit: float) -> tuple[float, ...]:
    """One bet a cohort, on its mean: right whatever its customers share."""
    gain = (float(brier_excess(probability, label).mean()) - limit) / (1 / 8 + limit)
    return tuple(math.log1p(stake * gain) for stake in STAKES)


def first_alarm(stream: Stream, worth: Worth = by_customer, policy: Concept = POLICY) -> int | None:
    """Number of the cohort at which the detector first says bad; None: never."""
    limit = stream.reference.limit(policy)
    last: dict[str, datetime] = {}
    before, sums = None, np.full(len(STAKES), -np.inf)
    for number, (who, said, label) in enumerate(stream.cohorts):
        cut = START + HORIZON / WINDOW * number
        free = open_rows(cut, who.tolist(), last, HORIZON)
        if not free.any():
            continue
        last.update(dict.fromkeys(who[free].tolist(), cut))
        # What `log_sums` of all bets says, one at a time.
        sums = np.logaddexp(sums, math.log(months_since(cut, before, HORIZON))) + worth(said[free], label[free], limit)
        before = cut
        if _log_mean(sums) >= math.log(policy.months_between_false_alarms):
            return number
    return None


def _log_mean(sums: np.ndarray) -> float:
    return float(np.logaddexp.reduce(sums)) - math.log(len(STAKES))


def delay(number: int | None) -> float:
    """Labelled rows from the first changed one to the alarm, its cohort included; before it: below zero."""
    if number is None:
        return math.inf
    return (number - CHANGED_AT + 1) * A_COHORT if number >= CHANGED_AT else -1.0


def raw_brier(stream: Stream, policy: Concept = POLICY) -> int | None:
    """The same bets on the Brier loss itself, against the test rows' plus the tolerance."""
    limit = stream.reference.brier + max(policy.brier_tolerance, 2 * stream.reference.error)
    sums, months = np.full(len(STAKES), -np.inf), HORIZON / WINDOW / timedelta(days=30.4375)
    for number, (_, said, label) in enumerate(stream.cohorts):
        gain = ((label - said) ** 2 - limit) / limit
        sums = np.logaddexp(sums, math.log(months)) + [float(np.log1p(s * gain).sum()) for s in STAKES]
        if _log_mean(sums) >= math.log(policy.months_between_false_alarms):
            return number
    return None


def windowed_brier(stream: Stream) -> int | None:
    """A rule of thumb: the mean Brier loss of the newest 2,000 labelled rows is a tenth above the reference."""
    losses = [(label - said) ** 2 for _, said, label in stream.cohorts]
    keep = 2000 // A_COHORT
    for number in range(keep - 1, len(losses)):
        if np.mean(np.concatenate(losses[number - keep + 1: number + 1])) > 1.1 * stream.reference.brier:
            return number
    return None


RIVALS: Final[dict[str, Callable[[Stream], int | None]]] = {
    "raw Brier": raw_brier, "one bet a cohort": lambda stream: first_alarm(stream, by_mean),
    "2,000-row Brier +10 %": windowed_brier}


def row(what: str, seen: str, beside: str, limit: str, word: str) -> str:
    return f"{what:<58} {seen:>26}  {beside}; {limit}  {word}".rstrip()


def rows(quiet: int = QUIET, changed: int = CHANGED) -> Iterator[str]:
    """Lines of `make bench-drift`."""
    for name, month, limit in (("", 0.0, 0), (", months that share 0.05 logit", 0.05, 0),
                               (", months that share 0.4 logit", 0.4, None)):
        streams = [make_stream(seed, common_month=month) for seed in range(quiet)]
        false = sum(first_alarm(one) is not None for one in streams)
        beside = ", ".join(f"{rival} {sum(judge(one) is not None for one in streams)}"
                           for rival, judge in RIVALS.items())
        word = "beyond the tolerance: printed" if limit is None else "ok" if false <= limit else "missed"
        yield row(f"false alarms in {quiet} quiet streams of {ROWS:,} rows{name}", str(false), beside,
                  "at most 0" if limit is not None else "no limit", word)
    for change in CHANGES:
        streams = [make_stream(1000 + seed, change) for seed in range(changed)]
        delays = [delay(first_alarm(one)) for one in streams]
        beside = ", ".join(f"{rival} {shown([delay(judge(one)) for one in streams])}" for rival, judge in
                           RIVALS.items())
        limited = change in ("concept", "severe")
        met = statistics.median(delays) <= MOST_DELAY
        yield row(f"labelled rows until the alarm, {change}, AUC {auc_of(streams)}", shown(delays), beside,
                  f"at most {MOST_DELAY:,}" if limited else "no limit", ("ok" if met else "missed") if limited else "")
    yield sample_world()


def auc_of(streams: Sequence[Stream]) -> str:
    """Before and after the change, over all streams."""
    found = []
    for part in (slice(None, CHANGED_AT), slice(CHANGED_AT, None)):
        said, label = (np.concatenate([cohort[place] for one in streams for cohort in one.cohorts[part]])
                       for place in (1, 2))
        ranks = stats.rankdata(said)
        ones = float(label.sum())
        found.append((ranks[label == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(label) - ones)))
    return " to ".join(f"{one:.2f}" for one in found)


def sample_world(worlds: int = QUIET) -> str:
    """In how many sample worlds the first cohort of the planted change alarms, and none of the year before."""
    first, early, needed = 0, 0, []
    for seed in range(worlds):
        world = SampleWorld(seed=seed, months=21)
        months = simulate(world)[1]
        law_month = months[7]  # what a release trained then was tested on
        limit = refer(law_month.p_frozen, law_month.churned.astype(float)).limit(POLICY)
        bets: list[Bet] = []
        alarm = None
        for month in months[8:]:
            label = month.churned.astype(float)
            bet = Bet(world.cut(month.month), 1.0, by_customer(month.p_frozen, label, limit))
            if month.month == world.concept_drift_month:
                needed.append(_rows_needed(bets, month.p_frozen, label, limit, seed))
            bets.append(bet)
            if alarm is None and log_statistic(bets) >= math.log(POLICY.months_between_false_alarms):
                alarm = month.month
        first += alarm == world.concept_drift_month
        early += alarm is not None and alarm < world.concept_drift_month
    return row(f"sample world: {worlds} worlds, alarm with the first changed month", str(first),
               f"early {early}; rows of that month that would do: {shown(needed)}", f"at least {worlds - 1}, 0 early",
               "ok" if first >= worlds - 1 and not early else "missed")


def _rows_needed(bets: list[Bet], said: np.ndarray, label: np.ndarray, limit: float, seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(said))
    for rows_ in range(100, len(said), 100):
        some = order[:rows_]
        bet = Bet(START, 1.0, by_customer(said[some], label[some], limit))
        if log_statistic([*bets, bet]) >= math.log(POLICY.months_between_false_alarms):
            return rows_
    return math.inf


def shown(delays: Sequence[float]) -> str:
    """Median and largest delay; how many never alarmed, or did before the change."""
    found = [one for one in delays if 0 <= one < math.inf]
    early, never = sum(one < 0 for one in delays), sum(one == math.inf for one in delays)
    text = f"{statistics.median(found):,.0f} (max {max(found):,.0f})" if len(found) > len(delays) / 2 else "never"
    return text + (f", {early} early" if early else "") + (f", {never} not" if never and found else "")


def main() -> None:
    for one in rows():
        print(one, flush=True)


if __name__ == "__main__":
    main()
