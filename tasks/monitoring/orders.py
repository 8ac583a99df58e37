"""Orders to retrain that nothing came of. Reads the ledger and rollouts; imports no Prefect: the watchdog asks."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Final

import sqlalchemy as sa

from tasks.monitoring.waiting import LOOK_BACK, waits_until
from tasks.release.rollouts import champion
from tasks.state import LedgerRow, read_decisions

TO_BEGIN: Final = timedelta(hours=1)  # wall time that an order has to be answered


def dates_unanswered(engine: sa.Engine, at: datetime) -> list[date]:
    """Dates on which checks of the champion said `retrain` since one last began or was told to wait, oldest first.

    None where the last check that is no alarm asks for nothing, or the change it saw waits for mature cuts: an alarm
    is told by itself, and says nothing of whether a retraining is needed.

    Args:
        at: wall time, UTC; an order made within `TO_BEGIN` of it may yet begin.
    """
    serving = champion(engine)
    if serving is None:
        return []
    checks = [row for row in read_decisions(engine, gate="drift", subject=serving.release_id, limit=LOOK_BACK)
              if row.decision.verdict != "alarm"]
    if not checks or checks[0].decision.verdict != "retrain" or _waits(engine, checks[0]):
        return []
    answered = max((row.at for row in read_decisions(engine, gate="retrain", limit=None)
                    if row.decision.verdict in ("accept", "wait")), default="")
    return sorted({_as_of(row).date() for row in checks if row.decision.verdict == "retrain" and row.at > answered
                   and datetime.fromisoformat(row.at) <= at - TO_BEGIN and not _waits(engine, row)})


def _waits(engine: sa.Engine, row: LedgerRow) -> bool:
    until = waits_until(engine, row)
    return until is not None and _as_of(row) < until


def _as_of(row: LedgerRow) -> datetime:
    """Platform clock of a check; one that has none, which the next check is an alarm for, is of when it was written."""
    return datetime.fromisoformat(row.as_of or row.at)
