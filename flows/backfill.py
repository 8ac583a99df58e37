"""Backfill: the days between two dates, in order; the result equals doing each by itself."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect import flow, get_run_logger

from flows.features import features
from flows.ingest import ingest
from models.errors import ConfigError
from tasks.clock import as_utc


@flow(name="backfill")
def backfill(start: datetime, end: datetime, step_days: int = 1) -> int:
    """Ingest and take features for every `step_days` from `start` to `end`, both included; returns how many."""
    first, last = as_utc(start), as_utc(end)
    if step_days < 1 or last < first:
        raise ConfigError(f"cannot backfill from {first:%Y-%m-%d} to {last:%Y-%m-%d} by {step_days} days: the end must "
                          "not be before the start, the step at least 1")
    days = [first + timedelta(days=step_days * number) for number in range((last - first).days // step_days + 1)]
    for number, as_of in enumerate(days, start=1):
        get_run_logger().info("backfill %d of %d: %s", number, len(days), as_of.date())
        ingest(as_of)
        features(as_of)
    return len(days)
