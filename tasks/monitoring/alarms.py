"""Alarms that are open. Reads the ledger; says which, whose, since when. For `make status`, metrics, and who tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from models.charter import Charter
from models.errors import ConfigError
from tasks.monitoring.silence import GATE, open_silences
from tasks.release.rollouts import champion, opened_since
from tasks.state import LedgerRow, ledger_row
from tasks.tables import DECISIONS

# Verdicts that stand as an alarm until a verdict of their gate answers them. Silence is answered part by part.
BAD: Final = (("data", "refuse"), ("smoke", "refuse"), ("shadow", "roll back"), ("canary", "roll back"),
              ("bake", "roll back"), ("release", "refuse"), ("release", "rolled back"), ("drift", "alarm"),
              ("retrain", "refuse"))
ANSWERS: Final = {"retrain": ("accept", "done")}  # the only ones of a gate; others are answered by any that is not bad


@dataclass(frozen=True)
class OpenAlarm:
    """An alarm nobody has answered, and who should."""

    gate: str
    subject: str
    owner: str  # role
    since: str  # wall time, ISO 8601 UTC
    verdict: str
    reason: str
    as_of: str | None  # platform clock, where the gate has one

    @property
    def line(self) -> str:
        """In one line."""
        when = f"as of {self.as_of[:10]}" if self.as_of else f"since {self.since[:16]}"
        what = f"silence of {self.subject}" if self.gate == GATE else f"{self.gate}: {self.verdict}"
        return f"{what} ({when}; owner: {self.owner}): {self.reason}"


def open_alarms(engine: sa.Engine, charter: Charter) -> list[OpenAlarm]:
    """What the ledger holds of alarms: of each gate the newest that nothing answered, and each silence."""
    return [OpenAlarm(row.decision.gate, row.subject or "", owner_of(row, charter), row.at, row.decision.verdict,
                      row.decision.reason, row.as_of) for row in open_alarm_rows(engine)]


def open_alarm_rows(engine: sa.Engine) -> list[LedgerRow]:
    """The same, as they stand in the ledger."""
    newest: dict[str, LedgerRow] = {}
    for row in unanswered(engine):
        if matters(row) and _stands(row, engine):
            before = newest.get(row.decision.gate)
            newest[row.decision.gate] = max(filter(None, (before, row)), key=latest)
    return [*(newest[gate] for gate in sorted(newest)), *open_silences(engine)]


def unanswered(engine: sa.Engine, gate: str | None = None) -> list[LedgerRow]:
    """Bad verdicts with no better one of their gate written after them, as of the same date or a later one.

    Args:
        gate: None: of every gate.
    """
    later = DECISIONS.alias()
    kind = sa.tuple_(DECISIONS.c.gate, DECISIONS.c.verdict)
    answer = sa.and_(sa.tuple_(later.c.gate, later.c.verdict).not_in(BAD), *(
        sa.or_(later.c.gate != name, later.c.verdict.in_(verdicts)) for name, verdicts in ANSWERS.items()))
    answered = sa.exists().where(
        later.c.gate == DECISIONS.c.gate, later.c.at > DECISIONS.c.at, answer,
        sa.or_(DECISIONS.c.as_of.is_(None), later.c.as_of.is_(None), later.c.as_of >= DECISIONS.c.as_of))
    query = sa.select(DECISIONS).where(kind.in_(BAD), ~answered)
    if gate:
        query = query.where(DECISIONS.c.gate == gate)
    with engine.connect() as connection:
        return [ledger_row(row) for row in connection.execute(query).mappings()]


def latest(row: LedgerRow) -> tuple[str, str]:
    """By what a verdict is newer than another: its date, then when it was written.

    One without a date is of when it was written: of a live source, whose dates are wall
    time, the watchdog knows no other.
    """
    return row.as_of or row.at, row.at


def matters(row: LedgerRow) -> bool:
    """Whether a person should hear of a verdict, as far as its kind does not say.

    A retraining that is refused because its decision is unknown, used or overtaken is none: one that failed is, and
    one whose model won and was not released.
    """
    if row.decision.gate == "retrain":
        return bool(row.decision.evidence.get("failed")) or row.decision.evidence.get("promotion") == "promote"
    return True


def owner_of(row: LedgerRow, charter: Charter) -> str:
    """The role a verdict calls: the one it names itself, else the owner of the silent part or of the gate."""
    called = row.decision.evidence.get("owner")
    if called:
        return str(called)
    try:
        return charter.owner(str(row.subject) if row.decision.gate == GATE else row.decision.gate)
    except ConfigError:
        return charter.owner("platform")


def _stands(row: LedgerRow, engine: sa.Engine) -> bool:
    """Whether something is still to be done about a bad verdict that nothing answered.

    A bake recommends to roll back only while its rollout bakes. A retrained version waits only until it has a rollout,
    or another one becomes champion.
    """
    serving, evidence = champion(engine), row.decision.evidence
    if row.decision.gate == "bake":
        return serving is not None and serving.state == "champion" and serving.rollout_id == evidence.get("rollout_id")
    if row.decision.gate == "retrain" and evidence.get("model_version"):
        newer = serving is not None and (serving.closed_at or "") > row.at
        return not newer and not opened_since(engine, str(evidence["model_version"]), row.at)
    return True
