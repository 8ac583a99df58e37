"""In how many quiet months nightly checks of the drift gate act, by the days between two checks that both count.

The customers are those of `stage_drift`; each night one in thirty is another, so a check sees nearly the rows of the
one before. Every month has a reference of its own and a fortnight of checks before it. A month acts where on any of its
nights enough checks that count flagged, this one among them.

    python -m tests.bench.stage_drift_nightly      prints the row
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import pandas as pd

from models.gates.retraining import checks_apart
from models.limits import DriftPolicy
from tests.bench.stage_drift import frame, ours, row

ROWS: Final = 500
MONTHS: Final = 40
NIGHTS: Final = 30
BEFORE: Final = 14
TURNOVER: Final = 1 / 30  # of the customers, each night
BEGIN: Final = datetime(2025, 1, 1, tzinfo=UTC)
EACH_NIGHT: Final = DriftPolicy(days_between_flags=1)
POLICY: Final = DriftPolicy()


def flags_of_a_month(number: int) -> list[tuple[datetime, bool]]:
    """Date and flag of each night, newest last."""
    rng = np.random.default_rng([3, ROWS, number])
    reference, current = frame(ROWS, rng), frame(ROWS, rng)
    found = []
    for night in range(BEFORE + NIGHTS):
        found.append((BEGIN + timedelta(days=night), ours(reference, current)))
        stay = rng.random(ROWS) >= TURNOVER
        current = pd.concat([current[stay], frame(int((~stay).sum()), rng)], ignore_index=True)
    return found


def acts(flags: Sequence[tuple[datetime, bool]], policy: DriftPolicy) -> bool:
    """Whether any night of the month asks for a retraining."""
    for night in range(BEFORE, len(flags)):
        counted = checks_apart(flags[night::-1], policy)[: policy.of_checks]
        if counted[0][1] and sum(flag for _, flag in counted) >= policy.flags_to_act:
            return True
    return False


def rows() -> Iterator[str]:
    """The line of `make bench-drift`."""
    months = [flags_of_a_month(number) for number in range(MONTHS)]
    seen, every = (sum(acts(month, policy) for month in months) for policy in (POLICY, EACH_NIGHT))
    most = MONTHS / 24
    yield row(f"of {MONTHS} quiet months of nightly checks act, {ROWS} rows", str(seen),
              f"{every} where each night counts", f"at most {most:.1f}", "ok" if seen <= most else "missed")


if __name__ == "__main__":
    for one in rows():
        print(one, flush=True)
