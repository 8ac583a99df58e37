"""Events stage. Reads the ledger; emits Prefect events. An event carries a `decision_id` and nothing else.

Anybody who can reach the server can emit an event, so it gives no order: the flow it starts reads the
decision from the ledger and refuses what it does not find there.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL

from models.limits import DriftPolicy
from tasks.monitoring.outbox import (
    ALARM_EVENT,
    DRIFT_EVENT,
    EVENTS,
    PERFORMANCE_EVENT,
    PROMOTED_EVENT,
    REJECTED_EVENT,
    ROLLED_BACK_EVENT,
    emit,
    event_of,
    model_resource,
    send_events,
)
from tasks.monitoring.retrainings import accepted, last_retrain, no_room, read_retrainings, when
from tasks.monitoring.waiting import waits_until
from tasks.release import rollouts
from tasks.state import LedgerRow, read_decisions
from tasks.tables import USED_DECISIONS

__all__ = ["ALARM_EVENT", "DRIFT_EVENT", "EVENTS", "PERFORMANCE_EVENT", "PROMOTED_EVENT", "REJECTED_EVENT",
           "ROLLED_BACK_EVENT", "emit", "emit_retrain_event", "event_of", "model_resource",
           "open_retrain_decisions", "refusal", "send_events"]
LOOK_BACK = 1_000  # ledger rows read: years of checks


@task(name="emit-retrain-event", cache_policy=NO_CACHE)
def emit_retrain_event(decision_id: str, *, charter_name: str, name: str = DRIFT_EVENT) -> bool:
    """Ask for a retraining; False where there is no server to ask, or it does not answer.

    Without `PREFECT_API_URL` Prefect would start a temporary server for the event, which no trigger hears.
    """
    logger = get_run_logger()
    if not PREFECT_API_URL.value():
        logger.warning("no retrain event for decision %s: PREFECT_API_URL is not set. `make run` starts the platform",
                       decision_id)
        return False
    if not emit(name, charter_name=charter_name, decision_id=decision_id):
        logger.warning("no retrain event for decision %s: Prefect did not take it. The next monitor run asks again",
                       decision_id)
        return False
    logger.info("emitted %s for decision %s", name, decision_id)
    return True


def open_retrain_decisions(engine: sa.Engine, policy: DriftPolicy, now: datetime) -> list[LedgerRow]:
    """Retrain decisions nobody has acted on and `refusal` would still accept, newest first."""
    with engine.connect() as connection:
        used = set(connection.execute(sa.select(USED_DECISIONS.c.decision_id)).scalars())
    rows = [row for row in read_decisions(engine, gate="drift", limit=LOOK_BACK) if row.decision_id not in used]
    return [row for row in rows if refusal(row, engine, policy, now) is None]


def refusal(row: LedgerRow, engine: sa.Engine, policy: DriftPolicy, now: datetime) -> str | None:
    """Why a recorded decision orders no retraining now, or None where it does. Whether it was used is not asked.

    Args:
        now: platform clock.
    """
    if row.decision.gate != "drift" or row.decision.verdict != "retrain":
        return f"it says {row.decision.gate}: {row.decision.verdict}, not drift: retrain"
    if row.as_of is None:
        return "it has no as_of, so its age is unknown"
    as_of = datetime.fromisoformat(row.as_of)
    if as_of > now:
        return f"it is dated {as_of:%Y-%m-%d}, after now ({now:%Y-%m-%d})"
    days_old = (now - max(as_of, waits_until(engine, row) or as_of)) / timedelta(days=1)  # waiting makes nothing old
    if days_old > policy.decision_valid_days:
        return f"it is {days_old:.0f} days old, valid for {policy.decision_valid_days}: wait for the next monitor run"
    return _withdrawn(row, as_of, engine) or _answered(row, as_of, engine, policy, now)


def _withdrawn(row: LedgerRow, as_of: datetime, engine: sa.Engine) -> str | None:
    """Every later check must say it again, and of the same champion: what was true a check ago orders nothing."""
    for later in read_decisions(engine, gate="drift", limit=LOOK_BACK):
        if later.at >= row.at and later.decision.verdict != "retrain" and (
                later.as_of is None or datetime.fromisoformat(later.as_of) >= as_of):
            return f"a later check (of {(later.as_of or later.at)[:10]}) says {later.decision.verdict}"
    live = rollouts.champion(engine)
    serving = live.release_id if live else None
    if serving != row.subject:
        return f"it is about {row.subject or 'no release'}, and champion is {serving or 'none'}"
    return None


def _answered(row: LedgerRow, as_of: datetime, engine: sa.Engine, policy: DriftPolicy, now: datetime) -> str | None:
    """A retraining that was begun answers every decision there was by then, whatever came of it."""
    rows, last = read_retrainings(engine), last_retrain(engine)
    begun = next((when(one) for one in accepted(rows) if one.at >= row.at), None)
    if begun is not None or (last is not None and as_of <= last):
        return f"a retraining was begun after it (at {begun or last:%Y-%m-%d})"
    return no_room(rows, last, policy, now)
