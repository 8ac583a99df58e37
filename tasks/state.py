"""Our state: one transactional store. Opens it; reads and writes the ledger, the clock and what was acted on.

SQLite in WAL mode or PostgreSQL (`tasks.state_store`); every change of a rollout is a compare-and-set, so two callers
cannot both win.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from models.decision import OLD_VERDICTS, Decision
from models.errors import PlatformError
from tasks.state_store import open_store
from tasks.tables import CLOCK, DECISIONS, LOADS, METADATA, USED_DECISIONS


@lru_cache(maxsize=8)
def open_state(url: str) -> sa.Engine:
    """The store at `url`, made if it is new.

    Raises:
        PlatformError: it cannot be read; an unreadable ledger is never taken for an empty one.
    """
    return open_store(url, METADATA)


def now() -> str:
    """Wall time as the store writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class LedgerRow:
    """A recorded decision."""

    decision_id: str
    at: str
    as_of: str | None
    decision: Decision
    subject: str | None
    flow_run_id: str | None


def record_decision(
    engine: sa.Engine,
    decision: Decision,
    *,
    as_of: datetime | None,
    subject: str | None = None,
    flow_run_id: str | None = None,
    decision_id: str | None = None,
) -> str:
    """Write a verdict to the ledger; returns its `decision_id`. One that is given is written once: the first stays."""
    values = _ledger_values(decision, as_of, subject, flow_run_id, decision_id or uuid.uuid4().hex)
    try:
        with engine.begin() as connection:
            connection.execute(DECISIONS.insert().values(**values))
    except sa.exc.IntegrityError:
        if decision_id is None:
            raise
    return str(values["decision_id"])


def _ledger_values(
    decision: Decision, as_of: datetime | None, subject: str | None, flow_run_id: str | None, decision_id: str
) -> dict[str, str | None]:
    return {"decision_id": decision_id, "at": now(), "gate": decision.gate,
            "as_of": as_of.isoformat() if as_of else None, "verdict": decision.verdict, "reason": decision.reason,
            "evidence": json.dumps(dict(decision.evidence)), "subject": subject, "flow_run_id": flow_run_id}


def read_decisions(
    engine: sa.Engine, *, gate: str | None = None, subject: str | None = None, limit: int | None = 100
) -> list[LedgerRow]:
    """The ledger, newest first; all of it where `limit` is None."""
    query = sa.select(DECISIONS).order_by(DECISIONS.c.at.desc()).limit(limit)
    if gate:
        query = query.where(DECISIONS.c.gate == gate)
    if subject:
        query = query.where(DECISIONS.c.subject == subject)
    with engine.connect() as connection:
        return [ledger_row(row) for row in connection.execute(query).mappings()]


def gates(engine: sa.Engine) -> list[str]:
    """Every gate that ever gave a verdict, in order."""
    with engine.connect() as connection:
        return list(connection.execute(sa.select(DECISIONS.c.gate).distinct().order_by(DECISIONS.c.gate)).scalars())


def read_decision(engine: sa.Engine, decision_id: str) -> LedgerRow | None:
    """One decision, or None."""
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(DECISIONS).where(DECISIONS.c.decision_id == decision_id)
        ).mappings().first()
    return ledger_row(row) if row else None


def ledger_row(row: Mapping[Any, Any]) -> LedgerRow:
    """One row as it was written.

    Raises:
        PlatformError: its evidence is no JSON object, its date none, or no gate can have said it: it is not skipped.
    """
    try:
        evidence = json.loads(row["evidence"])
        if not isinstance(evidence, dict):
            raise ValueError(f"the evidence is {type(evidence).__name__}, not an object")
        if row["as_of"]:
            datetime.fromisoformat(row["as_of"])
        verdict = OLD_VERDICTS.get((row["gate"], row["verdict"]), row["verdict"])
        decision = Decision(row["gate"], verdict, row["reason"], evidence)
    except (ValueError, TypeError, AttributeError) as error:
        raise PlatformError(f"cannot read decision {row['decision_id']} of the ledger ({row['gate']}, written "
                            f"{row['at']}): {error}. Restore our state from a backup") from None
    return LedgerRow(row["decision_id"], row["at"], row["as_of"], decision, row["subject"], row["flow_run_id"])


def accept_decision(
    engine: sa.Engine, decision_id: str, answer: Decision, *, as_of: datetime, subject: str | None = None,
    flow_run_id: str | None = None,
) -> bool:
    """Use a decision up and write `answer`, which accepts it, to the ledger: both or neither; False: it was used."""
    try:
        with engine.begin() as connection:
            connection.execute(
                USED_DECISIONS.insert().values(decision_id=decision_id, at=now(), flow_run_id=flow_run_id)
            )
            connection.execute(DECISIONS.insert().values(
                **_ledger_values(answer, as_of, subject, flow_run_id, uuid.uuid4().hex)))
    except sa.exc.IntegrityError:
        return False
    return True


def acted_on(engine: sa.Engine, decision_id: str) -> bool:
    """Whether a decision was used up, by the mark of it or by the ledger: a mark that is lost frees nothing."""
    with engine.connect() as connection:
        marked = connection.execute(sa.select(USED_DECISIONS.c.decision_id).where(
            USED_DECISIONS.c.decision_id == decision_id)).first()
    return marked is not None or any(
        row.decision.verdict == "accept" and row.decision.evidence.get("decision_id") == decision_id
        for row in read_decisions(engine, gate="retrain", limit=None))


def last_load(engine: sa.Engine) -> datetime | None:
    """`as_of` of the last committed ingest: the watermark."""
    with engine.connect() as connection:
        latest = connection.execute(sa.select(sa.func.max(LOADS.c.as_of))).scalar()
    return datetime.fromisoformat(latest) if latest else None


def read_clock(engine: sa.Engine) -> datetime | None:
    """The simulated date, or None where the clock was never set."""
    with engine.connect() as connection:
        value = connection.execute(sa.select(CLOCK.c.as_of).where(CLOCK.c.name == "platform")).scalar()
    return datetime.fromisoformat(value) if value else None


def set_clock(engine: sa.Engine, as_of: datetime) -> None:
    """Move the simulated date; of two that move it at once the later one counts."""
    to = {"as_of": as_of.isoformat()}
    with engine.begin() as connection:
        if connection.execute(CLOCK.update().where(CLOCK.c.name == "platform").values(to)).rowcount == 0:
            connection.execute(CLOCK.insert().values(name="platform", **to))
