"""Events stage. Reads the ledger; emits Prefect events. An event carries a `decision_id` and nothing else.

Anybody who can reach the server can emit an event, so it gives no order: the flow it starts reads the
decision from the ledger and refuses what it does not find there.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from models.charter import DriftPolicy
from tasks.state import USED_DECISIONS, LedgerRow, read_decisions

DRIFT_EVENT = "churn.drift.detected"  # `expect` of the trigger in prefect.yaml
LOOK_BACK = 1_000  # ledger rows read: years of checks


def model_resource(charter_name: str) -> str:
    """The resource an event is about; the trigger in prefect.yaml matches `churn.model.*`."""
    return f"churn.model.{charter_name}"


@task(name="emit-retrain-event", cache_policy=NO_CACHE)
def emit_retrain_event(decision_id: str, *, charter_name: str) -> bool:
    """Ask for a retraining; False where there is no server to ask.

    Without `PREFECT_API_URL` Prefect would start a temporary server for the event, which no trigger hears.
    """
    logger = get_run_logger()
    if not PREFECT_API_URL.value():
        logger.warning("no retrain event for decision %s: PREFECT_API_URL is not set. `make run` starts the platform",
                       decision_id)
        return False
    emit_event(DRIFT_EVENT, resource={"prefect.resource.id": model_resource(charter_name)},
               payload={"decision_id": decision_id})
    logger.info("emitted %s for decision %s", DRIFT_EVENT, decision_id)
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
    days_old = (now - as_of) / timedelta(days=1)
    if days_old > policy.decision_valid_days:
        return f"it is {days_old:.0f} days old, valid for {policy.decision_valid_days}: wait for the next monitor run"
    same_day = [one for one in read_decisions(engine, gate="drift", limit=LOOK_BACK)
                if one.as_of == row.as_of and one.subject == row.subject]
    if same_day and same_day[0].decision.verdict != "retrain":
        return f"a later check of the same date says {same_day[0].decision.verdict}"
    last = last_retrain(engine)
    if last is not None and as_of <= last:
        return f"a retraining at {last:%Y-%m-%d} came after it"
    return None


def last_retrain(engine: sa.Engine) -> datetime | None:
    """Platform clock of the last accepted retraining that did not fail."""
    rows = read_decisions(engine, gate="retrain", limit=LOOK_BACK)
    failed = {row.decision.evidence.get("decision_id") for row in rows if row.decision.evidence.get("failed")}
    accepted = [
        datetime.fromisoformat(row.as_of)
        for row in rows
        if row.as_of and row.decision.verdict == "accept" and row.decision.evidence.get("decision_id") not in failed
    ]
    return max(accepted, default=None)


def one_line(error: BaseException) -> str:
    """The error's kind and its first line, at most 200 characters."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:200]}"
