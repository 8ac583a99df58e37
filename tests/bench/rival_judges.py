"""What others judge a canary by, on the same simulated traffic as the real judge: minute of the rollback, or None.

`fixed`: a minute is bad where the canary breaks a threshold; five bad minutes roll back (Flagger's way of counting).
`peeking`: a two-sample test of errors, latency and score each minute on all requests so far, p < .05 rolls back.
`kayenta`: of the series by minute, a Mann-Whitney confidence interval of the shift every ten minutes (the rule of
Kayenta's NetflixACAJudge with its built-in tolerance).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from tests.bench.canary_customers import A_MINUTE, MEDIAN_US, MINUTES, Fault, Traffic

BAD_MINUTES: Final = 5
TIGHT: Final = (0.02, 1.25, 0.3)  # errors, 95th percentile over the usual one, shift of the mean score in logits
LOOSE: Final = (0.05, 1.5, 0.6)
Z_05: Final = 1.959964
Z_98: Final = 2.326348  # Kayenta's 98 % interval
TOLERANCE: Final = 0.25  # of the shift's own size, hard-coded there


def fixed(
    traffic: Traffic, fault: Fault, share: float, thresholds: tuple[float, float, float] = TIGHT
) -> int | None:
    """Errors, latency and mean score of the canary's minute against thresholds that were set beforehand."""
    most_errors, most_p95, most_shift = thresholds
    usual_p95 = float(np.quantile(traffic.us, 0.95))
    usual_score = float(traffic.logit.mean())
    bad = 0
    for minute, (canary, _champion) in enumerate(_minutes(traffic, fault, share)):
        errors, us, score = canary
        bad += (errors.mean() > most_errors or np.quantile(us, 0.95) > most_p95 * usual_p95
                or abs(score.mean() - usual_score) > most_shift)
        if bad >= BAD_MINUTES:
            return minute + 1
    return None


def peeking(traffic: Traffic, fault: Fault, share: float) -> int | None:
    """Two-sided z tests of the three means, request by request, each minute from the fourth on."""
    canary = traffic.dealt < share
    values = (traffic.failed(canary, fault).astype(float), np.log(traffic.latency(canary, fault) / MEDIAN_US),
              traffic.online(canary, fault))
    ends = np.arange(4, MINUTES + 1) * A_MINUTE - 1
    alarm = np.zeros(len(ends), dtype=bool)
    for value in values:
        alarm |= np.abs(_z(value, canary)[ends]) > Z_05
    return int(np.argmax(alarm)) + 4 if alarm.any() else None


def kayenta(traffic: Traffic, fault: Fault, share: float) -> int | None:
    """Errors and latency may not rise, the score may not move."""
    series = [[one.mean() if place != 1 else np.median(one) for place, one in enumerate(arm)]
              for arms in _minutes(traffic, fault, share) for arm in arms]
    table = np.array(series).reshape(MINUTES, 2, 3)
    for minute in range(10, MINUTES + 1, 10):
        for metric, both_ways in ((0, False), (1, False), (2, True)):
            low, high, shift = _shift(table[:minute, 0, metric], table[:minute, 1, metric])
            tolerance = TOLERANCE * abs(shift)
            if low > tolerance or (both_ways and high < -tolerance):
                return minute
    return None


def _minutes(
    traffic: Traffic, fault: Fault, share: float
) -> Iterable[tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]]:
    canary = traffic.dealt < share
    values = traffic.failed(canary, fault), traffic.latency(canary, fault), traffic.online(canary, fault)
    for minute in range(MINUTES):
        part = slice(minute * A_MINUTE, (minute + 1) * A_MINUTE)
        here = canary[part]
        yield tuple(one[part][here] for one in values), tuple(one[part][~here] for one in values)


def _z(value: np.ndarray, canary: np.ndarray) -> np.ndarray:
    means, errors = [], []
    for arm in (canary, ~canary):
        count = np.maximum(np.cumsum(arm), 2)
        mean = np.cumsum(value * arm) / count
        variance = np.maximum(np.cumsum(value**2 * arm) / count - mean**2, 1e-12)
        means.append(mean)
        errors.append(variance / count)
    return np.asarray((means[0] - means[1]) / np.sqrt(errors[0] + errors[1]))


def _shift(canary: np.ndarray, champion: np.ndarray) -> tuple[float, float, float]:
    """98 % interval and estimate of the shift (Hodges-Lehmann, by the Mann-Whitney statistic)."""
    apart = np.sort((canary[:, None] - champion[None, :]).ravel())
    n, m = len(canary), len(champion)
    at = int(n * m / 2 - Z_98 * np.sqrt(n * m * (n + m + 1) / 12))
    if at < 0:
        return -np.inf, np.inf, float(np.median(apart))
    return float(apart[at]), float(apart[n * m - 1 - at]), float(np.median(apart))
