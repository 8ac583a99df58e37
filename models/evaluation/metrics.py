"""How good scores are: for the data scientist, the subject-matter expert and the stakeholder."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from models.charter import Value
from models.errors import DataError
from models.evaluation.calibration import log_losses, squared_errors
from models.evaluation.ranks import Ranked, auc, money, rank, realised_value, taken_by_budget

__all__ = ["Metrics", "Ranked", "auc", "evaluate", "measure", "rank", "realised_value"]


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


def evaluate(
    rows: pd.DataFrame, probability: np.ndarray, *, label: str, entity: str, value: Value,
    weight: np.ndarray | None = None,
) -> Metrics:
    """Every metric of one model on held-out rows of one cut or several; see `measure`.

    Raises:
        DataError: one class only.
    """
    y = rows[label].to_numpy(dtype=float)
    if not 0 < y.sum() < len(y):
        raise DataError(f"cannot evaluate {len(y):,} rows of which {int(y.sum()):,} churned: it takes both who churned "
                        "and who stayed. Take a longer range, or look at the label")
    return measure(y, probability, rows[entity].to_numpy(), value=value, weight=weight)


def measure(
    y: np.ndarray, probability: np.ndarray, entities: np.ndarray, *, value: Value, weight: np.ndarray | None = None
) -> Metrics:
    """Every metric of one model on rows that have both classes.

    Args:
        y: labels, shape (n,); `probability` and `entities` of the same rows.
        weight: how many customers each row stands for; the contact budget counts with it. None: one.
    """
    weights = np.ones(len(y)) if weight is None else weight
    order, ranked = rank(probability, entities), Ranked.of(probability)
    taken = taken_by_budget(weights[order], value.contact_budget)
    found, contacted, churners = float(taken @ y[order]), float(taken.sum()), float(weights @ y)
    return Metrics(
        auc=ranked.auc(y, weights),
        average_precision=ranked.average_precision(y, weights),
        brier=float(np.average(squared_errors(y, probability), weights=weights)),
        log_loss=float(np.average(log_losses(y, probability), weights=weights)),
        churners_found=found / churners,
        lift=(found / contacted) / (churners / float(weights.sum())),
        value=float(money(found, contacted, value)),
        contacted=round(contacted),
    )
