"""Seconds from an event to the first line of the retrain flow, on a platform that `make run` would start.

A real Prefect server with the deployments of prefect.yaml and a worker that asks every two seconds, as the platform's
does. The event names a decision that the ledger does not know, so the flow refuses it: its start is what is timed, from
emitting to the state `Running`, which Prefect sets just before the flow's first line.

    python -m tests.bench.stage_drift_event      prints the row (two minutes)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.bench.stage_drift import row
from tests.prefect_server import Server, server
from tests.waiting import free_port, wait_for

PORTS: Final = range(25590, 25600)
EVENTS: Final = 3
MOST_SECONDS: Final = 10
ENDED: Final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
EVENT: Final = "churn.drift.detected"


def seconds_to_start(there: Server, number: int) -> float:
    """Emit one event, and wait until the flow it starts runs."""
    decision_id = f"unknown-{number}"
    # The event's own moment, without the imports of whoever emits it.
    code = (f"from prefect.events import emit_event\nemit_event({EVENT!r}, resource={{'prefect.resource.id': "
            f"'churn.model.bench'}}, payload={{'decision_id': {decision_id!r}}})\n"
            "import time; print(time.time())")
    done = subprocess.run([sys.executable, "-c", code], env=there.environment, check=True, capture_output=True,
                          text=True)
    emitted = datetime.fromtimestamp(float(done.stdout.split()[-1]), UTC)

    def started() -> datetime | None:
        mine = [one["start_time"] for one in there.runs("retrain")
                if one["parameters"].get("decision_id") == decision_id and one["start_time"]]
        return datetime.fromisoformat(mine[0]) if mine else None

    def ended() -> bool:
        return all(one["state_type"] in ENDED for one in there.runs("retrain"))

    moment = wait_for(started, 240)
    wait_for(ended, 240)  # one retraining at a time: the next event would be turned away
    assert moment
    return (moment - emitted).total_seconds()


def rows(events: int = EVENTS) -> Iterator[str]:
    """A line of `make bench-drift`."""
    with tempfile.TemporaryDirectory() as name, server(Path(name), free_port(PORTS)) as there:
        seen = [seconds_to_start(there, number) for number in range(events)]
    middle = statistics.median(seen)
    beside = f"of {events}: {', '.join(f'{one:.1f}' for one in seen)}; wall, load {os.getloadavg()[0]:.0f}"
    yield row("event to the retrain flow's start on the worker", f"{middle:.1f} s", beside,
              f"at most {MOST_SECONDS} s", "ok" if middle <= MOST_SECONDS else "missed")


def main() -> None:
    for one in rows():
        print(one, flush=True)


if __name__ == "__main__":
    main()
