"""Does what customers do still follow what the model learnt? An e-detector on Brier excess, cohort by cohort.

The excess of a row is its Brier loss less the loss that its own probability promises, `(y - p)^2 - p (1 - p)`: below
or at zero on average wherever the model is calibrated, whoever is asked for. So other customers than before (drift of
the data) are no change of the concept, and a cohort need not be a random part of all customers. What the release's
excess was on its own test rows, and a tolerance above it, is the limit.

Each customer of a cohort is a bet against "the mean excess is within the limit". Two things must hold, or the bets
are none. (1) Rows of one customer whose label windows overlap share outcomes: each customer counts once a window
(`open_rows`), and a cohort most of whose customers were bet on already is passed over, for those left are new ones.
(2) Given what all customers of a cohort share (a month with a holiday), they are independent, and *that month's* mean
is within the limit: the product's expectation is then at most one by the inequality of the means, whatever the single
customers' means are. So the tolerance is how far a common month may lie off, not what the mean of many months may be:
months that swing by more look like changed ones. One bet a cohort, on its mean, would need no (2); it takes years of
months to say anything, as simulation shows beside (`tests/bench/stage_drift_concept.py`).

The detector adds up bets begun at every cohort, each with the months it stands for as its stake (Shiryaev-Roberts):
`M = (M + months) x bet`. While nothing changed, `M` less the months that passed cannot grow on average; so the first
time it reaches `A` is `A` months off on average at least, however often one looks, and within any `N` months its
chance is at most `N / A`. With `R` rows a month this is a detector of rows with the limit `A x R`.

Sources: Shin, Ramdas & Rinaldo, E-detectors (arXiv 2203.03532); Waudby-Smith & Ramdas, Estimating means of bounded
random variables by betting (arXiv 2010.09686); Podkopaev & Ramdas, Tracking the risk of a deployed model and detecting
harmful distribution shifts (arXiv 2110.06177); Brier 1950.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from scipy.special import logsumexp

from models.limits import Concept

# Shares of the capital that are staked, from bold to timid: the mixture loses a factor of seven to the best at most.
STAKES: Final = tuple(0.5 / 2**step for step in range(7))
LEAST_REACH: Final = 0.1  # a cohort of sure scores is bet on as if a row could lose this much
LEAST_OPEN: Final = 0.5  # share of a cohort's rows that must not have been bet on within a window
ERRORS: Final = 2.0  # standard errors of the reference that the limit leaves room for, where that is more
DAYS_A_MONTH: Final = 30.4375


@dataclass(frozen=True)
class Reference:
    """What a release did on its own test rows: mean excess, its standard error, and the Brier score."""

    excess: float
    error: float
    brier: float

    def limit(self, policy: Concept) -> float:
        """Mean excess above which the concept has changed; few test rows leave more room than the tolerance."""
        return self.excess + max(policy.brier_tolerance, ERRORS * self.error)


@dataclass(frozen=True)
class Bet:
    """What the customers of one cohort were worth as bets."""

    cut: datetime
    months: float  # the cohort stands for: since the cohort before it
    log_e: tuple[float, ...]  # log worth, a stake of `STAKES` each


def brier_excess(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Brier loss less the loss the probability itself promises; shapes (n,), within [-1/8, 1]."""
    return np.asarray((label - probability) * (1 - 2 * probability))


def refer(probability: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> Reference:
    """The reference from a release's test rows, shapes (n,); `weight` where contacted ones were left out."""
    weight = np.ones(len(label)) if weight is None else weight
    excess = brier_excess(probability, label)
    mean = float(np.average(excess, weights=weight))
    error = math.sqrt(float(np.sum((weight * (excess - mean)) ** 2))) / float(weight.sum())
    return Reference(mean, error, float(np.average((label - probability) ** 2, weights=weight)))


def log_bets(probability: np.ndarray, label: np.ndarray, weight: np.ndarray, limit: float) -> tuple[float, ...]:
    """Log worth of one cohort's bets, a stake of `STAKES` each.

    A stake is a share of the most that any row of the cohort could lose, which probabilities and weights tell before
    the labels do: so no row ruins the bets, whatever its weight, and the claim is on the weighted mean.

    Args:
        probability, label, weight: shapes (n,).
        limit: mean excess that is no change.
    """
    if not len(label):
        return (0.0,) * len(STAKES)
    lowest = np.minimum(brier_excess(probability, np.zeros(len(label))), brier_excess(probability, np.ones(len(label))))
    reach = max(float(np.max(weight * (limit - lowest))), LEAST_REACH)
    gain = weight * (brier_excess(probability, label) - limit) / reach
    return tuple(float(np.log1p(stake * gain).sum()) for stake in STAKES)


def open_rows(
    cut: datetime, entities: Sequence[str], last_bet: dict[str, datetime], horizon: timedelta
) -> np.ndarray:
    """Which customers of a cohort may be bet on, shape (n,) bool: none of their label windows overlaps an earlier bet.

    All False where fewer than `LEAST_OPEN` of them may: who is left then is not what the cohort is.
    """
    free = np.array([one not in last_bet or last_bet[one] + horizon <= cut for one in entities], dtype=bool)
    return free if len(free) and free.mean() >= LEAST_OPEN else np.zeros(len(free), dtype=bool)


def months_since(cut: datetime, before: datetime | None, horizon: timedelta) -> float:
    """Months a cohort stands for: since the one before it, or a label window for the first."""
    return (horizon if before is None else cut - before) / timedelta(days=DAYS_A_MONTH)


def log_sums(bets: Sequence[Bet]) -> np.ndarray:
    """Log of the Shiryaev-Roberts sum after the bets, in months, a stake of `STAKES` each; shape (stakes,)."""
    sums = np.full(len(STAKES), -np.inf)
    for bet in bets:
        sums = np.logaddexp(sums, math.log(bet.months)) + np.asarray(bet.log_e)
    return sums


def log_statistic(bets: Sequence[Bet]) -> float:
    """Log of the mixture over the stakes, in months; -inf without bets."""
    return float(logsumexp(log_sums(bets))) - math.log(len(STAKES))


def likely_change(bets: Sequence[Bet]) -> datetime:
    """First cohort of the change, were there one: whose bets, begun there, add most to the sum."""
    worth = np.cumsum(np.array([bet.log_e for bet in bets])[::-1], axis=0)[::-1]
    starts = logsumexp(worth, axis=1) + np.log([bet.months for bet in bets])
    return bets[int(np.argmax(starts))].cut
