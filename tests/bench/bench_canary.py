"""`make bench-canary`: what a rollout costs its customers, and how fast a bad one ends. Prints a table; exits 0 always.

    REQUESTS=20000     a drill

The failure counts are of real Bentos behind the real Envoy under supervisor (`drills`); beside each stands what plain
retries lost, without a second endpoint or a limit a try, as measured before (one worker, another load: only the order
of magnitude compares).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from tests.bench import stage_bake, stage_judge
from tests.bench.clients import CONNECTIONS
from tests.bench.drill_world import platform
from tests.bench.drills import DRILLS, Result, run

FIRST_PORT: Final = 25140
# Failed requests a 10,000 with `retry only` and one worker; notes/release.md, section 2.
RETRY_ONLY: Final = {"ramping 5-25-50-100-0": 0, "canary's worker killed": 141, "canary's parent killed": 0,
                     "canary hanging": 255, "champion's worker killed": 177, "Envoy killed": 498}


def row(what: str, seen: str, against: str, limit: str, word: str) -> str:
    return f"{what:<40} {seen:>16} {against:>12}  {limit:<72} {word}".rstrip()


def line(result: Result) -> list[str]:
    """A drill's row, and below it what went wrong."""
    if result.name == "Envoy killed":
        limit = f"at most the {CONNECTIONS} in flight, none once it was gone"
        met = result.in_flight <= CONNECTIONS and not result.after
        note = (f"{result.in_flight} sent before the kill, {result.failed - result.in_flight - result.after} while it "
                f"died, {result.after} after; {result.note}")
    else:
        limit, met, note = "at most 0 failed", not result.failed and not result.outcome.refused, result.note
    word = "ok" if met else "missed"
    against = RETRY_ONLY.get(result.name)
    limit = f"{limit}; {note}"
    return [row(result.name, f"{result.failed} of {result.outcome.asked:,}", "" if against is None else
                f"{against} of 10k", limit, word),
            *(f"  {count} x {fault}" for fault, count in result.outcome.failed.most_common(3))]


def failures() -> None:
    """Print a row a drill, as soon as it is known."""
    requests = int(os.environ.get("REQUESTS", "20000"))
    with tempfile.TemporaryDirectory() as folder, platform(Path(folder), first_port=FIRST_PORT) as world:
        for name in DRILLS:
            print("\n".join(line(run(world, name, requests))), flush=True)


def main() -> None:
    print(row("failed client requests while", "seen", "retries only", "limit", ""), flush=True)
    failures()
    for stage in (stage_judge, stage_bake):
        print("\n".join(stage.rows()), flush=True)


if __name__ == "__main__":
    main()
