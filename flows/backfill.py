"""Backfill: a range of days, in order; the result equals doing each by itself.

Loads come first, one after another: each is an answer to what is there already. Snapshots then depend on
nothing but the loads (`created_timestamp` keeps the past what it was), so they are taken side by side. What
is done stands in the lake: killed and started again, it does what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from feature_repo.contract import Snapshot
from flows.context import Context, open_context
from flows.features import compare_online, put_online
from flows.ingest import ingest
from flows.summary import say
from models.contract import Contract
from models.errors import DataError, PipelineError
from tasks.clock import as_utc, move_clock, platform_now
from tasks.data.backfill import (
    LOADED,
    NOT_REACHED,
    PAST,
    TAKEN,
    THERE,
    Day,
    count_entities,
    cuts_for_online,
    days_between,
    missing_snapshots,
)
from tasks.data.ingest import committed_loads
from tasks.features.snapshots import build_snapshots
from tasks.home import MEMORY_LIMIT
from tasks.scoring.score import serving_contracts
from tasks.state import last_load

WORKERS = 2  # DuckDB uses every core by itself: what two gain is what goes on beside it
CUTS_A_TASK = 4  # taken from one reading of the lake
SHARE_OF_MEMORY = f"{int(MEMORY_LIMIT.removesuffix('GB')) / WORKERS:g}GB"


@flow(name="backfill", task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))  # type: ignore[arg-type]  # Prefect's
def backfill(start: datetime, end: datetime, step_days: int = 1, step_months: int | None = None) -> list[Day]:
    """Ingest and take features for every day from `start` to `end`, both included; says what it did for each.

    A day before the last load is not loaded again (the past is not rewritten), its snapshot is taken. Where a
    batch is refused it stops there, with all before it done; mended and started again, it goes on from there.

    Args:
        start: first `as_of`.
        end: last `as_of`.
        step_days: days between two.
        step_months: months between two, in place of days: 1 gives the same day of each month.
    """
    days = days_between(as_utc(start), as_utc(end), step_days=step_days, step_months=step_months)
    context = open_context(days[-1])
    contracts = [*serving_contracts(context.home, context.engine, besides=context.contract), context.contract]
    progress = Progress(len(days) + sum(1 + len(missing_snapshots(one, context.home, days)) for one in contracts))
    loads, fault = load_days(context, days, progress)
    reached = [day for day in days if loads[day] != NOT_REACHED]
    snapshots: dict[datetime, str] = {}
    for contract in contracts:
        snapshots = take_missing(context, contract, reached, progress)
        put_newest_online(context, contract, reached)
        progress.step("the newest is online")
    done = show_days(context, days, loads, snapshots)
    refused = fault or next((text for day in reached if (text := snapshots[day]) not in (TAKEN, THERE)), None)
    if refused:
        count = sum(day.snapshot in (TAKEN, THERE) and day.load != NOT_REACHED for day in done)
        raise DataError(f"{refused}. The backfill stopped there: {count} of {len(days)} days are done. Mended and "
                        "started again, it goes on from there")
    return done


def load_days(context: Context, days: Sequence[datetime], progress: Progress) -> tuple[
        Mapping[datetime, str], str | None]:
    """Ingest what is not loaded yet, in order, up to the first refusal; what became of each day, and that refusal."""
    loads = dict.fromkeys(days, NOT_REACHED)
    fault = None
    for day in days:
        last = last_load(context.engine)
        if any(load.as_of == day for load in committed_loads(context.engine)):
            loads[day] = THERE
        elif last is not None and day < last:
            loads[day] = PAST
        else:
            try:
                ingest(day)
            except DataError as error:
                fault = str(error)
                break
            loads[day] = LOADED
        progress.step(f"load of {day:%Y-%m-%d}: {loads[day]}")
    last = last_load(context.engine)
    if last is not None and platform_now(context.engine, context.charter) < last:
        move_clock(context.engine, context.charter, context.home, last)  # killed between a load and its clock
    return loads, fault


def take_missing(
    context: Context, contract: Contract, days: Sequence[datetime], progress: Progress
) -> dict[datetime, str]:
    """Take the snapshots of a contract that are not there yet; what became of each day's."""
    missing = missing_snapshots(contract, context.home, days)
    found = {day: NOT_REACHED if day in missing else THERE for day in days}
    parts = [missing[number:number + CUTS_A_TASK] for number in range(0, len(missing), CUTS_A_TASK)]
    futures = {take_snapshots.submit(context, contract, part): part for part in parts}
    for future in as_completed(list(futures)):
        answer = future.result(raise_on_failure=False)
        for day in futures[future]:
            if day not in missing_snapshots(contract, context.home, [day]):
                found[day] = TAKEN
            elif isinstance(answer, PipelineError):
                found[day] = str(answer)
            elif isinstance(answer, Exception):
                raise answer
        progress.step(f"snapshots to {futures[future][-1]:%Y-%m-%d}", steps=len(futures[future]))
    return found


def put_newest_online(context: Context, contract: Contract, days: Sequence[datetime]) -> None:
    """What must be online of these days, and as after every materialization a comparison."""
    needed = cuts_for_online(contract, context.home, days)
    for cut in needed:
        put_online(replace(context, as_of=cut), contract)
    if needed:
        compare_online(replace(context, as_of=needed[-1]), contract)


@task(name="take-snapshots", cache_policy=NO_CACHE)
def take_snapshots(context: Context, contract: Contract, cuts: Sequence[datetime]) -> None:
    """The features of everybody at several cuts."""
    own = contract.fingerprint == context.contract.fingerprint
    build_snapshots(contract, Snapshot if own else None, home=context.home, engine=context.engine, cuts=cuts,
                    memory_limit=SHARE_OF_MEMORY)


@task(name="show-days", cache_policy=NO_CACHE)
def show_days(
    context: Context, days: Sequence[datetime], loads: Mapping[datetime, str], snapshots: Mapping[datetime, str]
) -> list[Day]:
    """What was done for each day, as a Prefect artifact too."""
    kept = {load.as_of: load.total.kept for load in committed_loads(context.engine)}
    done = [Day(day, loads[day], kept.get(day), snapshots.get(day, NOT_REACHED),
                count_entities(context.contract, context.home, day)) for day in days]
    create_table_artifact(
        key="backfill", description=f"Backfill from {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}",
        table=[{"as_of": f"{day.as_of:%Y-%m-%d}", "load": day.load, "rows kept": day.rows_kept,
                "snapshot": day.snapshot, context.contract.entity_key: day.entities} for day in done],
    )
    return done


@dataclass
class Progress:
    """How far it is, in the log, on stderr and as a Prefect artifact."""

    total: int
    done: int = 0
    begun: float = field(default_factory=time.monotonic)
    artifact: UUID | None = None

    def step(self, what: str, *, steps: int = 1) -> None:
        """Something is done."""
        self.done += steps
        left = (time.monotonic() - self.begun) / self.done * max(self.total - self.done, 0)
        line = f"backfill {self.done} of {self.total}: {what}, {left:.0f} s left"
        get_run_logger().info(line)
        say(line)
        percent = min(100 * self.done / self.total, 100.0)
        if self.artifact is None:
            made = create_progress_artifact(percent, key="backfill-progress", description=line)
            self.artifact = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self.artifact, percent, description=line)
