"""How far probabilities can be taken at their word: Brier score, log loss, calibration line and curve.

The line is Cox's (Two further applications of a model for binary regression, Biometrika 45, 1958): a logistic
regression of what happened on the log-odds said. Slope 1 and intercept 0 are perfect; a slope below 1 says that the
probabilities are too extreme.
"""

from __future__ import annotations

from typing import Final

import numpy as np

SMALLEST: Final = float(np.finfo(np.float64).eps)  # a probability of 0 or 1 counts as this far from it
MOST_STEPS: Final = 30


def squared_errors(y: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """What each row adds to the Brier score (Brier, 1950)."""
    return np.asarray((probability - y) ** 2)


def log_losses(y: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """What each row adds to the log loss."""
    inside = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return np.asarray(-(y * np.log(inside) + (1 - y) * np.log1p(-inside)))


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Log-odds of each probability; finite for 0 and 1 as well."""
    inside = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def calibration_line(
    y: np.ndarray, x: np.ndarray, weight: np.ndarray, *, start: tuple[float, float] = (0.0, 0.0),
    tolerance: float = 1e-9,
) -> tuple[np.ndarray, np.ndarray]:
    """Intercept and slope of the logistic regression of y on the log-odds x, one for each set of weights.

    Newton's method. Where it does not settle (one class, equal scores, or scores that part the classes without
    error, so that no finite slope is best), both are NaN.

    Args:
        x: log-odds, shape (n,); `weight`: shape (m, n).
        start: where to begin: the line of all rows, for resamples of them.
        tolerance: the last step is shorter than this; what remains is about its square.

    Returns:
        Two arrays of shape (m,).
    """
    sets = weight.shape[0]
    intercept, slope = np.full(sets, np.nan), np.full(sets, np.nan)
    open_sets = np.arange(sets)
    line = np.tile(np.asarray(start if np.isfinite(start).all() else (0.0, 0.0)), (sets, 1))
    squares, target = x * x, weight @ y
    target_x = weight @ (y * x)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(MOST_STEPS):
            chance = np.multiply.outer(line[:, 1], -x)
            chance -= line[:, :1]
            np.exp(chance, out=chance)
            chance += 1
            np.reciprocal(chance, out=chance)
            spread = weight[open_sets] if len(open_sets) < sets else weight.copy()
            spread *= chance
            g0, g1 = target[open_sets] - spread.sum(axis=1), target_x[open_sets] - spread @ x
            chance -= 1
            spread *= chance
            h00, h01, h11 = -spread.sum(axis=1), -(spread @ x), -(spread @ squares)
            determinant = h00 * h11 - h01 * h01
            sound = determinant > 1e-12 * h00 * h11
            step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], axis=1) / determinant[:, None]
            sound &= np.isfinite(step).all(axis=1)
            line = line + step
            done = sound & (np.abs(step).max(axis=1) < tolerance)
            intercept[open_sets[done]], slope[open_sets[done]] = line[done, 0], line[done, 1]
            kept = sound & ~done
            line, open_sets = line[kept], open_sets[kept]
            if not len(open_sets):
                break
    return intercept, slope


def calibration_bins(ordered: np.ndarray, bins: int = 10) -> np.ndarray:
    """Where bins of about equal size begin in ordered probabilities; equal ones are never parted."""
    wanted = np.arange(bins) * len(ordered) // bins
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return np.unique(starts[np.searchsorted(starts, wanted, side="right") - 1])
