"""Customers who were contacted: their outcome is no longer the model's to predict, so they are left out.

What remains is weighted, for those contacted are not like the others. Within a stratum of the score that
contacts follow, who stayed uncontacted stands for all of it: each counts one over the share of the stratum
that stayed so (Horvitz & Thompson, JASA, 1952; scaled to the number of rows, Hájek, 1971; subclassification,
Rosenbaum & Rubin, JASA, 1984). The hold-out, which is never contacted, is what makes that share more than
zero where everybody else was contacted; it counts in full, as part of its stratum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from models.contract import Contract
from models.serving.scorer import feature_frame

WEIGHT: Final = "contact_weight"  # column of a training set; there only where somebody was contacted
STRATA: Final = 20  # of equal size, of the score
STRATUM_ROWS: Final = 100  # with fewer in each, there are fewer strata
MOST_UNREPRESENTED: Final = 0.02  # of a cut's rows
LEAST_SHARE: Final = 0.02  # a row stands for fifty at most: one of few would carry every sum


@dataclass(frozen=True)
class ContactWeights:
    """Which rows remain, and what each counts."""

    kept: np.ndarray  # (n,) bool: uncontacted
    weight: np.ndarray  # of the kept rows, in their order; adds up to n
    left_out: int
    holdout_contacted: int  # of the hold-out, left out like the others: the promise not to contact them was broken
    unrepresented: int  # contacted rows of strata where nobody stayed uncontacted: no row stands for them
    clipped: int  # kept rows that would count more than `1 / LEAST_SHARE`


def weigh_uncontacted(contacted: np.ndarray, holdout: np.ndarray, score: np.ndarray) -> ContactWeights:
    """Weights of the rows of one cut.

    Args:
        contacted: (n,) bool, contacted within the label window; `holdout`: (n,) bool.
        score: (n,) what contacts follow: `contact_chance`, or the score they were decided on.
    """
    kept = ~np.asarray(contacted, dtype=bool)
    strata = min(max(len(kept) // STRATUM_ROWS, 1), STRATA)
    stratum = _strata(score, strata)
    rows = np.bincount(stratum, minlength=strata)
    stayed = np.bincount(stratum[kept], minlength=strata)
    share = np.divide(stayed, rows, out=np.zeros(strata), where=rows > 0)[stratum]
    raw = 1 / np.maximum(share[kept], LEAST_SHARE)
    scale = len(kept) / raw.sum() if len(raw) else 1.0
    return ContactWeights(
        kept=kept,
        weight=raw * scale,
        left_out=int((~kept).sum()),
        holdout_contacted=int((~kept & holdout).sum()),
        unrepresented=int((share[~kept] == 0).sum()),
        clipped=int((share[kept] < LEAST_SHARE).sum()),
    )


def _strata(score: np.ndarray, strata: int) -> np.ndarray:
    """The stratum of each row, 0 .. strata - 1; equal scores share one."""
    _, at, counts = np.unique(score, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts
    middle = before + counts / 2
    return np.asarray(np.minimum(middle * strata // len(score), strata - 1).astype(int)[at])


def contact_chance(
    rows: pd.DataFrame, contacted: np.ndarray, holdout: np.ndarray, contract: Contract
) -> np.ndarray:
    """How likely each row of one cut was to be contacted, by its features, shape (n,); only their order matters.

    Logistic regression on the customers outside the hold-out. From the data alone, so that a training set can be
    rebuilt when the model that chose whom to contact is gone.
    """
    from models.training.estimators import fit_pipeline

    frame, open_to = feature_frame(rows, contract), ~np.asarray(holdout, dtype=bool)
    if len(np.unique(contacted[open_to])) < 2:  # all of them or none: nothing to tell them apart by
        return np.zeros(len(rows))
    pipeline = fit_pipeline("logistic", frame[open_to], contacted[open_to], contract, random_state=0)
    return np.asarray(pipeline.predict_proba(frame)[:, 1])


def row_weights(rows: pd.DataFrame) -> np.ndarray | None:
    """What each row counts, shape (n,); None where nobody was contacted and all count one."""
    return rows[WEIGHT].to_numpy(dtype=float) if WEIGHT in rows else None


def contacted_left_out(weight: np.ndarray) -> int:
    """How many contacted rows the weights stand for besides their own."""
    return round(float(weight.sum())) - len(weight)
