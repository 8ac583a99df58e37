"""What Prefect does by itself, on a real server and worker: each event and automation fires, the killed are ended.

The deployments, automations and the block are made by the platform's own calls, so this is what `make run` deploys.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
import yaml

from deploy.local import prefect_setup
from deploy.local.ask import PrefectApi
from deploy.local.automations import end_what_was_killed, make_automations, missed_monitor, zombies
from deploy.local.parts import make_secrets, prefect_api, server_command, server_environment, worker_environment
from deploy.local.prefect_setup import deploy_flows, keep_notify_block, make_pool, make_retrain_slot
from flows.maturity import deployments_at
from flows.settings import REPO, Settings
from models.decision import Decision
from tasks.home import Home
from tasks.monitoring.outbox import DRIFT_EVENT, PERFORMANCE_EVENT, emit, open_rows, send_events
from tasks.state import open_state, read_decisions, record_decision, set_clock
from tests.waiting import free_port, wait_for

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]
START = datetime(2025, 1, 1, tzinfo=UTC)
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
SLEEPER = '''
import time
from prefect import flow
from prefect.concurrency.sync import concurrency

@flow
def sleeper():
    with concurrency("retrain", strict=True):
        time.sleep(600)
'''


@dataclass
class Acting:
    """A server and a worker that can be killed and started again."""

    settings: Settings
    home: Home
    environment: dict[str, str]
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def api(self) -> PrefectApi:
        return prefect_api(self.settings, self.home)

    @property
    def engine(self) -> sa.Engine:
        return open_state(self.home.state_url)

    @property
    def told(self) -> list[str]:
        path = self.folder / "told"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def start(self, name: str) -> None:
        command = server_command(self.settings) if name == "server" else [
            sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env=self.environment, cwd=REPO, stdout=log, stderr=log,
                                                    start_new_session=True)
        if name == "server":
            wait_for(self._answers, 300, say=(self.folder / "server.log").read_text)

    def kill(self, *names: str) -> None:
        """kill -9 of a part with everything it started."""
        for name in names:
            process = self.processes.pop(name)
            try:
                family = [process.pid, *(one.pid for one in psutil.Process(process.pid).children(recursive=True))]
            except psutil.NoSuchProcess:
                family = []
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait(timeout=20)

    def runs(self, deployment: str, *, ended: bool = False) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.ask("/flow_runs/filter", {
            "deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC"})
        return [one for one in found if not ended or one["state_type"] in ENDED]

    def automations(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.api.ask("/automations/filter", {"limit": 200})}

    def slot(self) -> int:
        return int(self.api.ask("/v2/concurrency_limits/retrain")["active_slots"])

    def _answers(self) -> bool:
        try:
            self.api.ask("/health", timeout=1)
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def acting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Acting]:
    folder = tmp_path_factory.mktemp("acting")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("PREFECT_", "CHURN_")):
                patch.delenv(name)
        settings = Settings(home=folder / "home", prefect_port=free_port(range(25705, 25750)),
                            notify=f"file://{folder}/told", env_file=folder / ".env")
        home = Home(folder / "home", "shop")
        for one in (home.run, home.run / "logs", home.prefect):
            one.mkdir(parents=True, exist_ok=True)
        (home.root / "charter-name").write_text("shop\n")
        (home.root / "maturity").write_text("3\n")
        (home.run / "sockets").write_text(f"{folder}\n")
        make_secrets(home)
        environment = server_environment(settings, home) | worker_environment(settings, home) | {
            "PREFECT_SERVER_SERVICES_TRIGGERS_PROACTIVE_EVALUATION_INTERVAL": "2"}
        made = Acting(settings, home, environment, folder)
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME"):
            patch.setenv(name, environment[name])
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
        set_clock(open_state(home.state_url), START)
        try:
            made.start("server")
            make_pool(settings, home)
            make_retrain_slot(settings, home)
            deploy_some(settings, home, {"retrain", "announce"})
            make_automations(made.api, watch_monitor=True)
            keep_notify_block(settings)
            made.start("worker")
            yield made
        finally:
            made.kill(*list(made.processes))
    refresh_global_settings_context()


def send(name: str, decision_id: str) -> None:
    """An event, to a server that may be busy."""
    assert emit(name, charter_name="shop", decision_id=decision_id, seconds=60)


def send_all(acting: Acting) -> bool:
    """Whether every verdict is sent by now."""
    send_events(acting.engine, charter_name="shop")
    return not open_rows(acting.engine, "event")


def deploy_some(settings: Settings, home: Home, names: set[str], *, level: int = 3) -> None:
    """`deploy_flows` with these deployments alone: all of them take minutes where tests run beside."""
    def some(level: int, document: Mapping[str, Any], *, notify: bool) -> dict[str, Any]:
        made = deployments_at(level, document, notify=notify)
        return {**made, "deployments": [one for one in made["deployments"] if one["name"] in names]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefect_setup, "deployments_at", some)
        patch.setattr(prefect_setup, "PATIENCE", 500)
        deploy_flows(settings, home, level=level)


def deploy_sleeper(acting: Acting) -> str:
    """A flow that holds the slot of a retraining for ten minutes; returns the id of a run of it."""
    (acting.folder / "sleeper.py").write_text(SLEEPER)
    flow = acting.api.ask("/flows/", {"name": "sleeper"})["id"]
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(acting.folder)}}]
    deployment = acting.api.ask("/deployments/", {
        "name": "sleeper", "flow_id": flow, "entrypoint": "sleeper.py:sleeper", "work_pool_name": "local",
        "pull_steps": pull})["id"]
    return str(acting.api.ask(f"/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"])


def state(acting: Acting, run_id: str) -> tuple[str, str]:
    found = acting.api.ask(f"/flow_runs/{run_id}")
    return found["state_type"], found["state"]["message"] or ""


def heartbeats(acting: Acting, run_id: str) -> int:
    found = acting.api.ask("/events/filter", {"filter": {
        "event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}})
    return len(found["events"])


def test_each_event_of_the_ledger_starts_announce_and_people_hear_one_line_each_with_its_owner(acting: Acting) -> None:
    for gate, verdict in (("data", "refuse"), ("release", "release"), ("release", "rolled back"), ("drift", "alarm")):
        record_decision(acting.engine, Decision(gate, verdict, f"{gate} {verdict} as planned"), as_of=START)
    performance = record_decision(acting.engine, Decision("drift", "retrain", "too little is earned",
                                                          {"kind": "performance"}), as_of=START)
    wait_for(lambda: send_all(acting), 60)
    send(PERFORMANCE_EVENT, performance)
    # A sixth line of the retraining that the last event starts: it has no data here, and that it failed is an alarm.
    wait_for(lambda: send_all(acting) and len(acting.told) >= 6, 300, say=lambda: acting.runs("announce"))
    wait_for(lambda: len(acting.runs("announce", ended=True)) >= 5, 180, say=lambda: acting.runs("announce"))
    assert {(one["state_type"], one["created_by"]["display_value"]) for one in acting.runs("announce", ended=True)} == {
        ("COMPLETED", "announce-news")}
    lines = [line.split(" ", 1)[1].rsplit(" [decision", 1)[0] for line in acting.told]
    assert sorted(lines) == [
        "churn.alarm.raised: shop: drift: alarm (owner: data scientist): drift alarm as planned",
        "churn.alarm.raised: shop: retrain: refuse (owner: ML engineer): the retraining failed: DataError: cannot take "
        "features as of 2025-01-01: the lake has no rows of orders. Run ingest first",
        "churn.data.rejected: shop: data: refuse (owner: data engineer): data refuse as planned",
        "churn.performance.degraded: shop: drift: retrain (owner: data scientist): too little is earned",
        "churn.release.promoted: shop: release: release (owner: ML engineer): release release as planned",
        "churn.release.rolled_back: shop: release: rolled back (owner: ML engineer): release rolled back as planned"]
    assert (acting.folder / "told").stat().st_mode & 0o777 == 0o600
    assert send_events(acting.engine, charter_name="shop") == 0


def test_degraded_performance_starts_a_retraining_by_a_trigger_of_its_own(acting: Acting) -> None:
    runs = wait_for(lambda: acting.runs("retrain", ended=True), 60)  # of the event of the test before
    assert {one["created_by"]["display_value"] for one in runs} == {"retrain-on-degraded-performance"}
    rows = read_decisions(acting.engine, gate="retrain")
    assert [row.decision.verdict for row in reversed(rows)][:1] == ["accept"]  # training itself has no data here


def test_a_burst_of_five_and_forged_events_make_one_retraining(acting: Acting) -> None:
    before = {row.decision_id for row in read_decisions(acting.engine, gate="retrain")}
    ran = len(acting.runs("retrain", ended=True))
    order = record_decision(acting.engine, Decision("drift", "retrain", "2 of 3 flagged"), as_of=START)
    for _ in range(5):
        send(DRIFT_EVENT, order)
    send(DRIFT_EVENT, "forged")
    wait_for(lambda: len(acting.runs("retrain", ended=True)) >= ran + 6, 240, say=lambda: acting.runs("retrain"))
    rows = [row for row in read_decisions(acting.engine, gate="retrain") if row.decision_id not in before]
    accepted = [row.decision.evidence["decision_id"] for row in rows if row.decision.verdict == "accept"]
    assert accepted in ([order], [])  # none: the forged one came first, and the others found the slot taken
    if not accepted:  # then nothing was used up: the next monitor run asks again
        send(DRIFT_EVENT, order)
        wait_for(lambda: [row for row in read_decisions(acting.engine, gate="retrain") if (
            row.decision.verdict, row.decision.evidence["decision_id"]) == ("accept", order)], 90)


def test_the_check_that_does_not_come_is_missed_and_told(acting: Acting) -> None:
    there = acting.automations()["churn-missed-monitor"]
    announce = there["actions"][0]["deployment_id"]
    acting.api.ask(f"/automations/{there['id']}", missed_monitor(announce, on=True, within=10), method="PUT")
    try:
        rows = wait_for(lambda: read_decisions(acting.engine, gate="silence"), 120)
    finally:
        acting.api.ask(f"/automations/{there['id']}", missed_monitor(announce, on=False), method="PUT")
    assert (rows[0].decision.verdict, rows[0].subject) == ("alarm", "monitor")
    wait_for(lambda: [line for line in acting.told if "the flow monitor has not completed" in line], 60)


def test_automations_are_made_once_and_made_anew_where_they_changed(acting: Acting) -> None:
    make_automations(acting.api, watch_monitor=True)
    first = acting.automations()
    assert first["churn-missed-monitor"]["enabled"] is True
    assert first["churn-missed-monitor"]["trigger"]["within"] == 26 * 3600  # the test before had shortened it
    make_automations(acting.api, watch_monitor=True)
    again = acting.automations()
    assert {name: one["id"] for name, one in again.items()} == {name: one["id"] for name, one in first.items()}
    assert again["churn-zombies"]["updated"] == first["churn-zombies"]["updated"]
    make_automations(acting.api, watch_monitor=False)
    assert acting.automations()["churn-missed-monitor"]["enabled"] is False


def test_a_run_whose_worker_and_process_were_killed_is_ended_by_its_missing_heartbeat(acting: Acting) -> None:
    there = acting.automations()["churn-zombies"]["id"]
    acting.api.ask(f"/automations/{there}", zombies(within=45), method="PUT")
    run_id = deploy_sleeper(acting)
    wait_for(lambda: state(acting, run_id)[0] == "RUNNING" and acting.slot() == 1, 90,
             say=lambda: state(acting, run_id))
    wait_for(lambda: heartbeats(acting, run_id), 60)
    acting.kill("worker")
    assert wait_for(lambda: state(acting, run_id), 20)[0] == "RUNNING"
    wait_for(lambda: state(acting, run_id)[0] == "CRASHED", 150, say=lambda: state(acting, run_id))
    assert state(acting, run_id)[1].startswith("no heartbeat for 45 s")


def test_after_everything_was_killed_the_next_start_ends_the_runs_and_frees_the_slot(acting: Acting) -> None:
    end_what_was_killed(acting.api)  # of the test before: its lease would run for minutes
    acting.start("worker")
    run_id = deploy_sleeper(acting)
    wait_for(lambda: acting.slot() == 1, 90, say=lambda: state(acting, run_id))
    acting.kill("worker", "server")
    acting.start("server")
    assert (state(acting, run_id)[0], acting.slot()) == ("RUNNING", 1)  # nobody else would free it
    assert end_what_was_killed(acting.api)[1] == 1
    assert (state(acting, run_id)[0], acting.slot()) == ("CRASHED", 0)
    assert end_what_was_killed(acting.api) == (0, 0)
    later = START + timedelta(days=31)  # the tests before have used the month's budget up
    set_clock(acting.engine, later)
    order = record_decision(acting.engine, Decision("drift", "retrain", "2 of 3 flagged"), as_of=later)
    acting.start("worker")
    send(DRIFT_EVENT, order)
    wait_for(lambda: [row for row in read_decisions(acting.engine, gate="retrain") if (
        row.decision.verdict, row.decision.evidence["decision_id"]) == ("accept", order)], 60)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_maturity_sets_schedules_and_triggers_and_can_be_changed(acting: Acting, level: int) -> None:
    document = yaml.safe_load((REPO / "prefect.yaml").read_text(encoding="utf-8"))
    starts = {one["name"] for one in document["deployments"] if one.get("schedules") or one.get("triggers")}
    deploy_some(acting.settings.model_copy(update={"notify": None}), acting.home, starts, level=level)
    nightly = {one["name"] for one in document["deployments"] for entry in one.get("schedules", ()) if "cron" in entry}
    found = acting.api.ask("/deployments/filter", {"limit": 200})
    active = {one["name"] for one in found for entry in one["schedules"] if entry["active"]}
    assert active == (set() if level == 1 else nightly)
    triggers = {name: one["enabled"] for name, one in acting.automations().items() if not name.startswith("churn-")}
    assert triggers == {"retrain-on-drift": level > 1, "retrain-on-degraded-performance": level > 1,
                        "announce-news": False}
