"""How retrainings ended. Reads rollouts and which versions wait for approval; the rows of retrainings are given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from models.decision import Decision
from models.gates.retraining_check import Outcome
from tasks.monitoring.retrainings import accepted, decision_of, ends, failed
from tasks.release import releases, rollouts
from tasks.release.approval import too_old, waiting
from tasks.state import LedgerRow

NOT_IN_VAIN: Final[tuple[Outcome, ...]] = ("champion", "replaced", "on trial", "waits for a person")


def outcomes(engine: sa.Engine, retrained: Sequence[LedgerRow], now: datetime) -> list[Outcome]:
    """How each accepted retraining ended that did not fail, newest first.

    Args:
        retrained: rows of the gate `retrain`, newest first.
        now: platform clock; a version that has waited for approval for too long by then waits no more.
    """
    vain, found = failed(retrained), list[Outcome]()
    serving = rollouts.champion(engine)
    for row in accepted(retrained):
        if decision_of(row) not in vain:
            since = serving is not None and serving.closed_at is not None and serving.closed_at > row.at
            found.append(_outcome(engine, [end.decision for end in ends(retrained, row)],
                                  serving.release_id if serving else None, champion_since=since, now=now))
    return found


def _outcome(
    engine: sa.Engine, told: Sequence[Decision], champion_id: str | None, *, champion_since: bool, now: datetime
) -> Outcome:
    """How one ended.

    Args:
        told: what the ledger says of its end, newest first.
        champion_id: the release that serves.
        champion_since: whether that became champion after the retraining began.
    """
    version = told[-1].evidence.get("model_version") if told else None
    release = releases.release_of_version(engine, str(version)) if version else None
    state = rollouts.last_state(engine, release.release_id) if release else None
    if state in rollouts.OPEN_STATES:
        return "on trial"
    if champion_since:
        return "champion" if release and release.release_id == champion_id else "replaced"
    if not told:
        return "unfinished"
    if not version:
        return "kept"
    if state is not None:
        return "rolled back"
    waits = any(not too_old(row, now) for row in waiting(engine, str(version)))
    return "waits for a person" if waits else "not released"


def in_vain(ended: Sequence[Outcome]) -> int:
    """How many of the last ones gave no better model; one that made or met another champion, or may yet, ends it."""
    return next((number for number, outcome in enumerate(ended) if outcome in NOT_IN_VAIN), len(ended))
