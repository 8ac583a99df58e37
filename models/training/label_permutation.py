"""Shuffled labels must teach nothing: whatever fits them scores held-out rows no better than by chance.

Rows keep their features and lose their label to another row of the same cut (Ojala & Garriga, Permutation tests for
studying classifier performance, JMLR 11, 2010). A score that finds the shuffled labels of rows it never saw was told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from models.contract import Contract
from models.evaluation.bootstrap import Interval
from models.evaluation.ranks import auc

# From rows with labels to the scores of others.
Fitters = Mapping[str, Callable[[pd.DataFrame, pd.DataFrame], np.ndarray]]
PERMUTATIONS: Final = 3
DEVIATIONS: Final = 3.9  # of the normal law: one false alarm in ten thousand


def permuted_auc(
    rows: pd.DataFrame, contract: Contract, fit_on: np.ndarray, *, fitters: Fitters | None = None, random_state: int
) -> dict[str, Interval]:
    """AUC on shuffled labels of held-out rows, mean of three shuffles, with the interval of chance around it.

    Judged by the shuffled labels and not the real ones: a model of noise may by chance rank like the strongest
    feature, and would then look far from chance. The width is that of the rank sum when scores and labels are
    unrelated (Mann & Whitney, 1947).

    Args:
        fit_on: which rows are fitted, shape (n,); the others are scored.
        fitters: by name, what fits and scores (default: every estimator as it is tried first).
    """
    known = fitters if fitters is not None else _every_estimator(contract, random_state)
    seen: dict[str, list[float]] = {name: [] for name in known}
    spreads = []
    rng = np.random.default_rng(random_state)
    for _ in range(PERMUTATIONS):
        shuffled = _shuffled(rows, contract, rng)
        fitted, held_out = shuffled[fit_on], shuffled[~fit_on]
        y = held_out[contract.label].to_numpy(dtype=float)
        churned, stayed = y.sum(), (1 - y).sum()
        spreads.append((churned + stayed + 1) / (12 * churned * stayed))
        for name, fit_and_score in known.items():
            score = np.asarray(fit_and_score(fitted, held_out), dtype=float)
            seen[name].append(auc(y, score) if np.isfinite(score).all() else float("nan"))
    around = DEVIATIONS * math.sqrt(sum(spreads)) / PERMUTATIONS
    return {name: Interval(mean, mean - around, mean + around)
            for name, mean in ((name, float(np.mean(aucs))) for name, aucs in seen.items())}


def _shuffled(rows: pd.DataFrame, contract: Contract, rng: np.random.Generator) -> pd.DataFrame:
    """Labels dealt anew within each cut; a pipeline that peeks at the column sees the new ones only."""
    labels = rows[contract.label].to_numpy().copy()
    for places in rows.groupby("event_timestamp", sort=True).indices.values():
        labels[places] = labels[rng.permutation(places)]
    return rows.assign(**{contract.label: labels})


def _every_estimator(contract: Contract, random_state: int) -> Fitters:
    from threadpoolctl import threadpool_limits

    from models.serving.scorer import feature_frame
    from models.training.estimators import ESTIMATORS, fit_pipeline

    def fitter(name: Any) -> Callable[[pd.DataFrame, pd.DataFrame], np.ndarray]:
        def fit_and_score(fitted: pd.DataFrame, held_out: pd.DataFrame) -> np.ndarray:
            with threadpool_limits(limits=1):
                pipeline = fit_pipeline(name, fitted, fitted[contract.label].to_numpy(), contract,
                                        random_state=random_state)
                return np.asarray(pipeline.predict_proba(feature_frame(held_out, contract))[:, 1])

        return fit_and_score

    return {name: fitter(name) for name in ESTIMATORS}
