"""What a release counts about itself, for Prometheus.

A registry of our own: BentoML labels its metrics with the raw path, so every customer would make new
series, until `/metrics` itself times out. Here a route is its template.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5)


class ServiceMetrics:
    """Counters of one process; every series carries the release."""

    def __init__(self, release: str) -> None:
        self.registry: Final = CollectorRegistry()
        self._release = release
        self._requests = Counter("churn_requests", "requests answered", ["release", "route", "status"],
                                 registry=self.registry)
        self._seconds = Histogram("churn_request_seconds", "time to answer", ["release", "route"], buckets=BUCKETS,
                                  registry=self.registry)
        self._decisions = Counter("churn_decisions", "rows decided", ["release", "action", "why"],
                                  registry=self.registry)
        self._degraded = Counter("churn_degraded", "rows answered with a reservation", ["release", "reason"],
                                 registry=self.registry)
        self._unlogged = Counter("churn_prediction_log_failures", "rows answered but not logged", ["release"],
                                 registry=self.registry)
        self._unlogged.labels(release)  # shown as 0 before the first failure, so an alarm has a series to watch

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(self._release, route, str(status)).inc()
        self._seconds.labels(self._release, route).observe(seconds)

    def decision(self, action: str, why: str) -> None:
        self._decisions.labels(self._release, action, why).inc()

    def degraded(self, reason: str) -> None:
        self._degraded.labels(self._release, reason).inc()

    def unlogged(self) -> None:
        self._unlogged.labels(self._release).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
