"""Curves of one model over ordered rows: ROC, gain, profit and calibration, for many sets of weights at once.

Each is read off at fixed places, so that the curves of resamples can be laid over each other (pointwise bands).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from models.charter import Value
from models.evaluation.bootstrap import bands
from models.evaluation.ranks import money, rank, run_sums, tie_starts
from models.evaluation.result import Curve

GRID: Final = np.linspace(0, 1, 101)


def roc_draws(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Share of churners above each share of stayers in `GRID`, shape (m, 101); sums of ties, highest score first."""
    return _read_off(np.cumsum(negative, axis=-1), np.cumsum(positive, axis=-1))


def gain_draws(weight: np.ndarray, churned: np.ndarray) -> np.ndarray:
    """Share of churners among each share of customers in `GRID`, in the order they are contacted, shape (m, 101)."""
    return _read_off(np.cumsum(weight, axis=-1), np.cumsum(churned, axis=-1))


def _read_off(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Both running sums as shares of their totals, read off along the one; NaN where a total is none."""
    found = np.full((len(across), len(GRID)), np.nan)
    for row, (x, y) in enumerate(zip(across, up, strict=True)):
        if x[-1] > 0 and y[-1] > 0:
            places = GRID * x[-1]
            after = np.minimum(np.searchsorted(x, places, side="right"), len(x) - 1)
            x0, y0 = np.where(after > 0, x[after - 1], 0), np.where(after > 0, y[after - 1], 0)
            step = x[after] - x0
            part = np.divide(places - x0, step, out=np.ones_like(step), where=step > 0)
            found[row] = (y0 + np.minimum(part, 1) * (y[after] - y0)) / y[-1]
    return found


def banded(x: np.ndarray, y: np.ndarray, draws: np.ndarray, *, confidence: float,
           marks: Mapping[str, float] | None = None) -> Curve:
    """A curve with the band of its draws, shape (resamples, len(x))."""
    low, high = bands(draws, confidence=confidence)
    return Curve(x, y, low, high, dict(marks or {}))


def profit_marks(weight: np.ndarray, churned: np.ndarray, value: Value) -> dict[str, float]:
    """The contact budget and the depth that would have brought most, with the money of each; shapes (n,).

    The best depth is known afterwards only: on the rows that chose it, it is too good.
    """
    contacted, found = np.r_[0, np.cumsum(weight)], np.r_[0, np.cumsum(churned)]
    profit = money(found, contacted, value)
    best = int(profit.argmax())
    budget = min(float(value.contact_budget), float(contacted[-1]))
    return {"budget": budget, "budget_value": float(np.interp(budget, contacted, profit)),
            "best_depth": float(contacted[best]), "best_value": float(profit[best])}


def ranking_curves(y: np.ndarray, score: np.ndarray, entities: np.ndarray, *, value: Value) -> dict[str, Curve]:
    """ROC, gain and profit of any ranking, without bands: a baseline to draw beside a model's."""
    order = rank(score, entities)
    churned, weight = np.asarray(y, dtype=float)[order], np.ones(len(order))
    starts = tie_starts(score[order])
    gain = gain_draws(weight[None], churned[None])[0]
    roc = roc_draws(run_sums(churned, starts)[None], run_sums(1 - churned, starts)[None])[0]
    depth = GRID * len(order)
    profit = money(gain * churned.sum(), depth, value)
    unknown = np.full(len(GRID), np.nan)
    return {
        "roc": Curve(GRID, roc, unknown, unknown),
        "gain": Curve(GRID, gain, unknown, unknown),
        "profit": Curve(depth, profit, unknown, unknown, profit_marks(weight, churned, value)),
    }
