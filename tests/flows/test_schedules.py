"""The deployed pipeline on a real server and worker: schedules make runs, and an event starts a retraining.

Nothing but this reveals a scheduler that fails silently (SQLAlchemy 2.1 breaks it; the UI still shows
the schedule as active).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tasks.state import open_state, read_decisions
from tests.prefect_server import REPO, Server
from tests.prefect_server import server as started_server
from tests.waiting import free_port, wait_for

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started_server(tmp_path_factory.mktemp("platform"), free_port(range(24310, 24400)),
                        PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="2") as started:
        yield started


@pytest.mark.parametrize("deployment", ["ingest", "score", "monitor"])
def test_a_cron_deployment_gets_scheduled_runs(server: Server, deployment: str) -> None:
    runs = wait_for(lambda: server.runs(deployment), 60)
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
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True, env=server.environment)
    ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    (run,) = wait_for(lambda: [one for one in server.runs("retrain") if one["state_type"] in ended], 180)
    assert (run["state_type"], run["parameters"]) == ("COMPLETED", {"decision_id": "deadbeef"})
    assert (run["created_by"]["type"], run["created_by"]["display_value"]) == ("AUTOMATION", "retrain-on-drift")
    (row,) = read_decisions(open_state(f"sqlite:///{server.home}/state.db"), gate="retrain")
    assert (row.decision.verdict, row.flow_run_id) == ("refuse", run["id"])
