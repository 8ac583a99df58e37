"""The deployed pipeline on a real server and worker: schedules make runs, and an event starts a retraining.

Nothing but this reveals a scheduler that fails silently (SQLAlchemy 2.1 breaks it; the UI still shows
the schedule as active).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.state import open_state, read_decisions

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]
REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    """A Prefect server with every deployment of prefect.yaml, and a worker."""

    url: str
    home: Path

    def find(self, what: str, **query: Any) -> Any:
        return httpx.post(f"{self.url}/{what}/filter", json=query).raise_for_status().json()

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.find("flow_runs", deployments={"name": {"any_": [deployment]}})
        return found


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    """The first truthy answer, or the last one after `seconds`."""
    end = time.monotonic() + seconds
    while not (answer := what()) and time.monotonic() < end:
        time.sleep(0.5)
    return answer


def free_port() -> int:
    for port in range(24310, 24400):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port from 24310 to 24399")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("platform"), free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CHURN_"))}
    environment = kept | {
        "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "CHURN_HOME": str(folder / "home"), "CHURN_REPO": str(REPO), "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    prefect = [sys.executable, "-m", "prefect"]
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> None:
        log = (folder / f"{arguments[0]}.log").open("wb")
        started.append(subprocess.Popen([*prefect, *arguments], env=environment, cwd=REPO, stdout=log, stderr=log))

    def call(*arguments: str) -> None:
        done = subprocess.run([*prefect, *arguments], env=environment, cwd=REPO, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        start("server", "start", "--host", "127.0.0.1", "--port", str(port))
        there = Server(environment["PREFECT_API_URL"], folder / "home")
        assert wait_for(lambda: _answers(there.url), 90), (folder / "server.log").read_text()
        call("work-pool", "create", "--type", "process", "local")
        call("gcl", "create", "retrain", "--limit", "1")
        call("--no-prompt", "deploy", "--all")
        start("worker", "start", "--pool", "local")
        yield there
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("deployment", ["ingest", "score", "monitor"])
def test_a_cron_deployment_gets_scheduled_runs(server: Server, deployment: str) -> None:
    runs = wait_for(lambda: server.runs(deployment), 60)
    assert runs, "no run was scheduled within a minute"
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}
    assert {run["created_by"]["type"] for run in runs} == {"SCHEDULE"}


def test_the_release_schedule_is_there_but_off(server: Server) -> None:
    (release,) = server.find("deployments", deployments={"name": {"any_": ["release"]}})
    assert [(one["slug"], one["active"]) for one in release["schedules"]] == [("while-open", False)]
    assert server.runs("release") == []


def test_the_event_starts_a_retraining_on_the_worker_which_refuses_an_unknown_decision(server: Server) -> None:
    code = """
from prefect.logging import disable_run_logger
from tasks.monitoring.events import emit_retrain_event
with disable_run_logger():
    assert emit_retrain_event.fn("deadbeef", charter_name="shop")
"""
    server_home = str(server.home.parent / "prefect")
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True,
                   env=os.environ | {"PREFECT_API_URL": server.url, "PREFECT_HOME": server_home})
    ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    (run,) = wait_for(lambda: [one for one in server.runs("retrain") if one["state_type"] in ended], 90)
    assert (run["state_type"], run["parameters"]) == ("COMPLETED", {"decision_id": "deadbeef"})
    assert (run["created_by"]["type"], run["created_by"]["display_value"]) == ("AUTOMATION", "retrain-on-drift")
    (row,) = read_decisions(open_state(f"sqlite:///{server.home}/state.db"), gate="retrain")
    assert (row.decision.verdict, row.flow_run_id) == ("refuse", run["id"])
