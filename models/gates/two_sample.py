"""Two-sample tests of one column, reference against current, and the size of the difference.

A test says whether a difference is real, the population stability index (PSI) whether it is worth a
look: at 50,000 rows every harmless difference is real, at 500 a large PSI is often noise. Missing
values are taken out of both and tested on their own, for a test of the values cannot see them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

BINS: Final = 10  # quantile bins of the reference; a column with no more distinct values is compared level by level
FLOOR: Final = 1e-4  # least share of a bin, so that an empty one has a finite logarithm
LEAST_EXPECTED: Final = 5.0  # rows a cell must expect for the chi-square approximation
LEAST_LEVEL: Final = 0.01  # share of the smaller side below which a level is pooled with other rare ones
CORRELATED: Final = 5_000  # rows by which columns are said to go together
FEW_ROWS: Final = 50  # below, the asymptotic law of Kolmogorov and Smirnov is not good yet
MOST_EXACT: Final = 10_000  # rows of the longer side for which the exact law is quick

Counts = npt.NDArray[np.float64]
Values = npt.NDArray[Any]


def psi(reference: Counts, current: Counts) -> float:
    """Population stability index of two count vectors over the same bins; 0 for equal shares, no upper limit.

    Without drift it is about (bins - 1) x (1/n + 1/m), so it means nothing for few rows on its own
    (Yurdakul, Statistical Properties of Population Stability Index, 2018).
    """
    was = np.maximum(reference / reference.sum(), FLOOR)
    now = np.maximum(current / current.sum(), FLOOR)
    return float(np.sum((now - was) * np.log(now / was)))


def psi_by_chance(reference: Counts, current: Counts) -> float:
    """What `psi` is on average where both sides are samples of one distribution (Yurdakul, 2018)."""
    return float((len(reference) - 1) * (1 / reference.sum() + 1 / current.sum()))


def joint_psi(excess: Mapping[str, float], reference: pd.DataFrame) -> float:
    """PSI of columns together: the sum of theirs, each counted by what it does not share with the others.

    For independent columns the PSI of the joint distribution is the sum, for it is a symmetric Kullback-Leibler
    divergence. Numbers that go together say the same thing more than once: a column counts one over the sum of its
    squared rank correlations with all of them, so that k copies of a column count as one. Others count in full.

    Args:
        excess: column -> its PSI beyond `psi_by_chance`.
        reference: rows with these columns; the first `CORRELATED` are looked at.
    """
    rows = reference.iloc[:CORRELATED]
    numbers = [name for name in excess if pd.api.types.is_numeric_dtype(rows[name])]
    correlation = rows[numbers].astype(float).corr("spearman").fillna(0.0).to_numpy().copy()
    np.fill_diagonal(correlation, 1.0)
    shared = dict(zip(numbers, (correlation**2).sum(axis=0), strict=True))
    return float(sum(value / shared.get(name, 1.0) for name, value in excess.items()))


def bin_numbers(reference: Values, current: Values) -> tuple[Counts, Counts]:
    """Counts in `BINS` quantile bins, fixed from the reference alone: an outlier in current moves no edge.

    A value on which two quantiles fall is a bin of its own, so a shift off a heavy value (say zero) is seen.
    """
    quantiles = np.quantile(reference, np.arange(1, BINS) / BINS, method="inverted_cdf")  # values that occur
    edges, times = np.unique(quantiles, return_counts=True)
    edges = np.union1d(edges, np.nextafter(edges[times > 1], -np.inf))
    return _bincount(edges, reference), _bincount(edges, current)


def _bincount(edges: Values, values: Values) -> Counts:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1).astype(float)


def count_levels(reference: Values, current: Values) -> tuple[Counts, Counts]:
    """Counts per level: frequent ones, then all rare ones pooled, then the UNSEEN: frequent, absent from reference.

    Rare is decided on both sides together: decided on the reference alone, current would have rare
    levels that reference lacks even without drift, and a test would flag them.
    """
    codes, levels = pd.factorize(np.concatenate([reference, current]))
    was = np.bincount(codes[: len(reference)], minlength=len(levels)).astype(float)
    now = np.bincount(codes[len(reference):], minlength=len(levels)).astype(float)
    smaller = min(len(reference), len(current))
    expected = (was + now) * smaller / (len(reference) + len(current))
    rare = expected < max(LEAST_EXPECTED, LEAST_LEVEL * smaller)
    unseen = (was == 0) & ~rare
    kept = ~rare & ~unseen
    cells = [np.append(side[kept], [side[rare].sum(), side[unseen].sum()]) for side in (was, now)]
    used = cells[0] + cells[1] > 0
    return cells[0][used], cells[1][used]


def unseen_p_value(reference: Values, current: Values, *, worth: float = 1.0) -> float:
    """Are there more new levels than a category of many rare levels always has? 1.0 where there are no more.

    Pooled, rare levels that were all exchanged for others look like the same pool. What a fresh row has by chance
    of being at a level unseen is the reference's share of levels seen once (Good, The Population Frequencies of
    Species, Biometrika 40, 1953). Each new level counts once, since the rows of one come together. Where rows stand
    for others (`worth`), a level is seen once though its row is there as often as these are.
    """
    levels, counts = np.unique(pd.factorize(reference)[0], return_counts=True)
    fresh = pd.unique(current)
    new = int(np.sum(~pd.Index(fresh).isin(pd.unique(reference))))
    once, rows = int(np.sum(counts * worth <= 1)) if len(levels) else 0, round(len(reference) * worth)
    if new * rows <= once * len(current):
        return 1.0
    return missing_p_value(min(once, rows), rows, new, len(current))


def ks_p_value(reference: Values, current: Values, *, worth: float = 1.0) -> float:
    """Two-sample Kolmogorov-Smirnov: exact where a side has few rows, else the asymptotic law.

    Of one row against many the asymptotic law is sure (0), against one it knows nothing (NaN). Beside few rows the
    longer side is thinned to `MOST_EXACT` of its quantiles, which moves the statistic by less than 1 / `MOST_EXACT`.
    So is a reference that is worth fewer rows than it has, to as many quantiles.
    """
    if worth < 1:
        reference = _thinned(reference, max(1, round(len(reference) * worth)))
    if min(len(reference), len(current)) >= FEW_ROWS:
        return float(stats.ks_2samp(reference, current, method="asymp").pvalue)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of counts too large for a float it takes the asymptotic law
        sides = _thinned(reference, MOST_EXACT), _thinned(current, MOST_EXACT)
        p_value = float(stats.ks_2samp(*sides, method="exact").pvalue)
    return p_value if np.isfinite(p_value) else 1.0


def _thinned(values: Values, to: int) -> Values:
    if len(values) <= to:
        return values
    return np.quantile(values, (np.arange(to) + 0.5) / to, method="inverted_cdf")


def chi2_p_value(reference: Counts, current: Counts) -> float:
    """Chi-square of a 2 x k table: both sides are samples. 1.0 where there is only one cell.

    Not `scipy.stats.chisquare`, which takes the reference for the exact truth: with five levels and
    equal samples it cries wolf in a third of the checks where five in a hundred are meant.
    """
    if len(reference) < 2:
        return 1.0
    return float(stats.chi2_contingency(np.vstack([reference, current]), correction=False).pvalue)


def missing_p_value(reference_missing: int, reference_rows: int, current_missing: int, current_rows: int) -> float:
    """Present against missing, 2 x 2: chi-square, or Fisher's exact test where a cell expects fewer than 5 rows."""
    missing, rows = reference_missing + current_missing, reference_rows + current_rows
    table = np.array([
        [reference_missing, reference_rows - reference_missing],
        [current_missing, current_rows - current_missing],
    ])
    if min(missing, rows - missing) * min(reference_rows, current_rows) / rows < LEAST_EXPECTED:
        return float(stats.fisher_exact(table).pvalue)
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def benjamini_hochberg_limit(p_values: list[float], rate: float) -> float:
    """The largest p-value that is rejected at false discovery rate `rate`; -1.0 where none is.

    Holds for independent or positively dependent columns (Benjamini & Hochberg, 1995; Benjamini &
    Yekutieli, 2001). With no drift at all, the chance of any rejection is at most `rate`.
    """
    ordered = np.sort(np.asarray(p_values, dtype=float))
    passed = ordered <= rate * np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    return float(ordered[passed][-1]) if passed.any() else -1.0
