"""`make why`: the verdicts behind what is live, from the ledger, oldest first."""

from __future__ import annotations

import sys

from deploy.local.status import existing_place
from flows.settings import load_settings
from models.errors import PipelineError, PlatformError
from tasks import rollouts
from tasks.state import LedgerRow, open_state, read_decisions


def main() -> int:
    """0; 1 with one line where nothing is live."""
    try:
        _charter, home = existing_place(load_settings())
        engine = open_state(home.state_url)
        champion = rollouts.champion(engine)
        if champion is None:
            raise PlatformError("cannot say why: nothing is live. Run `make run` first")
        release = rollouts.read_release(engine, champion.release_id)
        rows = [row for subject in (release.model_version, release.release_id)
                for row in read_decisions(engine, subject=subject)]
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{release.release_id} is live because (opened by {champion.who}: {champion.why})")
    for row in sorted(rows, key=lambda row: row.at):
        print(_line(row))
    return 0


def _line(row: LedgerRow) -> str:
    as_of = f", as of {row.as_of[:10]}" if row.as_of else ""
    return f"  {row.at[:16]}{as_of}  {row.decision.gate}: {row.decision.verdict}: {row.decision.reason}"


if __name__ == "__main__":
    sys.exit(main())
