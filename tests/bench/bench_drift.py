"""`make bench-drift`: what the watch over a model misses, and cries for nothing. Prints a table; exits 0 either way.

    STAGES="drift nightly concept cost event"     some of them

Simulated frames for the drift check with Evidently's defaults beside it, simulated customers who return for concept
drift, a million rows for its cost, and a real Prefect server and worker for the way from an event to the flow.
"""

from __future__ import annotations

import importlib
import os
from typing import Final

from tests.bench.stage_drift import row

STAGES: Final = {"drift": "stage_drift", "nightly": "stage_drift_nightly", "concept": "stage_drift_concept",
                 "cost": "stage_drift_cost", "event": "stage_drift_event"}


def main() -> None:
    wanted = os.environ.get("STAGES", " ".join(STAGES)).split()
    print(row("what", "seen", "beside", "limit", ""), flush=True)
    for name in wanted:
        if name not in STAGES:
            raise SystemExit(f"cannot measure {name!r}: no stage; known: {', '.join(STAGES)}")
        for line in importlib.import_module(f"tests.bench.{STAGES[name]}").rows():
            print(line, flush=True)


if __name__ == "__main__":
    main()
