"""Rows as a release scores them: what drift is looked for in."""

from __future__ import annotations

import numpy as np
import pandas as pd

from models.gates.drift import PREDICTION


def rows(count: int = 800, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({
        "weight": random.lognormal(size=count),
        "gaps": np.where(random.random(count) < 0.1, np.nan, random.normal(size=count)),
        "colour": random.choice(np.array(["red", "blue", None], dtype=object), count, p=[0.6, 0.3, 0.1]),
        PREDICTION: random.beta(2, 5, count),
    })
