"""A small platform that Prometheus can scrape: supervisor, Envoy, two real releases, our state, the exporter."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from models.charter import load_charter
from models.decision import Decision
from models.gates.signals import Signal
from tasks.clock import move_clock
from tasks.data.lake import write_partition
from tasks.home import Home
from tasks.monitoring.heartbeats import PARTS, STEPS, WATCHDOG, beat, note_signals
from tasks.release import releases, rollouts
from tasks.release.processes import start_program, start_supervisor, stop_supervisor
from tasks.release.routing import Routes, Upstream, envoy_command, routes_lock, set_routes, write_bootstrap
from tasks.state import now, open_state, record_decision
from tasks.tables import AWAKE, LOADS
from tests.models.serving.test_prefork import GOOD, Served
from tests.release_payload import write_payload

REPO = Path(__file__).resolve().parents[1]
API, EXPORTER, PROMETHEUS, CHAMPION, CANARY = 25780, 25781, 25782, 25783, 25784
AS_OF = datetime(2025, 3, 1, tzinfo=UTC)


@dataclass
class MetricsWorld:
    home: Home
    releases: dict[str, Served]

    def ask(self, path: str, body: bytes | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", API, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST" if body else "GET", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def traffic(self, rounds: int = 4) -> None:
        """By customers enough for both arms; most of them nobody knows."""
        for _ in range(rounds):
            for customer in ("m1", "m2", *(f"c{number}" for number in range(12))):
                self.ask(f"/v1/customers/{customer}/churn")
            self.ask("/v1/score", json.dumps({"rows": [GOOD]}).encode())

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{EXPORTER}/metrics", timeout=30) as answer:
            return str(answer.read().decode())


@contextlib.contextmanager
def metrics_world(folder: Path) -> Iterator[MetricsWorld]:
    """Champion and canary under Envoy, a home in which every part has worked, the exporter under supervisor."""
    home, bento = Home(folder / "home"), folder / "bento"
    write_payload(bento / "release", estimator="boosting")
    start_supervisor(home)
    releases: dict[str, Served] = {}
    try:
        write_bootstrap(home, host="127.0.0.1", api_port=API, rate_limit=1000)
        start_program(home, "envoy", envoy_command(home), environment={}, directory=home.root)
        start_program(home, "exporter", exporter_command(home), environment={"PYTHONPATH": str(REPO)},
                      directory=home.root)
        for name, port in (("churn:1", CHAMPION), ("churn:2", CANARY)):
            releases[name] = Served(bento, port=port, CHURN_RELEASE_ID=name,
                                    CHURN_PREDICTION_LOG=str(home.serving / "predictions.jsonl"))
        fill(home)
        for one in releases.values():
            assert one.wait(), one.log.read_text()
        (bento / "clock").write_text("2026-01-02")  # features a year old: answers with a reservation
        wait(lambda: bool(MetricsWorld(home, releases).metrics()), seconds=60)
        yield MetricsWorld(home, releases)
    finally:
        for one in releases.values():
            one.stop()
        stop_supervisor(home)


def exporter_command(home: Home) -> list[str]:
    return [sys.executable, "-m", "tasks.monitoring.exporter", "--home", str(home.root), "--charter",
            str(REPO / "charter.yaml"), "--port", str(EXPORTER)]


def fill(home: Home) -> None:
    """Our state and the lake as the flows leave them: a champion, a canary, one silent part."""
    engine, charter = open_state(home.state_url), load_charter(REPO / "charter.yaml")
    with engine.begin() as connection:
        connection.execute(LOADS.insert().values(as_of=AS_OF.isoformat(), at=now(), counts="{}", dataset_version="d"))
    move_clock(engine, charter, home, AS_OF)
    write_partition(pl.DataFrame({"x": [1]}), home.lake / "snapshots/f/cut=2025-03-01.parquet")
    write_partition(pl.DataFrame({"x": [1]}), home.lake / "scores/as_of=2025-02-01.parquet")
    with engine.begin() as connection:  # the platform has run for longer than any part may be silent
        began = (datetime.now(UTC) - timedelta(hours=40)).isoformat()
        connection.execute(AWAKE.insert().values(began=began, ended=now()))
    for part in (*PARTS, *STEPS, WATCHDOG):
        late = timedelta(hours=30 if part == "ship" else 0)
        beat(engine, part, at=datetime.now(UTC) - late, as_of=None if part == "ship" else AS_OF)
    note_signals(engine, [Signal("labels", "good", "fine", {"coverage": 0.98, "limit": 0.9}),
                          Signal("performance", "bad", "low", {"auc": 0.61})], as_of=AS_OF)
    record_decision(engine, Decision("drift", "alarm", "the check crashed"), as_of=AS_OF)
    for name, port in (("1", CHAMPION), ("2", CANARY)):
        releases.register_release(engine, release_id=f"churn:{name}", model_version=name, run_id="run", fingerprint="f",
                                  as_of="2025-01-01", auc=0.7, monthly_value=1.0)
        rollout = rollouts.open_new(engine, release_id=f"churn:{name}", strategy="canary", who="ada", why="test")
        releases.claim_port(engine, f"churn:{name}", [port])
        if name == "1":
            rollouts.close(engine, rollout, state="champion", reason="first")
    assert rollouts.advance(engine, rollout, state="canary")
    with routes_lock(home):
        set_routes(home, Routes(Upstream("churn:1", CHAMPION), Upstream("churn:2", CANARY), 0.5, rollout.rollout_id))


@dataclass
class Prometheus:
    """A server that scrapes the world every second, by the files of deploy/prometheus."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression; an AssertionError with Prometheus' own words where it is none."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return list(json.loads(answer.read())["data"]["result"])
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it is starting
                raise
            raise AssertionError(f"{expression}: {error.read().decode()}") from None

    def firing(self) -> list[dict[str, str]]:
        """Labels of the alerts that fire."""
        with urllib.request.urlopen(f"{self.url}/api/v1/alerts", timeout=20) as answer:
            return [one["labels"] for one in json.loads(answer.read())["data"]["alerts"] if one["state"] == "firing"]


@contextlib.contextmanager
def prometheus(tools: Path, folder: Path) -> Iterator[Prometheus]:
    """The deployed files, but for the ports, a scrape a second, and an alarm after two seconds instead of minutes."""
    import re

    source = REPO / "deploy/prometheus"
    folder.mkdir()
    config = (source / "prometheus.yml").read_text().replace("8111", str(EXPORTER)).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(config)
    (folder / "rules.yml").write_text(re.sub(r"for: \d+[mh]", "for: 2s", (source / "rules.yml").read_text()))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(tools / "prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{PROMETHEUS}"], stdout=log, stderr=subprocess.STDOUT)
    try:
        server = Prometheus(f"http://127.0.0.1:{PROMETHEUS}")
        wait(lambda: bool(server.query("up{job='platform'} == 1")), seconds=60)
        yield server
    finally:
        process.kill()
        process.wait()


def wait(ready: Callable[[], bool], seconds: float = 60, what: str = "") -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if ready():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
