"""Two-sample tests of one column, reference against current, and the size of the difference.

A test says whether a difference is real, the population stability index (PSI) whether it is worth a
look: at 50,000 rows every harmless difference is real, at 500 a large PSI is often noise. Missing
values are taken out of both and tested on their own, for a test of the values cannot see them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

BINS: Final = 10  # quantile bins of the reference; a column with no more distinct values is compared level by level
FLOOR: Final = 1e-4  # least share of a bin, so that an empty one has a finite logarithm
LEAST_EXPECTED: Final = 5.0  # rows a cell must expect for the chi-square approximation
LEAST_LEVEL: Final = 0.01  # share of the smaller side below which a level is pooled with other rare ones

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


def ks_p_value(reference: Values, current: Values) -> float:
    """Two-sample Kolmogorov-Smirnov; the asymptotic law, which is good from some 50 rows on and errs to no."""
    return float(stats.ks_2samp(reference, current, method="asymp").pvalue)


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
