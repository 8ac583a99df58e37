"""What the ledger has to tell, once each. Reads the ledger; sends Prefect events over HTTP; needs no Prefect.

The ledger is the outbox: an event is only a hint that a verdict stands there, so it can be sent late, twice or never.
Whoever wrote a verdict sends what is open (`send_events`), and the watchdog sends what others could not: a call by hand
while Prefect was away, its own rollback, a run that was killed.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import sys
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa

from tasks.monitoring.alarms import matters, open_alarm_rows
from tasks.state import LedgerRow, ledger_row, now
from tasks.tables import DECISIONS, TOLD

LOGGER: Final = logging.getLogger(__name__)
DRIFT_EVENT: Final = "churn.drift.detected"
PERFORMANCE_EVENT: Final = "churn.performance.degraded"
REJECTED_EVENT: Final = "churn.data.rejected"
PROMOTED_EVENT: Final = "churn.release.promoted"
ROLLED_BACK_EVENT: Final = "churn.release.rolled_back"
ALARM_EVENT: Final = "churn.alarm.raised"  # any other verdict that a person should hear of
EVENTS: Final = (DRIFT_EVENT, PERFORMANCE_EVENT, REJECTED_EVENT, PROMOTED_EVENT, ROLLED_BACK_EVENT, ALARM_EVENT)

# Verdicts with an event of their own; a `drift: retrain` is told by its kind.
_NAMES: Final[Mapping[tuple[str, str], str]] = {
    ("data", "refuse"): REJECTED_EVENT, ("release", "release"): PROMOTED_EVENT,
    ("release", "rolled back"): ROLLED_BACK_EVENT,
    ("drift", "alarm"): ALARM_EVENT, ("silence", "alarm"): ALARM_EVENT, ("bake", "roll back"): ALARM_EVENT,
    ("smoke", "refuse"): ALARM_EVENT, ("release", "wait"): ALARM_EVENT, ("retrain", "refuse"): ALARM_EVENT,
    ("release", "refuse"): ALARM_EVENT,
}
# Alarms with a told twin: both end their rollout, and `release: rolled back` tells it.
TWINS: Final = (("shadow", "roll back"), ("canary", "roll back"))
PATIENCE: Final = 10.0  # seconds a busy server has to take an event
HURRY: Final = 1.5  # seconds it has after a release or a rollback, which do not wait for Prefect
NEWS: Final = timedelta(days=1)  # what is older is told only while it is an open alarm
CLAIM: Final = timedelta(minutes=2)  # who took a verdict up and did not come back is taken for dead
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy


def model_resource(charter_name: str) -> str:
    """The resource an event is about; the triggers in prefect.yaml match `churn.model.*`."""
    return f"churn.model.{charter_name}"


def event_of(row: LedgerRow) -> str | None:
    """The event that says a verdict stands in the ledger; None for one that nobody needs to hear of.

    A `release: refuse` that ends a rollout is told by its twin, the `smoke: refuse` that caused it.
    """
    decision = row.decision
    if (decision.gate, decision.verdict) == ("release", "refuse") and "rollout_id" in decision.evidence:
        return None
    if (decision.gate, decision.verdict) == ("drift", "retrain"):
        return PERFORMANCE_EVENT if decision.evidence.get("kind") == "performance" else DRIFT_EVENT
    return _NAMES.get((decision.gate, decision.verdict)) if matters(row) else None


def emit(name: str, *, charter_name: str, decision_id: str, seconds: float = PATIENCE) -> bool:
    """Send one event, which carries the decision's id and nothing else; True once the server has it.

    Never raises: a lost event is sent again, see the module.

    Args:
        seconds: how long it may take.
    """
    url, secret = _server()
    if not url:
        return False
    token = base64.b64encode(secret.encode()).decode()
    event = {"id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": name,
             "resource": {"prefect.resource.id": model_resource(charter_name)}, "payload": {"decision_id": decision_id}}
    request = urllib.request.Request(
        f"{url.rstrip('/')}/events", data=json.dumps([event]).encode(),
        headers={"Content-Type": "application/json", **({"Authorization": f"Basic {token}"} if secret else {})})
    try:
        with _OPENER.open(request, timeout=seconds):
            return True
    except (OSError, http.client.HTTPException, ValueError) as error:
        LOGGER.info("the event %s for decision %s did not reach Prefect: %s", name, decision_id, type(error).__name__)
        return False


def send_events(engine: sa.Engine, *, charter_name: str) -> int:
    """Send an event for each verdict of the last day, and each open alarm, that had none yet; how many went out.

    Stops at the first that does not go out: Prefect is away, and the next call sends it. Never raises: it is called
    after the verdict stands, and must not undo what that verdict did.
    """
    if not _server()[0]:
        return 0
    sent = 0
    try:
        for row in open_rows(engine, "event"):
            if not claim(engine, row.decision_id, "event"):
                continue
            name = event_of(row)
            gone = name is not None and emit(name, charter_name=charter_name, decision_id=row.decision_id,
                                               seconds=HURRY)
            settle(engine, row.decision_id, "event", fault=None if gone else "Prefect did not answer")
            if not gone:
                break
            sent += 1
    except sa.exc.SQLAlchemyError as error:
        LOGGER.warning("events are not sent: %s", type(error).__name__)
    return sent


def open_rows(engine: sa.Engine, medium: str) -> list[LedgerRow]:
    """Verdicts of the last day, and open alarms of any age, that did not go out by `medium` yet, oldest first."""
    # A retraining is asked for by the monitor, each time it runs, until somebody acts: not by the outbox as well.
    kinds = [*_NAMES, *([("drift", "retrain")] if medium != "event" else [])]
    wanted = sa.or_(*(sa.and_(DECISIONS.c.gate == gate, DECISIONS.c.verdict == verdict) for gate, verdict in kinds))
    done = sa.select(TOLD.c.decision_id).where(TOLD.c.medium == medium, TOLD.c.done)
    stands = [row.decision_id for row in open_alarm_rows(engine)]
    query = sa.select(DECISIONS).where(wanted, DECISIONS.c.decision_id.not_in(done), sa.or_(
        DECISIONS.c.at >= _ago(NEWS), DECISIONS.c.decision_id.in_(stands)))
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(DECISIONS.c.at)).mappings().all()
    return [row for row in map(ledger_row, rows) if event_of(row) is not None]


def claim(engine: sa.Engine, decision_id: str, medium: str) -> bool:
    """Take a verdict up for a medium; False where somebody else did just now, or it went out."""
    try:
        with engine.begin() as connection:
            connection.execute(TOLD.insert().values(decision_id=decision_id, medium=medium, at=now(), done=False))
        return True
    except sa.exc.IntegrityError:
        free = sa.or_(TOLD.c.fault.is_not(None), TOLD.c.at < _ago(CLAIM))
        with engine.begin() as connection:
            taken = connection.execute(TOLD.update().where(
                TOLD.c.decision_id == decision_id, TOLD.c.medium == medium, sa.not_(TOLD.c.done), free,
            ).values(at=now(), fault=None))
        return bool(taken.rowcount)


def settle(engine: sa.Engine, decision_id: str, medium: str, *, fault: str | None) -> None:
    """Write down that it went out, or why not."""
    with engine.begin() as connection:
        connection.execute(TOLD.update().where(TOLD.c.decision_id == decision_id, TOLD.c.medium == medium)
                           .values(at=now(), done=fault is None, fault=fault))


def faults(engine: sa.Engine, medium: str) -> Sequence[str]:
    """Why verdicts of the last day did not go out by a medium: one reason each."""
    with engine.connect() as connection:
        return list(connection.execute(sa.select(TOLD.c.fault).where(
            TOLD.c.medium == medium, sa.not_(TOLD.c.done), TOLD.c.fault.is_not(None), TOLD.c.at >= _ago(NEWS),
        ).order_by(TOLD.c.at)).scalars())


def _ago(time: timedelta) -> str:
    return (datetime.now(UTC) - time).isoformat(timespec="microseconds")


def _server() -> tuple[str, str]:
    """URL and secret of the Prefect server: of Prefect's settings where it is imported, else of the environment."""
    if "prefect" in sys.modules:
        from prefect.settings import get_current_settings

        api = get_current_settings().api
        return api.url or "", api.auth_string.get_secret_value() if api.auth_string else ""
    return os.environ.get("PREFECT_API_URL", ""), os.environ.get("PREFECT_API_AUTH_STRING", "")
