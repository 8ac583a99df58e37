"""Retrain decisions that wait. Reads the ledger: until when a decision cannot be acted on, by what `retrain` answered.

After a change of the concept a model needs two mature cuts; until then `retrain` answers `wait` and does not use the
decision up, so that a later monitor run asks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from tasks.clock import as_utc
from tasks.state import LedgerRow, read_decisions

LOOK_BACK = 1_000  # answers read: years of them


def waits_until(engine: sa.Engine, row: LedgerRow) -> datetime | None:
    """Until when a decision waits, by the answers to it or to another one of the same change; None: nobody said so."""
    change = row.decision.evidence.get("changed_since")
    told = [answer.decision.evidence for answer in read_decisions(engine, gate="retrain", limit=LOOK_BACK)
            if answer.decision.verdict == "wait"]
    moments = [as_utc(datetime.fromisoformat(str(one["waits_until"]))) for one in told
               if one.get("decision_id") == row.decision_id or (change and one.get("changed_since") == change)]
    return max(moments, default=None)


def due(engine: sa.Engine, rows: Sequence[LedgerRow], now: datetime) -> list[LedgerRow]:
    """Those that need not wait any more at `now` (platform clock), in the same order."""
    until = {row.decision_id: waits_until(engine, row) for row in rows}
    return [row for row in rows if (moment := until[row.decision_id]) is None or moment <= now]
