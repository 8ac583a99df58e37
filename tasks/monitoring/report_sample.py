"""What the report draws of the rows: a bounded sample that tells of nobody."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from models.contract import Contract

REPORT_ROWS: Final = 5_000  # a side, drawn by Evidently: more only make it slower
DRAWN_LEVELS: Final = 20  # of a category, the most frequent; the others are drawn as one
LEAST_LEVEL: Final = 5  # drawn rows a level needs to be named: a rarer one may tell of a person
OTHERS: Final = "(other levels)"
EDGE: Final = 0.005  # share of a side beyond which numbers are drawn at the edge: an outlier empties a histogram


def drawable(
    current: pd.DataFrame, reference: pd.DataFrame, names: list[str], contract: Contract
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A sample of both sides that tells of nobody: numbers within the edges, levels that many share, and each column
    shuffled on its own, since Evidently also draws the values in the order of the rows.

    Args:
        names: columns that have values on both sides, of the type the contract says.
    """
    now, was = (side.iloc[_sample(len(side))][names].reset_index(drop=True) for side in (current, reference))
    columns: dict[str, tuple[pd.Series[Any], pd.Series[Any]]] = {}
    for name in names:
        shown = _levels if name in contract.categorical else _within_edges
        columns[name] = shown(now[name], was[name])
    random = np.random.default_rng(1)
    drawn = [pd.DataFrame({name: pair[side].to_numpy()[random.permutation(len(pair[side]))]
                           for name, pair in columns.items()}) for side in (0, 1)]
    return drawn[0], drawn[1]


def _sample(rows: int) -> np.ndarray:
    """Positions of at most `REPORT_ROWS` rows, drawn at random, always the same."""
    if rows <= REPORT_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, REPORT_ROWS, replace=False))


def _within_edges(now: pd.Series[Any], was: pd.Series[Any]) -> tuple[pd.Series[Any], pd.Series[Any]]:
    now, was = now.astype(float), was.astype(float)
    lows: list[float] = []
    highs: list[float] = []
    for side in (now, was):
        finite = side[np.isfinite(side)]
        if len(finite):
            lows.append(float(finite.quantile(EDGE, interpolation="higher")))
            highs.append(float(finite.quantile(1 - EDGE, interpolation="lower")))
    if not lows:  # nothing but infinities: equal heaps
        return now.where(now.isna(), 0.0), was.where(was.isna(), 0.0)
    return now.clip(min(lows), max(highs)), was.clip(min(lows), max(highs))


def _levels(now: pd.Series[Any], was: pd.Series[Any]) -> tuple[pd.Series[Any], pd.Series[Any]]:
    now, was = now.astype(object), was.astype(object)
    counts = pd.concat([now, was]).value_counts()
    named = set(counts[counts >= LEAST_LEVEL].index[:DRAWN_LEVELS])
    return (now.where(now.isna() | now.isin(named), OTHERS), was.where(was.isna() | was.isin(named), OTHERS))
