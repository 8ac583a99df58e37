"""Readings of machines that fail the sooner the more they shake, and the hotter they run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl


def write_readings(path: Path, *, machines: int = 600, weeks: int = 36) -> None:
    """Weekly readings from 2024-01-01 on: each week a machine is around its own level and may fail."""
    rng = np.random.default_rng(5)
    level, heat = rng.gamma(4, 2, machines), rng.normal(60, 15, machines)
    start = datetime(2024, 1, 1, 6, tzinfo=UTC)
    frames = []
    for week in range(weeks):
        vibration = np.clip(level * rng.lognormal(0, 0.15, machines), 0, 100)
        fails = rng.random(machines) < 1 / (1 + np.exp(-(level - 14) / 2 - (heat - 60) / 15))
        frames.append(pl.DataFrame({
            "machine": [f"m{number:03}" for number in range(machines)],
            "at": (start + timedelta(weeks=week)).strftime("%Y-%m-%d %H:%M:%S"),
            "mm_s": vibration.round(3),
            "celsius": (heat + rng.normal(0, 2, machines)).round(1),
            "state": np.where(fails, "failure", "ok"),
        }))
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.concat(frames).write_csv(path)
