"""`make backfill START=2024-01-01 END=2024-12-01 STEP_MONTHS=1`: the days between two dates, in order.

With a running platform its server sees the run; without one Prefect starts a temporary server. STEP_DAYS
counts days (default 1), STEP_MONTHS months.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from deploy.local.command import command, join_platform
from flows.settings import load_place, load_settings
from models.errors import ConfigError
from tasks.clock import parse_as_of

if TYPE_CHECKING:
    from tasks.data.backfill import Day


@command("interrupted; the same command does what is missing")
def main(values: Mapping[str, str]) -> int:
    """0; 1 with one line on stderr where it stopped; 130 on Ctrl-C."""
    start, end, step_days, step_months = read_values(values)
    settings = load_settings()
    _charter, home = load_place(settings)
    join_platform(settings, home)
    from flows.backfill import backfill  # imports Prefect, which reads the environment once

    print(text(backfill(start, end, step_days, step_months)))
    return 0


def read_values(values: Mapping[str, str]) -> tuple[datetime, datetime, int, int | None]:
    """Start, end, step in days, step in months.

    Raises:
        ConfigError: a value is missing, no date or no whole number; shows a full command.
    """
    missing = [name for name in ("START", "END") if not values.get(name, "").strip()]
    if missing:
        raise ConfigError(f"cannot backfill: {', '.join(missing)} is missing. Write: make backfill START=2024-01-01 "
                          "END=2024-12-01 STEP_MONTHS=1")
    steps: dict[str, int | None] = {}
    for name in ("STEP_DAYS", "STEP_MONTHS"):
        given = values.get(name, "").strip()
        if given and not given.isdecimal():
            raise ConfigError(f"cannot backfill by {name}={given!r}: not a whole number. Write it as {name}=1")
        steps[name] = int(given) if given else None
    return (parse_as_of(values["START"]), parse_as_of(values["END"]), 1 if steps["STEP_DAYS"] is None
            else steps["STEP_DAYS"], steps["STEP_MONTHS"])


def text(days: list[Day]) -> str:
    """A line a day."""
    return "\n".join(f"{day.as_of:%Y-%m-%d}  load: {day.load}" + (f" ({day.rows_kept:,} rows)" if day.rows_kept else "")
                     + f"  snapshot: {day.snapshot}" + (f" ({day.entities:,})" if day.entities else "") for day in days)


if __name__ == "__main__":
    sys.exit(main(os.environ))
