"""Which features carry a model: permutation importance on held-out rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from models.contract import Contract
from models.evaluation.ranks import auc
from models.serving.scorer import feature_frame


def permutation_importance(
    pipeline: Any, rows: pd.DataFrame, contract: Contract, *, random_state: int, most_rows: int = 4000
) -> dict[str, float]:
    """Share of the model's ranking power each feature carries: AUC lost when it is shuffled, summing to 1.

    Permutation importance (Breiman, Random Forests, 2001), negative losses taken as none.
    """
    sample = rows.sample(min(len(rows), most_rows), random_state=random_state)
    y = sample[contract.label].to_numpy()
    rng = np.random.default_rng(random_state)
    X = feature_frame(sample, contract)
    whole = auc(y, pipeline.predict_proba(X)[:, 1])
    lost = {}
    for name in contract.feature_names:
        shuffled = X.assign(**{name: X[name].to_numpy()[rng.permutation(len(X))]})
        lost[name] = max(whole - auc(y, pipeline.predict_proba(shuffled)[:, 1]), 0.0)
    total = sum(lost.values())
    return {name: value / total if total else 0.0 for name, value in lost.items()}
