"""`make why`: the verdicts behind what is live, from the ledger, oldest first."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import sqlalchemy as sa

from deploy.local.command import command
from deploy.local.status import existing_place
from flows.settings import load_settings
from models.charter import Charter
from models.errors import PlatformError
from tasks.release import releases, rollouts
from tasks.state import LedgerRow, open_state, read_decisions


@command()
def main() -> int:
    """0; 1 with one line where nothing is live."""
    charter, home = existing_place(load_settings())
    engine = open_state(home.state_url)
    champion = rollouts.champion(engine)
    if champion is None:
        raise PlatformError("cannot say why: nothing is live. Run `make run` first")
    release = releases.read_release(engine, champion.release_id)
    rows = [row for subject in (release.model_version, release.release_id)
            for row in read_decisions(engine, subject=subject)]
    rows += _designs(engine, rows)
    print(f"{release.release_id} is live because (opened by {champion.who}: {champion.why})")
    for row in sorted(rows, key=lambda row: row.at):
        print(_line(row, charter))
    return 0


def _designs(engine: sa.Engine, rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """The go or no-go of the design behind each promotion: the one of its run, by its training set's name."""
    designs = [row for row in read_decisions(engine, gate="go", limit=10_000)
               if row.decision.evidence.get("stage") == "design"]
    runs = [str(row.decision.evidence["run_id"]) for row in rows
            if row.decision.gate == "promotion" and row.decision.evidence.get("run_id")]
    found = (next((one for one in designs if f"run={run[:12]}." in (one.subject or "")), None) for run in runs)
    return [one for one in found if one is not None]


def _line(row: LedgerRow, charter: Charter) -> str:
    as_of = f", as of {row.as_of[:10]}" if row.as_of else ""
    gate, run = row.decision.gate, row.decision.evidence.get("run_id")
    made_by = f" (run {run})" if run else ""
    return (f"  {row.at[:16]}{as_of}  {gate}: {row.decision.verdict} ({charter.owner(gate)}): {row.decision.reason}"
            f"{made_by}")


if __name__ == "__main__":
    sys.exit(main())
