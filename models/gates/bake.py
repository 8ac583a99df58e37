"""The bake's judge: was it right to replace the release before? Asked of the labels, once they are mature.

Both releases score the same customers; each customer counts once. Paired, for a customer who is hard to
predict is hard for both: the difference of their losses is all that is judged. The bets on its mean (a capital
process, one each way) may be looked at whenever labels arrive.

Within one cut the bets multiply whatever the customers' own means are: by the inequality of the means the
product's expectation is at most one if their *average* is at most the limit. Customers are taken to churn
independently, given their features: what moves a whole cut at once moves both releases alike, in the main.

Sources: Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, JRSSB 2024 (arXiv
2010.09686), with a mixture of fixed bets for their running one; Ville's inequality; Brier 1950.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

import numpy as np
from scipy.special import logsumexp

from models.decision import Decision
from models.limits import Bake

# Shares of the capital that are staked, from bold to timid: the mixture loses at most a factor of eight to the best.
STAKES: Final = tuple(0.8 / 2**step for step in range(8))
# A cut where both say nearly the same is bet on as if they could differ by this much: stakes in units of next to
# nothing would let it drown what another cut shows.
LEAST_REACH: Final = 0.2
LEAST_SCORED: Final = 0.95  # share of the customers that both releases must have scored
MOST_UNREPRESENTED: Final = 0.02  # of the customers: contacted, and nobody like them was left alone


@dataclass(frozen=True)
class PairedLoss:
    """Customers whose labels are mature and whom nobody contacted, by cut; shapes (n,).

    Attributes:
        difference: champion's Brier loss minus the previous release's, times what the customer counts for
            (1 on average within a cut); below 0 the champion is better.
        reach: how far the difference of any customer of that cut could have been from 0, whatever their label; at
            least `LEAST_REACH`.
    """

    difference: np.ndarray
    reach: np.ndarray

    @property
    def customers(self) -> int:
        return len(self.difference)


@dataclass(frozen=True)
class Standing:
    """Where a bake stands besides its losses: what was left out, and why nothing could be seen (`fault`)."""

    since: datetime  # promotion, platform clock
    now: datetime
    maturity: timedelta  # horizon and label delay
    scored: float = 1.0  # share of the customers the previous release could score too
    unrepresented: float = 0.0  # share of the customers for whom nobody stands
    counts: Mapping[str, int] = field(default_factory=dict)  # of customers, for the evidence
    fault: str | None = None
    recommended: bool = False  # an earlier look recommended to roll back

    @property
    def ends(self) -> datetime:
        """From then on labels of a whole horizon can be mature."""
        return self.since + self.maturity

    @property
    def limit(self) -> datetime:
        """From then on all labels are mature: more waiting brings nothing, a person is asked."""
        return self.since + 2 * self.maturity


def brier_difference(champion: np.ndarray, previous: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Champion's Brier loss minus the previous release's, each row; all shapes (n,), labels 0 or 1."""
    return np.asarray((champion - label) ** 2 - (previous - label) ** 2)


def reach_of(champion: np.ndarray, previous: np.ndarray, weight: np.ndarray) -> float:
    """How far a weighted difference can be from 0 whatever the labels say: known before they are."""
    either = [np.abs(brier_difference(champion, previous, np.full(len(champion), label))) for label in (0.0, 1.0)]
    return max(float(np.max(weight * np.maximum(*either), initial=0.0)), LEAST_REACH)


def log_wealth(loss: PairedLoss, mean: float, side: Literal[1, -1]) -> float:
    """Log of what bets against "the mean difference is at most (side 1) or at least (-1) `mean`" are worth.

    A stake is a share of what could be lost on a customer of that cut, so no single one can ruin the bets.
    A mean beyond a cut's reach is as impossible as its reach is: there the bet is on the reach.
    """
    if not loss.customers:
        return 0.0
    gain = side * (loss.difference - np.clip(mean, -loss.reach, loss.reach)) / (2 * loss.reach)
    worth = [float(np.log1p(stake * gain).sum()) for stake in STAKES]
    return float(logsumexp(worth)) - math.log(len(STAKES))


