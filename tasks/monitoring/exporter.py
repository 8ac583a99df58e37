"""Exporter. Reads the running platform and our state; answers Prometheus with them, on loopback.

    GET /metrics   text format: programs, disk, queues, age of stores, alarms, Envoy's own statistics
    GET /targets   the releases' own /metrics, for Prometheus' http_sd: champion and canary come and go

What cannot be read now is left out and counted, never told from before. A process of its own under supervisor;
imports no Prefect, pandas, polars or MLflow.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy.exc import SQLAlchemyError

from models.charter import Charter, load_charter
from models.errors import PipelineError
from tasks.home import Home
from tasks.monitoring.metrics_programs import Restarts, Shares, disk_metrics, folder_metrics, program_metrics
from tasks.monitoring.metrics_router import router_text
from tasks.monitoring.metrics_stores import (
    alarm_metrics,
    limit_metrics,
    part_metrics,
    queue_metrics,
    release_metrics,
    signal_metrics,
    store_metrics,
)
from tasks.monitoring.silence import watched_level
from tasks.release.releases import read_releases
from tasks.release.routing import LOOPBACK
from tasks.release.watchdog import watched_home
from tasks.state import open_state

LOGGER: Final = logging.getLogger("exporter")
FOLDERS_EVERY: Final = 300.0  # seconds between two walks over the home's files
Source = Callable[[], Iterable[Metric]]
Found = TypeVar("Found")


@dataclass
class Exporter:
    """Asks every source at each scrape; keeps only what counts up."""

    home: Home
    charter: Charter
    errors: dict[str, int] = field(default_factory=dict)
    _restarts: Restarts = field(default_factory=Restarts)
    _shares: Shares = field(default_factory=Shares)
    _folders: tuple[float, list[Metric]] = (float("-inf"), [])
    _one: threading.Lock = field(default_factory=threading.Lock)

    def sources(self) -> dict[str, Source]:
        """Name -> what it tells."""
        home, charter = self.home, self.charter

        def engine() -> Any:
            return open_state(home.state_url)

        return {
            "programs": lambda: program_metrics(home, self._restarts, self._shares),
            "disk": lambda: disk_metrics(home),
            "folders": self._folder_sizes,
            "prediction log": lambda: queue_metrics(home, engine()),
            "stores": lambda: store_metrics(home, engine(), charter),
            "parts": lambda: part_metrics(engine(), charter, maturity=watched_level(home)),
            "releases": lambda: release_metrics(home, engine()),
            "alarms": lambda: alarm_metrics(engine(), charter),
            "signals": lambda: signal_metrics(engine(), charter),
            "charter": lambda: limit_metrics(charter),
        }

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        with self._one:
            begin = time.process_time()
            metrics: list[Metric] = []
            up = GaugeMetricFamily("churn_exporter_source_up", "whether a source could be read", labels=["source"])
            for name, source in self.sources().items():
                found = self._read(name, lambda source=source: list(source()))  # type: ignore[misc]  # bound now
                up.add_metric([name], found is not None)
                metrics += found or []
            router = self._read("router", lambda: router_text(self.home))
            up.add_metric(["router"], router is not None)
            errors = CounterMetricFamily("churn_exporter_errors", "times a source could not be read", labels=["source"])
            for name in [*self.sources(), "router"]:
                errors.add_metric([name], self.errors.get(name, 0))
            metrics += [up, errors, GaugeMetricFamily(
                "churn_exporter_scrape_cpu_seconds", "CPU of this scrape", value=time.process_time() - begin)]
            return generate_latest(_Collected(metrics)) + (router or b"")

    def targets(self) -> list[dict[str, Any]]:
        """Where the releases tell about themselves, as http_sd has it.

        Raises:
            PipelineError, SQLAlchemyError: our state cannot be read; Prometheus keeps what it knew.
        """
        return [{"targets": [f"{LOOPBACK}:{one.port}"], "labels": {
            "release": one.release_id, "model_version": one.model_version}}
            for one in read_releases(open_state(self.home.state_url)) if one.port is not None]

    def _read(self, name: str, source: Callable[[], Found]) -> Found | None:
        try:
            return source()
        except Exception as error:  # whatever it is, the other sources are still told
            self.errors[name] = self.errors.get(name, 0) + 1
            LOGGER.error("%s cannot be read: %s: %s", name, type(error).__name__, str(error).split("\n")[0][:300])
            return None

    def _folder_sizes(self) -> Iterator[Metric]:
        measured, known = self._folders
        if time.monotonic() - measured > FOLDERS_EVERY:
            known = list(folder_metrics(self.home))
            self._folders = (time.monotonic(), known)
        yield from known


@dataclass(frozen=True)
class _Collected:
    metrics: list[Metric]

    def collect(self) -> list[Metric]:
        return self.metrics


def serve(exporter: Exporter, port: int) -> ThreadingHTTPServer:
    """A server on loopback that is not running yet.

    Raises:
        OSError: the port is taken.
    """
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds a client may take to ask

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, exporter.text(), "text/plain; version=0.0.4; charset=utf-8")
            elif self.path == "/targets":
                try:
                    self._answer(200, orjson.dumps(exporter.targets()), "application/json")
                except (PipelineError, SQLAlchemyError) as error:
                    LOGGER.error("the targets are not known: %s", type(error).__name__)
                    self._answer(503, b"cannot read our state\n", "text/plain; charset=utf-8")
            else:
                self._answer(404, b"there are /metrics and /targets\n", "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    ThreadingHTTPServer.daemon_threads = True
    return ThreadingHTTPServer((LOOPBACK, port), Handler)


def main(arguments: list[str] | None = None) -> int:
    """Serve until it is stopped."""
    parser = argparse.ArgumentParser(prog="tasks.monitoring.exporter", description="Tell Prometheus.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--charter", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True, help="loopback port")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        charter = load_charter(given.charter)
        exporter = Exporter(watched_home(given.home, charter.name, os.environ), charter)
        server = serve(exporter, given.port)
    except (PipelineError, OSError) as error:
        LOGGER.error("the exporter does not start: %s", error)
        return 1
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
