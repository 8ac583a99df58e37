"""The promotion gate: candidate against champion on the same later-in-time rows, judged on money.

Paired bootstrap over customers (Efron & Tibshirani, 1993, chapter 6): each resample draws customers with
replacement, both models rank them anew, and the difference of what their top K would have brought is
one draw. Promoted only if the interval lies above the charter's margin and the floors hold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.charter import PromotionGate, Value
from models.decision import Decision
from models.metrics import Metrics, Ranked, auc, rank, realised_value


def judge_against_champion(
    y: np.ndarray,
    candidate: np.ndarray,
    champion: np.ndarray | None,
    entities: np.ndarray,
    *,
    metrics: Metrics,
    limits: PromotionGate,
    value: Value,
    random_state: int,
) -> Decision:
    """Does the candidate earn more a cut than the champion?

    Args:
        y: labels, shape (n,); `candidate` and `champion`: probabilities of the same rows; `champion` is None
            where it could not score them, and then the answer is no.
        metrics: the candidate's metrics on these rows.
    """
    evidence: dict[str, float | int | str | None] = {"test_rows": len(y), **metrics.as_dict("candidate_")}
    refusal = _floors(y, candidate, metrics, limits)
    if refusal is None and champion is None:
        refusal = "the champion gave no scores for the test rows, so nothing can be compared"
    if refusal is None and champion is not None and not np.isfinite(champion).all():
        refusal = f"the champion gave {int((~np.isfinite(champion)).sum())} scores that are no number"
    if refusal is not None or champion is None:
        return Decision("promotion", "keep", f"{refusal}", evidence)
    ours, theirs = rank(candidate, entities), rank(champion, entities)

    def gain(weight: np.ndarray) -> float:
        return realised_value(y, ours, value, weight) - realised_value(y, theirs, value, weight)

    low, high = _interval(gain, entities, limits, random_state)
    seen = gain(np.ones(len(y)))
    evidence |= {"gain": seen, "gain_low": low, "gain_high": high, "margin": limits.margin,
                 "champion_auc": auc(y, champion)}
    numbers = (f"value {seen:+,.0f} a cut, {limits.confidence:.0%} interval [{low:+,.0f}, {high:+,.0f}], "
               f"AUC {metrics.auc:.3f} against {evidence['champion_auc']:.3f}")
    if low > limits.margin:
        return Decision("promotion", "promote", f"{numbers}: more than the champion's", evidence)
    verdict = "worse" if high < 0 else "equal"
    reason = f"{verdict}: {numbers}; the lower end must exceed {limits.margin:+,.0f}"
    return Decision("promotion", "keep", reason, evidence)


def judge_first(
    y: np.ndarray,
    candidate: np.ndarray,
    baseline: np.ndarray,
    entities: np.ndarray,
    *,
    baseline_column: str,
    metrics: Metrics,
    limits: PromotionGate,
    random_state: int,
) -> Decision:
    """The first model: does it rank better than the best single column, and bring money at all?

    Judged on AUC: the baseline is no model that has ever earned anything.
    """
    evidence: dict[str, float | int | str | None] = {"test_rows": len(y), **metrics.as_dict("candidate_")}
    refusal = _floors(y, candidate, metrics, limits)
    if refusal is None and metrics.value <= 0:
        refusal = (f"contacting the top {metrics.contacted:,} would cost more than it brings "
                   f"({metrics.value:+,.0f} a cut)")
    if refusal is not None:
        return Decision("promotion", "keep", refusal, evidence)
    labels, ours, theirs = y.astype(float), Ranked.of(candidate), Ranked.of(baseline)

    def gain(weight: np.ndarray) -> float:
        return ours.auc(labels, weight) - theirs.auc(labels, weight)

    low, high = _interval(gain, entities, limits, random_state)
    reference = theirs.auc(labels)
    evidence |= {"baseline_auc": reference, "baseline_column": baseline_column, "gain_low": low, "gain_high": high}
    numbers = (f"AUC {metrics.auc:.3f} against {reference:.3f} by {baseline_column} alone, {limits.confidence:.0%} "
               f"interval of the gain [{low:+.3f}, {high:+.3f}]")
    if low > 0:
        return Decision("promotion", "promote", f"first model: {numbers}", evidence)
    return Decision("promotion", "keep", f"first model no better than one column: {numbers}", evidence)


def _floors(y: np.ndarray, candidate: np.ndarray, metrics: Metrics, limits: PromotionGate) -> str | None:
    """The first floor that does not hold, in words."""
    classes = np.unique(y)
    if len(y) < limits.least_test_rows:
        return f"{len(y):,} test rows, needed are {limits.least_test_rows:,}"
    if len(classes) < 2:
        return f"the test rows have one class only ({classes.tolist()})"
    if len(candidate) != len(y) or not np.isfinite(candidate).all():
        return "the candidate did not score every test row"
    # Written so that a metric that is not a number fails.
    if not metrics.auc >= limits.least_auc:
        return f"AUC {metrics.auc:.3f} is below the floor of {limits.least_auc:.3f}"
    if not metrics.brier <= limits.max_brier:
        return f"Brier score {metrics.brier:.3f} is above the limit of {limits.max_brier:.3f}"
    return None


def _interval(
    statistic: Callable[[np.ndarray], float], entities: np.ndarray, limits: PromotionGate, random_state: int
) -> tuple[float, float]:
    """Percentile interval of a statistic of row weights, resampling customers (all rows of one together)."""
    rng = np.random.default_rng(random_state)
    _, customer = np.unique(entities, return_inverse=True)
    count = int(customer.max()) + 1
    draws = np.empty(limits.resamples)
    for number in range(limits.resamples):
        weight = np.bincount(rng.integers(count, size=count), minlength=count).astype(float)
        draws[number] = statistic(weight[customer])
    tail = (1 - limits.confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