def confidence_bounds(loss: PairedLoss, *, alpha: float) -> tuple[float, float]:
    """Ends of the confidence sequence of the mean difference: each holds at every look but for `alpha`."""
    most = float(loss.reach.max(initial=1.0 if not loss.customers else 0.0))
    ends = []
    sides: tuple[Literal[1, -1], ...] = (1, -1)
    for side in sides:
        inside, outside = side * most, -side * most  # the wealth against a mean falls towards `inside`
        if log_wealth(loss, outside, side) < -math.log(alpha):
            ends.append(outside)
            continue
        for _ in range(30):
            middle = (inside + outside) / 2
            if log_wealth(loss, middle, side) >= -math.log(alpha):
                outside = middle
            else:
                inside = middle
        ends.append(outside)
    return ends[0], ends[1]


def judge_bake(loss: PairedLoss, limits: Bake, standing: Standing) -> Decision:
    """`baked`, `hold`, or `roll back`, which is a recommendation: nobody but a person acts on it.

    Roll back, as soon as it is seen: the champion's mean loss exceeds the previous release's by more than
    `max_brier_excess`. Baked, after a horizon: that much is excluded; that no alarm rang is not enough. Else hold;
    when waiting brings nothing more, hold with `overdue` in the evidence, which `make status` shows as an alarm.
    """
    mean = float(loss.difference.mean()) if loss.customers else 0.0
    low, high = confidence_bounds(loss, alpha=limits.alpha)
    harm, safe = (log_wealth(loss, limits.max_brier_excess, 1), log_wealth(loss, limits.max_brier_excess, -1))
    needed = -math.log(limits.alpha)
    evidence: dict[str, float | int | str | None] = {
        "customers": loss.customers, "mean_excess": round(mean, 6), "excess_low": round(low, 6),
        "excess_high": round(high, 6), "harm_e_value": _e_value(harm), "harmless_e_value": _e_value(safe),
        "e_limit": round(1 / limits.alpha, 4), "max_brier_excess": limits.max_brier_excess,
        "since": standing.since.isoformat(), **standing.counts, "overdue": 0,
    }
    seen = (f"Brier loss {mean:+.4f} against the release before on {loss.customers:,} customers, at least {low:+.4f} "
            f"and at most {high:+.4f} (limit {limits.max_brier_excess:+.4f})")
    if harm >= needed:
        return Decision("bake", "roll back", f"the champion predicts worse: {seen}", evidence)
    if standing.recommended and safe < needed:
        return Decision("bake", "roll back", f"an earlier look showed that the champion predicts worse; now {seen}",
                        evidence)
    missing = _missing(loss, limits, standing, seen if safe < needed else None)
    if missing is None:
        return Decision("bake", "baked", seen, evidence)
    if standing.now < standing.limit:
        return Decision("bake", "hold", f"{missing}; the bake may last until {standing.limit:%Y-%m-%d}", evidence)
    return Decision("bake", "hold", f"{missing}; all labels were mature on {standing.limit:%Y-%m-%d}, waiting brings "
                    "no more: a person decides", {**evidence, "overdue": 1})


def _missing(loss: PairedLoss, limits: Bake, standing: Standing, undecided: str | None) -> str | None:
    """What a verdict of `baked` still lacks, the first of it; None where it lacks nothing."""
    if standing.fault:
        return standing.fault
    if standing.now < standing.ends:
        return f"baking since {standing.since:%Y-%m-%d}, its labels are mature from {standing.ends:%Y-%m-%d}"
    if loss.customers < limits.least_customers:
        return f"{loss.customers:,} customers with mature labels, {limits.least_customers:,} needed"
    if standing.scored < LEAST_SCORED:
        return (f"the release before could score {standing.scored:.1%} of the customers, {LEAST_SCORED:.0%} needed: "
                "it has no features of the others")
    if standing.unrepresented > MOST_UNREPRESENTED:
        return (f"for {standing.unrepresented:.1%} of the customers, who were contacted, nobody like them was left "
                f"alone (limit {MOST_UNREPRESENTED:.0%})")
    return f"{undecided}: neither harm nor its absence is shown" if undecided else None


def _e_value(log_worth: float) -> float:
    return float(f"{math.exp(min(log_worth, 700.0)):.4g}")
