"""Pairs of features that give the label away together: by a linear relation, or to a tiny tree.

A label that was computed from two columns (their sum, difference or ratio, or a limit on one of these) is told by
neither alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np

from models.evaluation.ranks import auc

EXACT: Final = 0.05  # a 0 or 1 that a line through two features meets everywhere this closely is made of them
JUMP: Final = 0.25  # of AUC above the better of the two: more is said; honest pairs of CDNOW jump by up to .17
LEAST_ROWS: Final = 50
DEPTH: Final = 3  # parts a range from what lies below and above it, with one split to spare
LEAST_IN_LEAF: Final = 10


@dataclass(frozen=True)
class Halves:
    """Labels, and which rows a tree is fitted on; the others score it. All rows of a customer are in one half."""

    y: np.ndarray
    fit: np.ndarray

    @staticmethod
    def of(y: np.ndarray, entities: Any, *, random_state: int) -> Halves:
        _, customer = np.unique(np.asarray(entities).astype(str), return_inverse=True)
        side = np.random.default_rng(random_state).random(int(customer.max(initial=0)) + 1) < 0.5
        return Halves(y, side[customer])

    @property
    def known(self) -> bool:
        """Both halves have both classes."""
        return all(0 < self.y[half].sum() < half.sum() for half in (self.fit, ~self.fit))


@dataclass(frozen=True)
class PairLeak:
    """Two features, and why they are taken for the label's makers; `refuses` is False where it may be honest."""

    columns: tuple[str, str]
    reason: str
    refuses: bool = True


def leaking_pairs(numbers: Mapping[str, np.ndarray], halves: Halves, *, limit: float) -> Iterator[PairLeak]:
    """Every pair that gives the label away; work grows with the square of the features (about 2 ms a pair).

    Args:
        numbers: features that do not give it away alone, each of shape (n,), NaN where missing.
        limit: AUC above which a pair is taken for a leak.
    """
    alone = {name: tree_auc(values[:, None], halves) for name, values in numbers.items()}
    for first, second in combinations(numbers, 2):
        a, b = numbers[first], numbers[second]
        weights = _line(a, b, halves.y)
        if weights is not None and weights.error < EXACT:
            yield PairLeak((first, second), f"{first} and {second} add up to the label ({weights.a:+.4g} and "
                           f"{weights.b:+.4g} of them, to within {weights.error:.2g})")
            continue
        seen = tree_auc(_combined(a, b, weights), halves)
        better = max(alone[first], alone[second])
        told = f"{first} and {second} together tell churners from stayers with AUC {seen:.4f}"
        if not seen <= limit:
            yield PairLeak((first, second), f"{told}, more than is plausible ({limit:g}), and neither does alone")
        elif seen - better > JUMP:
            yield PairLeak((first, second), f"{told}, each alone with {better:.4f} at most: see whether one is taken "
                           "from after the cut", refuses=False)


@dataclass(frozen=True)
class _Line:
    a: float
    b: float
    error: float  # greatest distance of the label from the line


def _line(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> _Line | None:
    """Least squares of the label on two features where both are known; None where they say nothing."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < LEAST_ROWS or not 0 < y[known].sum() < known.sum():
        return None
    columns = np.stack([a[known], b[known]])
    centre, spread = columns.mean(axis=1, keepdims=True), columns.std(axis=1, keepdims=True)
    if not (spread > 0).all():
        return None
    scaled = (columns - centre) / spread
    target = y[known] - y[known].mean()
    # By the singular values and not by the products, which lose half the digits where both are almost the same.
    left, sizes, right = np.linalg.svd(scaled, full_matrices=False)
    if sizes[1] < 1e-12 * sizes[0]:
        return None
    weights = left @ ((right @ target) / sizes)
    error = float(np.abs(target - weights @ scaled).max())
    return _Line(float(weights[0] / spread[0, 0]), float(weights[1] / spread[1, 0]), error)


def _combined(a: np.ndarray, b: np.ndarray, line: _Line | None) -> np.ndarray:
    """The pair, its sum, difference and ratio, and its fitted line, as columns; shape (n, 5 or 6)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        columns = [a, b, a + b, a - b, a / b]
        if line is not None:
            columns.append(line.a * a + line.b * b)
    return np.stack(columns, axis=1)


def tree_auc(columns: np.ndarray, halves: Halves) -> float:
    """AUC on the one half of a tree of a few leaves fitted on the other; columns of shape (n, k)."""
    from sklearn.tree import DecisionTreeClassifier

    known = np.isfinite(columns)
    least, most = columns.min(axis=0, where=known, initial=0), columns.max(axis=0, where=known, initial=0)
    # What is missing is a value below all others, so that a tree can part it; trees take single precision.
    X = np.where(known, columns - least, least - most - 1).astype(np.float32)
    tree = DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=LEAST_IN_LEAF, random_state=0)
    tree.fit(X[halves.fit], halves.y[halves.fit], check_input=False)
    return auc(halves.y[~halves.fit], tree.predict_proba(X[~halves.fit], check_input=False)[:, 1])
