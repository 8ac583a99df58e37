"""Scores that depend on the order of the customers alone: AUC, average precision, what the top K brings.

Sums run over ties, so that equal scores count alike; weights say how often a row stands in a bootstrap sample,
or how many customers it stands for. Every function takes one set of weights, shape (n,), or many, (m, n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.charter import Value


def rank(score: np.ndarray, entities: Any) -> np.ndarray:
    """Row numbers by falling score; ties by entity, so a ranking never depends on the order of rows."""
    return np.lexsort((np.asarray(entities).astype(str), -score))


def tie_starts(ordered: np.ndarray) -> np.ndarray:
    """Where each run of equal scores begins in ordered scores; shape (runs,)."""
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def run_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sum of each run of ties, shape (..., runs)."""
    return values if len(starts) == values.shape[-1] else np.add.reduceat(values, starts, axis=-1)


def auc_of_runs(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, ties counted half (Mann-Whitney); NaN where a class has no weight.

    Args:
        positive: weight of the churners in each run of equal scores, highest score first, shape (..., runs).
        negative: of those who stayed.
    """
    above = np.cumsum(positive, axis=-1)
    total = above[..., -1] * negative.sum(axis=-1)
    wins = np.einsum("...i,...i->...", negative, above - positive / 2)
    return np.asarray(np.divide(wins, total, out=np.full_like(total, np.nan), where=total > 0))


def average_precision_of_runs(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Mean precision over the churners, each at its own score; NaN where a class has no weight."""
    found = np.cumsum(positive, axis=-1)
    contacted = np.cumsum(positive + negative, axis=-1)
    precision = np.divide(found, contacted, out=np.zeros_like(found), where=contacted > 0)
    churners, total = found[..., -1], contacted[..., -1]
    known = (churners > 0) & (total > churners)
    sums = np.einsum("...i,...i->...", positive, precision)
    return np.asarray(np.divide(sums, churners, out=np.full_like(total, np.nan), where=known))


def taken_by_budget(weight: np.ndarray, budget: float) -> np.ndarray:
    """How much of each ordered row the top K holds: K counts with the weights, the last row perhaps in part."""
    before = np.cumsum(weight, axis=-1) - weight
    return np.asarray(np.clip(budget - before, 0, weight))


def money(found: Any, contacted: Any, value: Value) -> Any:
    """Money a cut: churners found x share who stay x worth, minus contacts x cost."""
    return found * value.share_who_stay * value.worth_of_saved - contacted * value.cost_of_contact


def realised_value(y: np.ndarray, order: np.ndarray, value: Value, weight: np.ndarray | None = None) -> float:
    """Money a cut: of the top K, churners x share who stay x worth, minus K x cost.

    Args:
        y: 1 where the customer churned, shape (n,).
        order: row numbers by falling score.
        weight: how often each row stands in a bootstrap sample; K counts with it.
    """
    taken = taken_by_budget((np.ones(len(y)) if weight is None else weight)[order], value.contact_budget)
    return float(money(float((taken * y[order]).sum()), float(taken.sum()), value))


@dataclass(frozen=True)
class Ranked:
    """A score sorted once, so that many resamples need no sorting again."""

    order: np.ndarray  # row numbers by falling score
    starts: np.ndarray  # where each run of equal scores begins

    @staticmethod
    def of(score: np.ndarray) -> Ranked:
        order = np.argsort(-score, kind="stable")
        return Ranked(order, tie_starts(score[order]))

    def auc(self, y: np.ndarray, weight: np.ndarray | None = None) -> float:
        """Area under the ROC curve with case weights, ties counted half (Mann-Whitney); NaN for a single class."""
        return float(auc_of_runs(*self._runs(y, weight)))

    def average_precision(self, y: np.ndarray, weight: np.ndarray | None = None) -> float:
        """Average precision with case weights; NaN for a single class."""
        return float(average_precision_of_runs(*self._runs(y, weight)))

    def _runs(self, y: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        weights = np.ones(len(y)) if weight is None else weight
        positive = (weights * y)[self.order]
        return run_sums(positive, self.starts), run_sums(weights[self.order] - positive, self.starts)


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve."""
    return Ranked.of(score).auc(np.asarray(y, dtype=float))
