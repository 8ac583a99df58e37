"""What a model must beat to be worth its keep: one column, contact nobody, contact everyone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from models.charter import Value
from models.contract import Column, Contract
from models.errors import DataError
from models.evaluation.ranks import auc, money, rank, realised_value
from models.serving.scorer import feature_frame
from models.training.estimators import fit_pipeline


@dataclass(frozen=True)
class Baseline:
    """The best single column: what a model must beat to be worth its keep."""

    column: str
    sign: int  # +1: more of it, more churn

    def score(self, rows: pd.DataFrame) -> np.ndarray:
        """A ranking score, shape (n,); no probability. A missing value ranks lowest."""
        values = self.sign * rows[self.column].to_numpy(dtype=np.float64)
        return np.where(np.isnan(values), -np.inf, values)


def best_single_column(rows: pd.DataFrame, y: np.ndarray, contract: Contract) -> Baseline:
    """The numeric feature and direction with the greatest AUC on training rows.

    Raises:
        DataError: the contract has no numeric feature.
    """
    if not contract.numeric:
        raise DataError(f"cannot take a baseline: none of the {len(contract.features)} features is numeric. Add a "
                        "number to the snapshot, for example how long ago or how often")
    candidates = [Baseline(name, sign) for name in contract.numeric for sign in (1, -1)]
    return max(candidates, key=lambda candidate: auc(y, candidate.score(rows)))


def one_column_scores(
    train: pd.DataFrame, y: np.ndarray, test: pd.DataFrame, contract: Contract, *, weight: np.ndarray | None = None,
    random_state: int,
) -> dict[str, np.ndarray]:
    """Churn probability of the test rows by one-column models, shape (n,) each: the best column of each group.

    The groups are the contract's (how long ago, how often, ...). A column counts in the direction the contract
    states; best is the greatest AUC on training rows. Each is the logistic pipeline with this column as its only
    feature, so a baseline gets the same care as the model.
    """
    scores = {}
    for column in _best_of_groups(train, y, contract):
        single = replace(contract, snapshot=(column,))
        pipeline = fit_pipeline("logistic", train, y, single, random_state=random_state, weight=weight)
        scores[column.name] = np.asarray(pipeline.predict_proba(feature_frame(test, single))[:, 1])
    return scores


def _best_of_groups(train: pd.DataFrame, y: np.ndarray, contract: Contract) -> list[Column]:
    signed = [column for column in contract.features
              if column.role == "numeric" and column.sign and train[column.name].notna().any()]
    groups: dict[str, list[tuple[float, Column]]] = {}
    for column in signed:
        found = auc(y, Baseline(column.name, column.sign).score(train))
        groups.setdefault(column.group, []).append((found, column))
    return [max(members, key=lambda member: member[0])[1] for members in groups.values()]


def baseline_values(
    y: np.ndarray, scores: Mapping[str, np.ndarray], entities: Any, value: Value, weight: np.ndarray | None = None
) -> dict[str, float]:
    """Money realised on the test rows by each baseline: `nobody`, `everyone`, and the top of the budget by a column.

    Contacting everyone ignores the budget: it says what the budget costs, or that no model is needed.

    Args:
        weight: how many customers each row stands for; None: one.
    """
    weights = np.ones(len(y)) if weight is None else weight
    everyone = float(money((weights * y).sum(), weights.sum(), value))
    by_column = {name: realised_value(y, rank(score, entities), value, weight) for name, score in scores.items()}
    return {"nobody": 0.0, "everyone": everyone, **by_column}
