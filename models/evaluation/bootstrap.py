"""Bootstrap over customers: all rows of one are drawn together, so that rows of one are not taken for news.

Percentile intervals (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A statistic of all rows, and the two ends of its interval."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(value: float, draws: np.ndarray, *, confidence: float) -> Interval:
        """The percentile interval of draws, shape (resamples,); its ends are NaN where every tenth has no answer."""
        low, high = bands(draws[:, None], confidence=confidence)
        return Interval(float(value), float(low[0]), float(high[0]))


def customer_weights(entities: np.ndarray, *, resamples: int, random_state: int) -> Iterator[np.ndarray]:
    """How often each row stands in a resample, shape (n,), once for each of `resamples`."""
    rng = np.random.default_rng(random_state)
    _, customer = np.unique(np.asarray(entities), return_inverse=True)
    count = int(customer.max()) + 1
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count).astype(float)
        yield drawn[customer]


def interval(
    statistic: Callable[[np.ndarray], float], entities: np.ndarray, *, confidence: float, resamples: int,
    random_state: int,
) -> Interval:
    """The interval of a statistic of row weights; see `bands` for draws without an answer."""
    draws = np.array([statistic(weight) for weight in customer_weights(
        entities, resamples=resamples, random_state=random_state)])
    return Interval.of(statistic(np.ones(len(entities))), draws, confidence=confidence)


def bands(draws: np.ndarray, *, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the percentile interval of each column of draws, shape (resamples, k).

    A draw without an answer (one class only) counts for neither end; where every tenth has none, both ends are NaN:
    such an interval would be one of the lucky draws.
    """
    tail = (1 - confidence) / 2
    known = np.isfinite(draws)
    enough = known.sum(axis=0) >= 0.9 * len(draws)
    ends = np.full((2, draws.shape[1]), np.nan)
    if enough.any():
        ends[:, enough] = np.nanquantile(np.where(known, draws, np.nan)[:, enough], [tail, 1 - tail], axis=0)
    return ends[0], ends[1]
