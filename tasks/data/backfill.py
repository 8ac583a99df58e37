"""Backfill stage. Says which days a backfill has, which snapshots are missing, and which must be online."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import polars as pl

from models.contract import Contract
from models.errors import ConfigError
from tasks.home import Home
from tasks.data.lake import parse_stamp, snapshot_folder, snapshot_partition

LOADED: Final = "loaded"
THERE: Final = "already there"
PAST: Final = "the past is not rewritten"
NOT_REACHED: Final = "not reached"
TAKEN: Final = "taken"


@dataclass(frozen=True)
class Day:
    """What a backfill did for one `as_of`."""

    as_of: datetime
    load: str  # LOADED, THERE, PAST, NOT_REACHED, or why it was refused
    rows_kept: int | None  # by its load; None: it has none
    snapshot: str  # TAKEN, THERE, NOT_REACHED, or why it could not be taken
    entities: int | None  # in its snapshot


def days_between(start: datetime, end: datetime, *, step_days: int, step_months: int | None) -> list[datetime]:
    """Every day of a backfill, the first included, the end too where a step meets it.

    Raises:
        ConfigError: the end lies before the start, or a step is not at least 1.
    """
    step = f"{step_days} days" if step_months is None else f"{step_months} months"
    if end < start or (step_days if step_months is None else step_months) < 1:
        raise ConfigError(f"cannot backfill from {start:%Y-%m-%d} to {end:%Y-%m-%d} by {step}: the end must not be "
                          "before the start, the step at least 1")
    if step_months is None:
        return [start + timedelta(days=step_days * number) for number in range((end - start).days // step_days + 1)]
    if start.day > 28:
        raise ConfigError(f"cannot backfill from {start:%Y-%m-%d} by months: not every month has a day {start.day}. "
                          "Start on a day up to 28")
    first, last = start.year * 12 + start.month - 1, end.year * 12 + end.month - 1
    days = [start.replace(year=month // 12, month=month % 12 + 1) for month in range(first, last + 1, step_months)]
    return [day for day in days if day <= end]


def missing_snapshots(contract: Contract, home: Home, cuts: Sequence[datetime]) -> list[datetime]:
    """The cuts that have no partition yet: what a run that was killed left to do."""
    return [cut for cut in cuts if not snapshot_partition(home, contract.fingerprint, cut).exists()]


def cuts_for_online(contract: Contract, home: Home, cuts: Sequence[datetime]) -> list[datetime]:
    """Which of these cuts must be put online so that each entity's newest row is there, oldest first.

    As a rule the newest alone; an older one where it has an entity that no newer one has. None, where a snapshot
    later than all of them has everybody: that one is online by its own run.
    """
    there = [cut for cut in sorted(cuts) if snapshot_partition(home, contract.fingerprint, cut).exists()]
    if not there:
        return []
    stamps = [parse_stamp(path.name.removeprefix("cut=").removesuffix(".parquet"))
              for path in snapshot_folder(home, contract.fingerprint).glob("cut=*.parquet")]
    newest = max(cut for cut in stamps if cut is not None)
    seen = _entities(contract, home, newest) if newest > there[-1] else pl.DataFrame(
        schema={contract.entity_key: pl.String})
    needed = []
    for cut in reversed(there):
        more = _entities(contract, home, cut).join(seen, on=contract.entity_key, how="anti")
        if len(more):
            needed.append(cut)
            seen = pl.concat([seen, more])
    return needed[::-1]


def count_entities(contract: Contract, home: Home, cut: datetime) -> int | None:
    """Rows of a snapshot; None where there is none."""
    path = snapshot_partition(home, contract.fingerprint, cut)
    return int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()) if path.exists() else None


def _entities(contract: Contract, home: Home, cut: datetime) -> pl.DataFrame:
    path = snapshot_partition(home, contract.fingerprint, cut)
    return pl.scan_parquet(path, glob=False, hive_partitioning=False).select(contract.entity_key).collect()
