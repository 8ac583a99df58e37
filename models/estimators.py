"""The candidates: two pipelines whose preprocessing follows from the contract's roles, and a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from models.contract import Contract
from models.scorer import feature_frame

EstimatorName = Literal["logistic", "boosting"]
ESTIMATORS: Final[tuple[EstimatorName, ...]] = ("logistic", "boosting")
FOLDS: Final = 3


def make_pipeline(name: EstimatorName, contract: Contract, *, random_state: int) -> Any:
    """An unfitted pipeline from feature columns to a churn probability.

    `logistic`: missing numbers become the median beside an indicator, those that cannot be negative are
    taken as log1p, all are scaled. `boosting`: numbers as they are (missing ones included), with few
    leaves, many rows a leaf and a small step: the defaults overfit sets of some thousand rows.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder

    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    if name == "boosting":
        columns = ColumnTransformer(
            [("numeric", "passthrough", contract.numeric), ("categorical", categories, contract.categorical)]
        )
        model: Any = HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=120, max_leaf_nodes=12, min_samples_leaf=60, l2_regularization=5.0,
            early_stopping=False, random_state=random_state,
        )
    else:
        positive = [column.name for column in contract.features if column.minimum is not None and column.minimum >= 0]
        signed = [name for name in contract.numeric if name not in positive]
        columns = ColumnTransformer([
            ("positive", _numbers(log=True), [name for name in positive if name in contract.numeric]),
            ("signed", _numbers(log=False), signed),
            ("categorical", categories, contract.categorical),
        ])
        model = LogisticRegression(C=0.3, solver="newton-cholesky", max_iter=100, random_state=random_state)
    return Pipeline([("columns", columns), ("model", model)])


def _numbers(*, log: bool) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    steps: list[tuple[str, Any]] = [("impute", SimpleImputer(strategy="median", add_indicator=True))]
    if log:
        steps.append(("log1p", FunctionTransformer(np.log1p)))
    return Pipeline([*steps, ("scale", StandardScaler())])


def out_of_fold(
    name: EstimatorName, rows: pd.DataFrame, y: np.ndarray, contract: Contract, *, random_state: int
) -> np.ndarray:
    """Probability of each row by a pipeline that never saw its customer, shape (n,).

    All rows of a customer are in one fold: a customer stands in several cuts, and must not be recognised.
    """
    from sklearn.model_selection import GroupKFold

    X = feature_frame(rows, contract)
    probabilities = np.empty(len(rows))
    folds = GroupKFold(FOLDS, shuffle=True, random_state=random_state)
    for fit, held_out in folds.split(X, y, groups=rows[contract.entity_key]):
        pipeline = make_pipeline(name, contract, random_state=random_state).fit(X.iloc[fit], y[fit])
        probabilities[held_out] = pipeline.predict_proba(X.iloc[held_out])[:, 1]
    return probabilities


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
    """The numeric feature and direction with the greatest AUC on training rows."""
    from models.metrics import auc

    candidates = [Baseline(name, sign) for name in contract.numeric for sign in (1, -1)]
    return max(candidates, key=lambda candidate: auc(y, candidate.score(rows)))
