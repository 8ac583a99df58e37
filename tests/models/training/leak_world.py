"""A world of two features that say something and three that do not, for planting leaks into."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd

from models.contract import Column, Contract

CUTS = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2)]
CONTRACT = Contract("id", "left", (), (
    Column("silent", "float64", "numeric", "days", "since the last visit", sign=1),
    Column("visits", "int64", "numeric", "count", "visits", sign=-1),
    Column("first", "float64", "numeric", "count", "whatever is planted"),
    Column("second", "float64", "numeric", "count", "whatever is planted"),
    Column("tier", "string", "categorical", "tier", "which"),
), {})
N = 1600


def rows(seed: int = 0) -> pd.DataFrame:
    """An honest world: who has been silent leaves more often; the rest is noise."""
    rng = np.random.default_rng(seed)
    silent = rng.gamma(2, 10, N)
    left = rng.random(N) < 1 / (1 + np.exp(-(silent - 28) / 8))
    return pd.DataFrame({
        "id": [f"c{number % (N // 2)}" for number in range(N)], "event_timestamp": np.repeat(CUTS, N // 2),
        "left": left, "silent": silent, "visits": rng.poisson(60 / (5 + silent)), "first": rng.normal(size=N),
        "second": rng.normal(size=N), "tier": rng.choice(["a", "b", "c"], N),
    })
