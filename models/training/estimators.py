"""The estimators: pipelines whose preprocessing follows from the contract's roles, and what may be tuned of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from models.contract import Contract
from models.serving.scorer import feature_frame

EstimatorName = Literal["logistic", "boosting"]
ESTIMATORS: Final[tuple[EstimatorName, ...]] = ("logistic", "boosting")
MOST_CATEGORIES: Final = 30  # columns a category makes; the rarer words share one, and so do words never seen
LEAST_ROWS_A_CATEGORY: Final = 10


@dataclass(frozen=True)
class Range:
    """The values a hyper-parameter may take, and the one it starts from."""

    low: float
    high: float
    start: float
    log: bool = True
    whole: bool = False


# Regularised on purpose: the defaults of boosting (no l2, 31 leaves of 20 rows, a step of 0.1) overfit some thousand
# rows. The first trial of each estimator is its start.
SPACES: Final[Mapping[EstimatorName, Mapping[str, Range]]] = {
    "logistic": {"C": Range(1e-3, 30, 0.3)},
    "boosting": {
        "learning_rate": Range(0.02, 0.2, 0.1),
        "max_iter": Range(40, 200, 100, whole=True),
        "max_leaf_nodes": Range(3, 32, 4, whole=True),
        "min_samples_leaf": Range(20, 300, 60, whole=True),
        "l2_regularization": Range(0.1, 50, 5),
    },
}


def start_params(name: EstimatorName) -> dict[str, float]:
    """What an estimator is tried with first."""
    return {key: int(one.start) if one.whole else float(one.start) for key, one in SPACES[name].items()}


def make_pipeline(
    name: EstimatorName, contract: Contract, *, random_state: int, params: Mapping[str, float] | None = None,
    null: Collection[str] = (),
) -> Any:
    """An unfitted pipeline from feature columns to a churn probability.

    Args:
        params: of the classifier; None: those it is tried with first.
        null: features without a value in the rows it will be fitted on (`null_features`); it ignores them.
    """
    from sklearn.pipeline import Pipeline

    model = make_model(name, random_state=random_state, params=params)
    return Pipeline([("columns", make_columns(name, contract, null=null)), ("model", model)])


def fit_pipeline(
    name: EstimatorName, rows: pd.DataFrame, y: np.ndarray, contract: Contract, *, random_state: int,
    params: Mapping[str, float] | None = None, weight: np.ndarray | None = None,
) -> Any:
    """A pipeline fitted on rows of the contract's features; those that are null throughout are left out.

    Raises:
        DataError: see `scorer.feature_frame`.
    """
    features = feature_frame(rows, contract)
    pipeline = make_pipeline(name, contract, random_state=random_state, params=params, null=null_features(features))
    return pipeline.fit(features, y, model__sample_weight=weight)


def null_features(features: pd.DataFrame) -> list[str]:
    """Numbers and words that are missing throughout, of a frame of `scorer.feature_frame`."""
    return [str(name) for name in features.columns[features.isna().all()]]


def make_columns(name: EstimatorName, contract: Contract, *, null: Collection[str] = ()) -> Any:
    """The preprocessing, unfitted: from the frame of `scorer.feature_frame` to a matrix.

    `logistic`: missing numbers become the median beside an indicator, those that cannot be negative are taken as
    log1p, all are scaled. `boosting`: numbers as they are, missing ones included. Words become indicators; so many at
    most, the rare ones share one. A feature that is `null` throughout is left out: boosting cannot bin it.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder

    words = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES,
                          min_frequency=LEAST_ROWS_A_CATEGORY, sparse_output=False)
    positive, signed, categorical = (
        [column for column in columns if column not in null] for columns in (*split_numeric(contract),
                                                                             contract.categorical)
    )
    if name == "boosting":
        numeric = [column for column in contract.numeric if column not in null]
        return ColumnTransformer([("numeric", "passthrough", numeric), ("categorical", words, categorical)])
    return ColumnTransformer([
        ("positive", _numbers(log=True), positive), ("signed", _numbers(log=False), signed),
        ("categorical", words, categorical),
    ])


def make_model(name: EstimatorName, *, random_state: int, params: Mapping[str, float] | None = None) -> Any:
    """The classifier behind the preprocessing, unfitted; without `params` as it is tried first."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    chosen = dict(start_params(name) if params is None else params)
    if name == "boosting":
        return HistGradientBoostingClassifier(**chosen, early_stopping=False, random_state=random_state)
    return LogisticRegression(**chosen, solver="newton-cholesky", max_iter=100, random_state=random_state)


def split_numeric(contract: Contract) -> tuple[list[str], list[str]]:
    """Numeric features that cannot be negative, and the others."""
    positive = [column.name for column in contract.features
                if column.role == "numeric" and column.minimum is not None and column.minimum >= 0]
    return positive, [name for name in contract.numeric if name not in positive]


def _numbers(*, log: bool) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    steps: list[tuple[str, Any]] = [("impute", imputer)]
    if log:
        steps.append(("log1p", FunctionTransformer(np.log1p)))
    return Pipeline([*steps, ("scale", StandardScaler())])
