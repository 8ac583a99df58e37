"""How good scores are: for the data scientist, the subject-matter expert and the stakeholder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from models.charter import Value


@dataclass(frozen=True)
class Metrics:
    """Scores of one model on held-out rows."""

    auc: float
    average_precision: float
    brier: float
    log_loss: float
    churners_found: float  # share of all churners among the customers contacted
    lift: float  # churn rate of the customers contacted over the churn rate of all
    value: float  # money a cut, realised by contacting the top K
    contacted: int

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        return {f"{prefix}{name}": float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Ranked:
    """A score sorted once, so that many resamples need no sorting again."""

    order: np.ndarray
    starts: np.ndarray  # where each run of equal scores begins

    @staticmethod
    def of(score: np.ndarray) -> Ranked:
        order = np.argsort(score, kind="stable")
        ordered = score[order]
        return Ranked(order, np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]))

    def auc(self, y: np.ndarray, weight: np.ndarray | None = None) -> float:
        """Area under the ROC curve with case weights, ties counted half (Mann-Whitney); NaN for a single class."""
        weights = np.ones(len(y)) if weight is None else weight
        positive = np.add.reduceat((weights * y)[self.order], self.starts)
        negative = np.add.reduceat((weights * (1 - y))[self.order], self.starts)
        total = positive.sum() * negative.sum()
        if total == 0:
            return float("nan")
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / total)


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve."""
    return Ranked.of(score).auc(np.asarray(y, dtype=float))


def realised_value(
    y: np.ndarray, order: np.ndarray, value: Value, weight: np.ndarray | None = None
) -> float:
    """Money a cut: of the top K, churners x share who stay x worth, minus K x cost.

    Args:
        y: 1 where the customer churned, shape (n,).
        order: row numbers by falling score.
        weight: how often each row stands in a bootstrap sample; K counts with it.
    """
    weights = (np.ones(len(y)) if weight is None else weight)[order]
    before = np.cumsum(weights) - weights
    taken = np.clip(value.contact_budget - before, 0, weights)
    found = float((taken * y[order]).sum())
    return found * value.share_who_stay * value.worth_of_saved - float(taken.sum()) * value.cost_of_contact


def rank(score: np.ndarray, entities: Any) -> np.ndarray:
    """Row numbers by falling score; ties by entity, so a ranking never depends on the order of rows."""
    return np.lexsort((np.asarray(entities).astype(str), -score))


def evaluate(rows: pd.DataFrame, probability: np.ndarray, *, label: str, entity: str, value: Value) -> Metrics:
    """Every metric of one model on held-out rows of one cut or several.

    Raises:
        ValueError: one class only (by scikit-learn).
    """
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss

    y = rows[label].to_numpy(dtype=float)
    order = rank(probability, rows[entity])
    contacted = min(value.contact_budget, len(y))
    top = y[order[:contacted]]
    return Metrics(
        auc=auc(y, probability),
        average_precision=float(average_precision_score(y, probability)),
        brier=float(brier_score_loss(y, probability)),
        log_loss=float(log_loss(y, np.clip(probability, 1e-9, 1 - 1e-9))),
        churners_found=float(top.sum() / y.sum()),
        lift=float(top.mean() / y.mean()),
        value=realised_value(y, order, value),
        contacted=contacted,
    )


def budget_threshold(probability: np.ndarray, budget: int) -> float:
    """The probability of the last customer the contact budget has room for; 0 where it has room for all."""
    if len(probability) <= budget:
        return 0.0
    return float(np.sort(probability)[::-1][budget - 1])
