"""What a candidate earns: against the champion in money, or as the first model against one column and nothing.

Paired bootstrap over customers (Efron & Tibshirani, 1993, chapter 6): each resample draws customers with
replacement, both models rank them anew, and the difference of what their top K would have brought is one draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from models.charter import Value
from models.decision import Decision
from models.evaluation.bootstrap import Interval, interval
from models.evaluation.metrics import Metrics, Ranked, rank, realised_value
from models.gates.floors import Evidence
from models.limits import PromotionGate

FRONT: Final = 6  # standard deviations of how many of the ranking's first rows a resample draws


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
    weight: np.ndarray | None = None,
) -> Decision:
    """Does the candidate earn more a cut than the champion?

    Args:
        y: labels, shape (n,); `candidate` and `champion`: probabilities of the same rows; `champion` is None
            where it could not score them, and then the answer is no.
        metrics: the candidate's metrics on these rows.
        weight: what a row counts; None: one.
    """
    evidence: Evidence = {"test_rows": len(y), **metrics.as_dict("candidate_")}
    refusal = _refusal(y, candidate, entities, weight, metrics, limits)
    if refusal is None:
        refusal = _unscored(champion, y)
    if refusal is not None or champion is None:
        return Decision("promotion", "keep", f"{refusal}", evidence)
    ours, theirs = rank(candidate, entities), rank(champion, entities)

    def gain(counts: np.ndarray) -> float:
        return front_value(y, ours, value, counts) - front_value(y, theirs, value, counts)

    found = _interval(gain, entities, weight, limits, random_state)
    seen, low, high = found.value, found.low, found.high
    evidence |= {"gain": seen, "gain_low": low, "gain_high": high, "margin": limits.margin,
                 "champion_auc": Ranked.of(champion).auc(np.asarray(y, dtype=float), weight)}
    numbers = (f"value {seen:+,.0f} a cut, {limits.confidence:.0%} interval [{low:+,.0f}, {high:+,.0f}], "
               f"AUC {metrics.auc:.3f} against {evidence['champion_auc']:.3f}")
    if not np.isfinite([seen, low, high]).all():
        return Decision("promotion", "keep", f"the gain cannot be told: {numbers}", evidence)
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
    weight: np.ndarray | None = None,
) -> Decision:
    """The first model: does it rank better than the best single column, and bring money at all?

    Judged on AUC: the baseline is no model that has ever earned anything.

    Args:
        baseline: a score of each row, shape (n,); below all others, minus infinity, where its column is missing.
    """
    evidence: Evidence = {"test_rows": len(y), **metrics.as_dict("candidate_")}
    refusal = _refusal(y, candidate, entities, weight, metrics, limits)
    if refusal is None and (len(baseline) != len(y) or np.isnan(baseline).any()):
        refusal = f"the baseline {baseline_column} has no score for each test row, so nothing can be compared"
    if refusal is None and not metrics.value > 0:
        refusal = (f"contacting the top {metrics.contacted:,} would cost more than it brings "
                   f"({metrics.value:+,.0f} a cut)")
    if refusal is not None:
        return Decision("promotion", "keep", refusal, evidence)
    labels, ours, theirs = y.astype(float), Ranked.of(candidate), Ranked.of(baseline)

    def gain(counts: np.ndarray) -> float:
        return ours.auc(labels, counts) - theirs.auc(labels, counts)

    found = _interval(gain, entities, weight, limits, random_state)
    low, high = found.low, found.high
    reference = theirs.auc(labels, weight)
    evidence |= {"baseline_auc": reference, "baseline_column": baseline_column, "gain_low": low, "gain_high": high}
    numbers = (f"AUC {metrics.auc:.3f} against {reference:.3f} by {baseline_column} alone, {limits.confidence:.0%} "
               f"interval of the gain [{low:+.3f}, {high:+.3f}]")
    if low > 0:
        return Decision("promotion", "promote", f"first model: {numbers}", evidence)
    return Decision("promotion", "keep", f"first model no better than one column: {numbers}", evidence)


def _refusal(
    y: np.ndarray, candidate: np.ndarray, entities: np.ndarray, weight: np.ndarray | None, metrics: Metrics,
    limits: PromotionGate,
) -> str | None:
    """Why nothing can be judged, or which of the plainest limits does not hold; None: neither."""
    classes = np.unique(np.asarray(y, dtype=float))
    if len(y) < limits.least_test_rows:
        return f"{len(y):,} test rows, needed are {limits.least_test_rows:,}"
    customers = len(np.unique(entities))
    if len(entities) != len(y) or customers < limits.least_test_rows:  # the bootstrap's interval is over customers
        return f"the {len(y):,} test rows are of {customers:,} customers, needed are {limits.least_test_rows:,}"
    if len(classes) < 2:
        return f"the test rows have one class only ({classes.tolist()})"
    if classes.tolist() != [0, 1]:
        return f"the labels of the test rows are {classes.tolist()[:5]}, not 0 and 1"
    if weight is not None and not (len(weight) == len(y) and np.isfinite(weight).all() and (weight > 0).all()):
        return "the weights of the test rows are not a positive number for each"
    if len(candidate) != len(y) or not np.isfinite(candidate).all():
        return "the candidate did not score every test row"
    # Written so that a metric that is not a number fails.
    if not metrics.auc >= limits.least_auc:
        return f"AUC {metrics.auc:.3f} is below the floor of {limits.least_auc:.3f}"
    if not metrics.brier <= limits.max_brier:
        return f"Brier score {metrics.brier:.3f} is above the limit of {limits.max_brier:.3f}"
    return None


def _unscored(champion: np.ndarray | None, y: np.ndarray) -> str | None:
    """Why the champion's scores cannot be compared with, or None."""
    if champion is None or len(champion) != len(y):
        return "the champion gave no scores for the test rows, so nothing can be compared"
    if not np.isfinite(champion).all():
        return f"the champion gave {int((~np.isfinite(champion)).sum())} scores that are no number"
    return None


def front_value(y: np.ndarray, order: np.ndarray, value: Value, counts: np.ndarray) -> float:
    """`realised_value`, from the front of the ranking, which in a resample nearly always holds the top K."""
    front = order[: value.contact_budget + FRONT * math.isqrt(value.contact_budget) + 1]
    enough = len(front) == len(order) or counts[front].sum() >= value.contact_budget
    return realised_value(y, front if enough else order, value, counts)


def _interval(
    statistic: Callable[[np.ndarray], float], entities: np.ndarray, weight: np.ndarray | None, limits: PromotionGate,
    random_state: int,
) -> Interval:
    def weighted(counts: np.ndarray) -> float:
        return statistic(counts if weight is None else counts * weight)

    return interval(weighted, entities, confidence=limits.confidence, resamples=limits.resamples,
                    random_state=random_state)
