"""Seconds from an event to the first line of the retrain flow, on a platform that `make run` would start.

A real Prefect server with the deployments of prefect.yaml and a worker that asks every two seconds, as the platform's
does. The event names a decision that the ledger does not know, so the flow refuses it: its start is what is timed, from
emitting to the state `Running`, which Prefect sets just before the flow's first line.

    python -m tests.bench.stage_drift_event      prints the row (two minutes)
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from tests.bench.bench_data import REPO
from tests.bench.stage_drift import row

PORTS: Final = range(25590, 25600)
EVENTS: Final = 3
MOST_SECONDS: Final = 10
EVENT: Final = "churn.drift.detected"


@contextmanager
def platform(folder: Path) -> Iterator[dict[str, str]]:
    """Prefect's server, its deployments and a worker; yields their environment."""
    port = next(one for one in PORTS if _free(one))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CHURN_"))}
    environment = {
        **kept, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "CHURN_HOME": str(folder / "home"), "CHURN_REPO": str(REPO), "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    prefect, started = [sys.executable, "-m", "prefect"], []

    def start(*words: str) -> None:
        with (folder / f"{words[0]}.log").open("wb") as log:
            started.append(subprocess.Popen([*prefect, *words], env=environment, cwd=REPO, stdout=log, stderr=log))

    try:
        start("server", "start", "--host", "127.0.0.1", "--port", str(port))
        wait_for(lambda: _answers(environment["PREFECT_API_URL"]), 420)
        for words in (("work-pool", "create", "--type", "process", "local"),
                      ("gcl", "create", "retrain", "--limit", "1"), ("--no-prompt", "deploy", "--all")):
            subprocess.run([*prefect, *words], env=environment, cwd=REPO, check=True, capture_output=True)
        start("worker", "start", "--pool", "local")
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    """The first truthy answer.

    Raises:
        SystemExit: there was none in time.
    """
    end = time.monotonic() + seconds
    while not (answer := what()):
        if time.monotonic() > end:
            raise SystemExit(f"nothing within {seconds:g} s")
        time.sleep(0.5)
    return answer


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=10).is_success
    except httpx.TransportError:
        return False


def runs(url: str) -> list[dict[str, Any]]:
    answer = httpx.post(f"{url}/flow_runs/filter", json={"deployments": {"name": {"any_": ["retrain"]}}}, timeout=30)
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found


def seconds_to_start(environment: dict[str, str], number: int) -> float:
    """Emit one event, and wait until the flow it starts runs."""
    url, decision_id = environment["PREFECT_API_URL"], f"unknown-{number}"
    # The event's own moment, without the imports of whoever emits it.
    code = (f"from prefect.events import emit_event\nemit_event({EVENT!r}, resource={{'prefect.resource.id': "
            f"'churn.model.bench'}}, payload={{'decision_id': {decision_id!r}}})\n"
            "import time; print(time.time())")
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    emitted = datetime.fromtimestamp(float(done.stdout.split()[-1]), UTC)

    def started() -> datetime | None:
        mine = [one for one in runs(url) if one["parameters"].get("decision_id") == decision_id and one["start_time"]]
        return datetime.fromisoformat(mine[0]["start_time"]) if mine else None

    def ended() -> bool:
        return all(one["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") for one in runs(url))

    moment = wait_for(started, 240)
    wait_for(ended, 240)  # one retraining at a time: the next event would be turned away
    return float((moment - emitted).total_seconds())


def rows(events: int = EVENTS) -> Iterator[str]:
    """A line of `make bench-drift`."""
    with tempfile.TemporaryDirectory() as name, platform(Path(name)) as environment:
        seen = [seconds_to_start(environment, number) for number in range(events)]
    middle = statistics.median(seen)
    beside = f"of {events}: {', '.join(f'{one:.1f}' for one in seen)}; wall, load {os.getloadavg()[0]:.0f}"
    yield row("event to the retrain flow's start on the worker", f"{middle:.1f} s", beside,
              f"at most {MOST_SECONDS} s", "ok" if middle <= MOST_SECONDS else "missed")


def main() -> None:
    for one in rows():
        print(one, flush=True)


if __name__ == "__main__":
    main()
