"""Levels of the contract's segment columns: categories as they are, numbers by quarters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd

from models.contract import Column, Contract
from models.errors import DataError, nearest

MISSING: Final = "(missing)"
OTHER: Final = "(other)"
MOST_LEVELS: Final = 12  # of a category: rarer ones are one level together
MEASURES: Final = ("days", "years", "months", "weeks", "hours", "minutes")  # units a label says; the rest stay bare
_NUMBER: Final = re.compile(r"^(up to |over )?(-?[\d,]+(?:\.\d+)?(?:e[+-]?\d+)?)")


def segment_levels(rows: pd.DataFrame, contract: Contract) -> dict[str, np.ndarray]:
    """Level of each row, by segment column, each of shape (n,).

    Numbers are cut at their quartiles, rounded to about a hundredth of their spread so that a label can be read and is
    exact: `12.5 to 30.1 days` is above 12.5 and at most 30.1, of whole numbers `13 to 30` is both and all between.
    Numbers with four values or fewer are levels as they are.

    Raises:
        DataError: a segment column is missing.
    """
    levels = {}
    for column in contract.features:
        if not column.segment:
            continue
        if column.name not in rows.columns:
            raise DataError(f"cannot cut segments by {column.name!r}: the rows lack it; "
                            f"{nearest(column.name, map(str, rows))}")
        levels[column.name] = _categories(rows[column.name]) if column.role == "categorical" else _quarters(
            pd.to_numeric(rows[column.name]).to_numpy(dtype=float, na_value=np.nan), column)
    return levels


def ordered_levels(levels: Iterable[object]) -> list[str]:
    """Each level once: numbers by size, then names, what is missing or rare last."""
    def place(level: str) -> tuple[int, float, str]:
        number = _NUMBER.match(level)
        if level in (OTHER, MISSING):
            return 2, float(level == MISSING), level
        if number is None:
            return 1, 0.0, level
        start, below = float(number[2].replace(",", "")), number[1] == "up to "
        return 0, -math.inf if below else start, level

    return sorted({str(level) for level in levels}, key=place)


def _categories(values: pd.Series) -> np.ndarray:
    found = values.astype(object).where(values.notna(), MISSING).astype(str)
    counts = found[found != MISSING].value_counts()
    if len(counts) > MOST_LEVELS:
        # Equal counts by name: which are rare must not depend on the order of rows.
        kept = counts.reset_index().sort_values(["count", str(found.name)], ascending=[False, True])
        common = set(kept[str(found.name)].head(MOST_LEVELS - 1)) | {MISSING}
        found = found.where(found.isin(common), OTHER)
    return found.to_numpy(dtype=str)


def _quarters(values: np.ndarray, column: Column) -> np.ndarray:
    known = values[np.isfinite(values)]
    unit = f" {column.unit}" if column.unit in MEASURES else ""
    if not len(known):
        return np.full(len(values), MISSING)
    distinct = np.unique(known)
    if len(distinct) <= 4:
        names = np.array([f"{_text(one)}{unit}" for one in distinct])
        place = np.searchsorted(distinct, np.where(np.isfinite(values), values, distinct[0]))
        return np.where(np.isfinite(values), names[place], MISSING)
    quartiles = np.quantile(known, [0.25, 0.5, 0.75])
    spread = quartiles[2] - quartiles[0] or float(np.ptp(known))
    whole = bool((known == np.floor(known)).all())  # then the floor of an edge parts them alike
    edges = np.unique(np.floor(quartiles) if whole else np.round(quartiles, 2 - math.floor(math.log10(spread))))
    names = np.array([
        f"up to {_text(edges[0])}{unit}",
        *(f"{_between(low + 1 if whole else low, high)}{unit}" for low, high in pairwise(edges)),
        f"over {_text(edges[-1])}{unit}",
    ])
    return np.where(np.isnan(values), MISSING, names[np.searchsorted(edges, values, side="left")])


def _between(low: float, high: float) -> str:
    return _text(high) if low == high else f"{_text(low)} to {_text(high)}"


def _text(number: float) -> str:
    """As short as it is exact to the eye: 12, 12.5, 1,200."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.6g}"
