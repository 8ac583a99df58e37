"""What a release counts about itself, for Prometheus.

A registry of our own: BentoML labels its metrics with the raw path, so every customer would make new
series, until `/metrics` itself times out. Here a route is its template.

Several workers share a folder (CHURN_METRICS_DIR): each writes its own files there, and whichever is asked adds them
up. Who starts the workers makes the folder empty, before the first of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from models.errors import ReleaseError

LATENCY: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5)
SCORES: Final = tuple(round(step / 20, 2) for step in range(1, 21))
OURS: Final = "churn_"  # how the name of each of our metrics begins
_DAY: Final = 86_400.0
AGES: Final = tuple(days * _DAY for days in (0.25, 1, 2, 7, 14, 21, 28, 31, 35, 42, 60, 90))


class ServiceMetrics:
    """Counters of one process, or of all workers of a release; every series carries the release.

    Args:
        release: the release's id.
        folder: where its workers count together; None for one process.

    Raises:
        ReleaseError: prometheus_client was imported without PROMETHEUS_MULTIPROC_DIR, and so counts in memory only.
    """

    def __init__(self, release: str, folder: Path | None = None) -> None:
        if folder is not None and not (folder.is_dir() and getattr(values.ValueClass, "_multiprocess", False)):
            raise ReleaseError(f"cannot count together in {folder}: no such folder, or PROMETHEUS_MULTIPROC_DIR was "
                               "not set when prometheus_client was first imported. Start the release as the platform "
                               "does")
        self.registry: Final = CollectorRegistry()
        self._folder = folder
        self._release = release
        self._children: dict[tuple[str, ...], Any] = {}  # `labels()` costs more than counting
        self._requests = self._counter("churn_requests", "requests answered", "route", "status")
        self._errors = self._counter("churn_errors", "requests answered with a status of 500 or more", "route")
        self._seconds = self._histogram("churn_request_seconds", "time to answer", LATENCY, "route")
        self._scores = self._histogram("churn_probability", "probability answered, a row", SCORES)
        self._decisions = self._counter("churn_decisions", "rows decided", "action", "why")
        self._degraded = self._counter("churn_degraded", "rows answered with a reservation", "reason")
        self._ages = self._histogram("churn_feature_age_seconds", "age of the online features by the platform clock",
                                     AGES)
        self._unlogged = self._counter("churn_prediction_log_failures", "rows answered but not logged")
        self._unlogged.labels(release)  # shown as 0 before the first failure, so an alarm has a series to watch

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is a template, never a path."""
        self._child(self._requests, route, str(status)).inc()
        self._child(self._seconds, route).observe(seconds)
        if status >= 500:
            self._child(self._errors, route).inc()

    def rows(
        self, probabilities: Sequence[float], decisions: Iterable[tuple[str, str]], degraded: Sequence[str] = ()
    ) -> None:
        """Count the rows of one answer.

        Args:
            probabilities: one a row.
            decisions: action and why, one a row.
            degraded: the reservations all of them share.
        """
        scores = self._child(self._scores)
        if len(probabilities) == 1:
            scores.observe(probabilities[0])
        else:
            _observe_many(scores, SCORES, probabilities)
        for (action, why), count in Tally(decisions).items():
            self._child(self._decisions, action, why).inc(count)
        for reason in degraded:
            self._child(self._degraded, reason).inc(len(probabilities))

    def feature_age(self, seconds: float) -> None:
        """Count how old the features of an answer were; behind its own data the clock gives a negative age."""
        self._child(self._ages).observe(max(seconds, 0.0))

    def unlogged(self, rows: int = 1) -> None:
        """Count rows that were answered and not written to the prediction log."""
        self._child(self._unlogged).inc(rows)

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        if self._folder is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        together.register(_Ours(self._folder))
        return generate_latest(together)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ["release", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, text, ["release", *labels], buckets=buckets, registry=self.registry)

    def _child(self, metric: Counter | Histogram, *labels: str) -> Any:
        key = (metric._name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(self._release, *labels)
        return child


class _Ours(Collector):
    """The counts of all workers, without those of libraries that write into the same folder: Feast's carry a series a
    process, so every worker that is replaced would leave some behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        every = MultiProcessCollector(None, path=str(self._folder))  # type: ignore[no-untyped-call]  # it has no types
        return [metric for metric in every.collect() if metric.name.startswith(OURS)]  # type: ignore[no-untyped-call]


def _observe_many(child: Any, bounds: Sequence[float], values: Sequence[float]) -> None:
    """`observe` for many values at once: one call a bucket instead of one a row (1,000 rows: 0.1 instead of 1.5 ms).

    By attributes that are not public, so held by tests/models/serving/test_service_metrics.py.
    """
    child._sum.inc(sum(values))
    for bucket, count in Tally(bisect_left(bounds, value) for value in values).items():
        child._buckets[bucket].inc(count)
