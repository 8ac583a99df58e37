"""The AUC's standard error without resampling, for one score or the difference of two on the same rows.

DeLong, DeLong & Clarke-Pearson (Biometrics, 1988), with case weights; the parts of one customer's rows are
added first, so that many rows of one are not taken for news.
"""

from __future__ import annotations

import numpy as np


def auc_parts(y: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """For each churner the share of stayers that score less, for each stayer that of churners that score more.

    Ties count half; shape (n,). The weighted mean over the churners, or over the stayers, is the AUC.
    """
    _, at = np.unique(score, return_inverse=True)
    churners, stayers = np.bincount(at, weight * y), np.bincount(at, weight * (1 - y))
    below = (np.cumsum(stayers) - stayers / 2) / stayers.sum()
    above = 1 - (np.cumsum(churners) - churners / 2) / churners.sum()
    return np.asarray(np.where(y == 1, below[at], above[at]))


def auc_gain(
    y: np.ndarray, score: np.ndarray, other: np.ndarray | None, entities: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float, float]:
    """`(AUC of score - AUC of other, its standard error)`; `other` None: the AUC itself.

    NaN, NaN where one class is missing.
    """
    y = np.asarray(y, dtype=float)
    weights = np.ones(len(y)) if weight is None else weight
    churners, stayers = float((weights * y).sum()), float((weights * (1 - y)).sum())
    if not (churners > 0 and stayers > 0):
        return float("nan"), float("nan")
    parts = auc_parts(y, score, weights)
    if other is not None:
        parts = parts - auc_parts(y, other, weights)
    gain = float((weights * y * parts).sum() / churners)
    _, customer = np.unique(np.asarray(entities), return_inverse=True)
    influence = np.bincount(customer, weights * (parts - gain) * np.where(y == 1, 1 / churners, 1 / stayers))
    return gain, float(np.sqrt((influence**2).sum()))
