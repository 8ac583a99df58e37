"""A small world to fit on: who has been silent leaves, the rest is noise."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd

from models.charter import Charter, Problem, Value
from models.contract import Column, Contract
from models.cuts import CutPlan

CUTS = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3)]
PLAN = CutPlan(train=tuple(CUTS[:2]), test=(CUTS[2],))
CONTRACT = Contract("id", "left", (), (
    Column("silent", "float64", "numeric", "days", "since the last visit", nullable=True, minimum=0, group="recency",
           sign=1),
    Column("noise", "float64", "numeric", "count", "nothing", nullable=True),
    Column("tier", "string", "categorical", "tier", "which", nullable=True, categories=("a", "b")),
), {})
CHARTER = Charter(
    name="test", problem=Problem(horizon_days=30),
    value=Value(customers=100, monthly_churners=20, share_found=0.5, share_who_stay=0.5, worth_of_saved=10,
                contact_budget=40),
)


def rows(seed: int = 1, customers: int = 400, cuts: list[datetime] = CUTS) -> pd.DataFrame:
    """Each customer at each cut."""
    rng = np.random.default_rng(seed)
    frames = []
    for cut in cuts:
        silent = rng.gamma(2, 10, customers)
        left = rng.random(customers) < 1 / (1 + np.exp(-(silent - 30) / 6))
        frames.append(pd.DataFrame({
            "id": [f"c{number}" for number in range(customers)], "event_timestamp": cut, "left": left.astype(int),
            "silent": np.where(rng.random(customers) < 0.05, np.nan, silent), "noise": rng.normal(size=customers),
            "tier": rng.choice(np.array(["a", "b", None], dtype=object), customers),
        }))
    return pd.concat(frames, ignore_index=True)
