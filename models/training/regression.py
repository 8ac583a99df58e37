"""A small regression: how much, rather than whether; judged against "as before" on a later cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from models.contract import Contract
from models.decision import Decision
from models.serving.scorer import feature_frame


@dataclass(frozen=True)
class Regression:
    """A fitted model and its errors on held-out rows, beside the baseline's; all in the target's unit."""

    pipeline: Any
    mean_error: float  # mean absolute error
    root_error: float  # root of the mean squared error
    baseline_mean_error: float
    baseline_root_error: float
    gain: tuple[float, float]  # 95 % interval of the baseline's mean absolute error less the model's
    rows: int


def fit_regression(
    train: pd.DataFrame, test: pd.DataFrame, contract: Contract, *, target: str, baseline: str, random_state: int
) -> Regression:
    """Fit on `train`, and compare with the baseline on `test`, which lies later in time.

    Absolute error is what is fitted and judged: a few large customers would decide a squared one.

    Args:
        contract: its features are what the model reads.
        baseline: the column that predicts "as before".
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder
    from threadpoolctl import threadpool_limits

    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    pipeline = Pipeline([
        ("columns", ColumnTransformer([
            ("numeric", "passthrough", contract.numeric), ("categorical", categories, contract.categorical)])),
        ("model", HistGradientBoostingRegressor(
            loss="absolute_error", learning_rate=0.05, max_iter=150, max_leaf_nodes=12, min_samples_leaf=60,
            early_stopping=False, random_state=random_state)),
    ])
    with threadpool_limits(limits=1):
        pipeline.fit(feature_frame(train, contract), train[target].to_numpy())
        predicted = np.maximum(pipeline.predict(feature_frame(test, contract)), 0.0)
    y, before = test[target].to_numpy(), test[baseline].to_numpy()
    errors, baseline_errors = np.abs(y - predicted), np.abs(y - before)
    return Regression(
        pipeline, float(errors.mean()), float(np.sqrt(np.mean(errors**2))), float(baseline_errors.mean()),
        float(np.sqrt(np.mean(baseline_errors**2))), _interval(baseline_errors - errors, random_state), len(test),
    )


def _interval(differences: np.ndarray, random_state: int, resamples: int = 1000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; one row a customer, so rows are drawn."""
    rng = np.random.default_rng(random_state)
    means = [rng.choice(differences, len(differences)).mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def judge_regression(model: Regression, *, baseline: str) -> Decision:
    """`use` where the model's error is surely the smaller one, else `keep` the baseline."""
    low, high = model.gain
    text = (f"mean error {model.mean_error:,.2f} against {model.baseline_mean_error:,.2f} by {baseline} on "
            f"{model.rows:,} later rows, 95% interval of the gain [{low:+,.2f}, {high:+,.2f}]")
    verdict = "use" if low > 0 else "keep"
    return Decision("value", verdict, text, {
        "mean_error": model.mean_error, "baseline_mean_error": model.baseline_mean_error,
        "root_error": model.root_error, "baseline_root_error": model.baseline_root_error, "rows": model.rows,
    })
