"""`make score`, `make score AS_OF=2025-02-01`: everybody by the champion, ranked; a missing snapshot is taken.

With a running platform its server sees the run; without one Prefect starts a temporary server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.command import command, join_platform
from deploy.local.status import existing_place
from flows.settings import load_settings
from models.errors import DataError
from tasks.clock import parse_as_of


@command("interrupted; the scores before are still there")
def main(values: Mapping[str, str]) -> int:
    """0; 1 with one line on stderr where nothing can be scored; 130 on Ctrl-C."""
    given = values.get("AS_OF", "").strip()
    as_of = parse_as_of(given) if given else None
    settings = load_settings()
    _charter, home = existing_place(settings)
    join_platform(settings, home)
    from flows.score import score  # imports Prefect, which reads the environment once

    scores = score(as_of)
    if scores is None:
        raise DataError("cannot score: no release is champion. Run `make run` first; `make status` says whether one "
                        "waits")
    print(text(scores))
    return 0


def text(scores: Path) -> str:
    """A line a decision and reason, and the file."""
    from flows.score import count_actions

    lines = [
        f"{row['decision']:<8} {row['why']:<13} {row['customers']:>11,} customers  {row['within budget']:>9,} within "
        f"the budget  {row['expected value']:>+14,.0f} expected" for row in count_actions(scores).to_dicts()
    ]
    return "\n".join([*lines, f"scores   {scores.absolute().as_uri()}"])


if __name__ == "__main__":
    sys.exit(main(os.environ))
