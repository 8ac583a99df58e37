"""Predictions whose truth is due. Reads the ledger: it knows who was scored when scores, log and truth are gone."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from models.charter import Charter
from models.gates.retraining_check import GATE
from tasks.monitoring.events import LOOK_BACK
from tasks.state import read_decisions


def due_cuts(
    engine: sa.Engine, charter: Charter, *, as_of: datetime, release_id: str | None = None
) -> frozenset[datetime]:
    """Dates whose scored customers were checked, and whose labels may be read by `as_of`.

    Dates on which nothing ran are not among them: nobody was scored then, so no truth is missing.

    Args:
        release_id: only the dates on which this release was champion; None: of whatever release.

    Raises:
        PlatformError: a row of the ledger cannot be read.
    """
    rows = read_decisions(engine, gate=GATE, subject=release_id, limit=LOOK_BACK)
    cuts = {datetime.fromisoformat(row.as_of) for row in rows if row.as_of and row.decision.evidence.get("rows")}
    return frozenset(cut for cut in cuts if cut + charter.problem.maturity <= as_of)
