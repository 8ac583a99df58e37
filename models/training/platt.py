"""Calibration that ships inside the model: slope and intercept on the log-odds.

Platt scaling (Platt, 1999) on scores of rows the model had not seen, in the terms of Cox (Two Further Applications of
a Model for Binary Regression, 1958): slope 1 and intercept 0 are a calibrated model, a slope below 1 an overconfident
one. Folded into the fitted model's own numbers, so that nothing new is loaded or served.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from models.errors import DataError
from models.evaluation.bootstrap import interval
from models.evaluation.calibration import calibration_line, log_losses, log_odds


@dataclass(frozen=True)
class Calibration:
    """What was done to the log-odds, why, and how calibrated the shipped model is on the test rows."""

    method: Literal["platt", "none"]
    slope: float  # applied: log-odds x slope + intercept
    intercept: float
    reason: str
    test_slope: float = float("nan")  # of y on the shipped log-odds; 1 is calibrated
    test_intercept: float = float("nan")

    def checked(self, y: np.ndarray, probability: np.ndarray, weight: np.ndarray | None = None) -> Calibration:
        """The same with slope and intercept on rows that had no part in it."""
        slope, intercept = cox(y, probability, weight)
        return replace(self, test_slope=slope, test_intercept=intercept)


def rescale(probability: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Probabilities whose log-odds are `slope` times the old plus `intercept`."""
    eta = slope * log_odds(probability) + intercept
    return np.asarray(np.exp(-np.logaddexp(0, -eta)))  # without overflow, whatever the log-odds


def cox(y: np.ndarray, probability: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of y on the log-odds; NaN twice where there is no answer."""
    weights = np.ones(len(y)) if weight is None else weight
    intercept, slope = calibration_line(np.asarray(y, dtype=float), log_odds(probability), weights[None])
    return float(slope[0]), float(intercept[0])


def choose_calibration(
    y: np.ndarray, probability: np.ndarray, fold: np.ndarray, entities: np.ndarray, *, forward: bool,
    weight: np.ndarray | None = None, random_state: int, confidence: float = 0.95, resamples: int = 200,
) -> Calibration:
    """Whether slope and intercept surely lessen the log loss of rows they were not taken from, and which.

    Each fold is scored with slope and intercept of the folds before it (`forward`) or of the others. Only where the
    whole interval of the loss saved (bootstrap over customers) lies above zero are they taken, from all folds then.

    Args:
        y: labels of validated rows, shape (n,); `probability`, `fold` (0, 1, ...), `entities`, `weight` likewise.
    """
    weights = np.ones(len(y)) if weight is None else weight
    if forward and fold.max() == 0:  # a single cut has none before it: halves of its customers stand for folds
        _, customer = np.unique(entities, return_inverse=True)
        fold = np.random.default_rng(random_state).integers(2, size=customer.max() + 1)[customer]
        forward = False
    saved = np.full(len(y), np.nan)
    for number in np.unique(fold):
        source, target = (fold < number) if forward else (fold != number), fold == number
        if source.any():
            slope, intercept = cox(y[source], probability[source], weights[source])
            calibrated = rescale(probability[target], slope, intercept)
            saved[target] = log_losses(y[target], probability[target]) - log_losses(y[target], calibrated)
    judged = ~np.isnan(saved)
    slope, intercept = cox(y, probability, weight)
    if not judged.any() or not slope > 0:
        return Calibration("none", 1.0, 0.0, f"slope {slope:.3g} on validated rows, so there is no calibration to take")

    def mean(resample: np.ndarray) -> float:
        drawn = resample * weights[judged]
        return float((drawn * saved[judged]).sum() / drawn.sum())

    found = interval(mean, entities[judged], confidence=confidence, resamples=resamples, random_state=random_state)
    numbers = (f"slope {slope:.3f} and intercept {intercept:+.3f} save {found.value:+.5f} log loss a row where they "
               f"were not taken from, {confidence:.0%} interval [{found.low:+.5f}, {found.high:+.5f}]")
    if found.low > 0:
        return Calibration("platt", slope, intercept, numbers)
    return Calibration("none", 1.0, 0.0, f"not surely better: {numbers}")


def fold_in(pipeline: Any, calibration: Calibration) -> None:
    """Change the last step of a fitted pipeline so that its log-odds come out calibrated; once.

    Logistic regression: coefficients and intercept. Boosting: the baseline and the value of each leaf, whose sum the
    log-odds are.

    Raises:
        DataError: the last step is neither.
    """
    if calibration.method == "none":
        return
    model = pipeline[-1]
    if hasattr(model, "coef_"):
        model.coef_ = model.coef_ * calibration.slope
        model.intercept_ = model.intercept_ * calibration.slope + calibration.intercept
    elif hasattr(model, "_predictors"):
        model._baseline_prediction = model._baseline_prediction * calibration.slope + calibration.intercept
        for trees in model._predictors:
            for tree in trees:
                tree.nodes["value"] *= calibration.slope
    else:
        raise DataError(f"cannot calibrate a {type(model).__name__}: it is neither logistic regression nor boosting")
