"""Rollouts. Reads and writes the releases and rollouts of our state; starts and routes nothing.

    packaged -> smoke-tested -> canary, stage by stage -> champion
        \\___________\\______________\\____________________\\-> rolled back (reason)

Every transition is one statement that names the state it leaves: of two callers one wins, the other is
told False. The champion is the release of the rollout that became champion last and was not rolled back.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa

from models.errors import ReleaseError
from tasks.state import RELEASES, ROLLOUTS, now

Strategy = Literal["basic", "canary"]
OPEN_STATES = ("packaged", "smoke-tested", "canary")


@dataclass(frozen=True)
class Release:
    """A Bento that was built; `port` while its process is wanted."""

    release_id: str
    model_version: str
    run_id: str
    fingerprint: str
    as_of: str
    auc: float
    monthly_value: float
    created_at: str
    port: int | None = None


@dataclass(frozen=True)
class RolloutRow:
    """One rollout; `evidence` holds where in the access log it began."""

    rollout_id: str
    release_id: str
    champion_id: str | None
    strategy: str
    state: str
    stage: int
    who: str
    why: str
    opened_at: str
    stage_since: str
    closed_at: str | None
    reason: str | None
    evidence: Mapping[str, Any]

    @property
    def minutes_in_stage(self) -> float:
        return (datetime.now(UTC) - datetime.fromisoformat(self.stage_since)).total_seconds() / 60


def register_release(
    engine: sa.Engine, *, release_id: str, model_version: str, run_id: str, fingerprint: str, as_of: str, auc: float,
    monthly_value: float,
) -> Release:
    """Write down a Bento that was built; the same one twice is one row."""
    values = {"release_id": release_id, "model_version": str(model_version), "run_id": run_id,
              "fingerprint": fingerprint, "as_of": as_of, "auc": auc, "monthly_value": monthly_value}
    with engine.begin() as connection:
        _insert_unless(connection, RELEASES, {**values, "created_at": now()},
                       sa.select(RELEASES.c.release_id).where(RELEASES.c.release_id == release_id))
    return read_release(engine, release_id)


def read_release(engine: sa.Engine, release_id: str) -> Release:
    """One release.

    Raises:
        ReleaseError: there is none of that id.
    """
    with engine.connect() as connection:
        row = connection.execute(sa.select(RELEASES).where(RELEASES.c.release_id == release_id)).mappings().first()
        if row is None:
            known = connection.execute(sa.select(RELEASES.c.release_id)).scalars().all()
            raise ReleaseError(f"cannot find the release {release_id!r}; known: {', '.join(known) or 'none'}")
    release: Release = _row(Release, row)
    return release


def releases(engine: sa.Engine) -> list[Release]:
    """Every release, newest first."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(RELEASES).order_by(RELEASES.c.created_at.desc())).mappings().all()
    return [_row(Release, row) for row in rows]


def release_of_version(engine: sa.Engine, model_version: str) -> Release | None:
    """The newest release built from a model version."""
    return next((release for release in releases(engine) if release.model_version == str(model_version)), None)


def claim_port(engine: sa.Engine, release_id: str, ports: Sequence[int]) -> int:
    """Write down the first of `ports` that no other release holds; the one it holds already, if that is among them.

    Raises:
        ReleaseError: all are held.
    """
    held = read_release(engine, release_id).port
    if held in ports:
        return int(held or 0)
    for port in ports:
        other = RELEASES.alias("other")
        taken = sa.select(other.c.release_id).where(other.c.port == port, other.c.release_id != release_id)
        with engine.begin() as connection:
            changed = connection.execute(RELEASES.update().where(
                RELEASES.c.release_id == release_id, ~sa.exists(taken)).values(port=port)).rowcount
        if changed:
            return port
    raise ReleaseError(f"cannot start {release_id}: no free port among {list(ports)}. Set CHURN_RELEASE_PORT to the "
                       "first of ten free ports")


def free_port(engine: sa.Engine, release_id: str) -> None:
    """Its process is no longer wanted."""
    with engine.begin() as connection:
        connection.execute(RELEASES.update().where(RELEASES.c.release_id == release_id).values(port=None))


def champion(engine: sa.Engine) -> RolloutRow | None:
    """The rollout whose release serves everybody."""
    return next(iter(_champions(engine)), None)


def previous_champion(engine: sa.Engine) -> RolloutRow | None:
    """The champion before it, of another release: where rolling back goes."""
    rows = _champions(engine)
    return next((row for row in rows if row.release_id != rows[0].release_id), None)


def open_rollout(engine: sa.Engine) -> RolloutRow | None:
    """The rollout that is under way; at most one is."""
    rows = _read(engine, sa.select(ROLLOUTS).where(ROLLOUTS.c.state.in_(OPEN_STATES)))
    return rows[0] if rows else None


def last_rollout(engine: sa.Engine) -> RolloutRow | None:
    """The rollout that was opened last, whatever became of it."""
    rows = _read(engine, sa.select(ROLLOUTS).order_by(ROLLOUTS.c.opened_at.desc()).limit(1))
    return rows[0] if rows else None


def open_new(
    engine: sa.Engine, *, release_id: str, strategy: Strategy, who: str, why: str,
    evidence: Mapping[str, Any] | None = None,
) -> RolloutRow:
    """Open a rollout. The very first release is `basic`: there is nobody to compare it to.

    Raises:
        ReleaseError: one is open, or the release is the champion already.
    """
    serving = champion(engine)
    if serving and serving.release_id == release_id:
        raise ReleaseError(f"cannot release {release_id}: it is the champion since {serving.closed_at}")
    at = now()
    values = {
        "rollout_id": uuid.uuid4().hex[:12], "release_id": release_id,
        "champion_id": serving.release_id if serving else None, "strategy": strategy if serving else "basic",
        "state": "packaged", "stage": 0, "who": who, "why": why, "opened_at": at, "stage_since": at,
        "evidence": json.dumps(dict(evidence or {})),
    }
    with engine.begin() as connection:
        opened = _insert_unless(connection, ROLLOUTS, values,
                                sa.select(ROLLOUTS.c.rollout_id).where(ROLLOUTS.c.state.in_(OPEN_STATES)))
    if not opened:
        other = open_rollout(engine)
        raise ReleaseError(f"cannot open a rollout of {release_id}: "
                           + (f"that of {other.release_id} is open since {other.opened_at} ({other.state}, by "
                              f"{other.who}). Wait for its end or roll it back" if other else "another was open"))
    return read_rollout(engine, str(values["rollout_id"]))


def read_rollout(engine: sa.Engine, rollout_id: str) -> RolloutRow:
    """One rollout.

    Raises:
        ReleaseError: there is none of that id.
    """
    rows = _read(engine, sa.select(ROLLOUTS).where(ROLLOUTS.c.rollout_id == rollout_id))
    if not rows:
        raise ReleaseError(f"cannot find the rollout {rollout_id!r}")
    return rows[0]


def advance(
    engine: sa.Engine, seen: RolloutRow, *, state: str, stage: int = 0, evidence: Mapping[str, Any] | None = None
) -> bool:
    """Move an open rollout on from the state and stage in which it was seen; False when somebody else was first."""
    if state not in OPEN_STATES:
        raise ValueError(f"a rollout advances to one of {OPEN_STATES}, not {state!r}; see `close`")
    return _transition(engine, seen, {"state": state, "stage": stage, "stage_since": now(),
                                      "evidence": json.dumps({**seen.evidence, **(evidence or {})})})


def close(engine: sa.Engine, seen: RolloutRow, *, state: Literal["champion", "rolled back"], reason: str) -> bool:
    """End a rollout, or roll back one that had become champion; False when somebody else was first."""
    return _transition(engine, seen, {"state": state, "closed_at": now(), "reason": reason})


def _transition(engine: sa.Engine, seen: RolloutRow, values: Mapping[str, Any]) -> bool:
    with engine.begin() as connection:
        return bool(connection.execute(ROLLOUTS.update().where(
            ROLLOUTS.c.rollout_id == seen.rollout_id, ROLLOUTS.c.state == seen.state, ROLLOUTS.c.stage == seen.stage,
        ).values(**values)).rowcount)


def _champions(engine: sa.Engine) -> list[RolloutRow]:
    return _read(engine, sa.select(ROLLOUTS).where(ROLLOUTS.c.state == "champion")
                 .order_by(ROLLOUTS.c.closed_at.desc(), ROLLOUTS.c.opened_at.desc()))


def _read(engine: sa.Engine, query: sa.Select[Any]) -> list[RolloutRow]:
    with engine.connect() as connection:
        return [_row(RolloutRow, {**row, "evidence": json.loads(row["evidence"])})
                for row in connection.execute(query).mappings()]


def _row(kind: Any, row: Mapping[Any, Any]) -> Any:
    return kind(**{field.name: row[field.name] for field in fields(kind)})


def _insert_unless(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any], query: Any) -> bool:
    """Insert in one statement unless `query` finds a row; whether it did."""
    row = sa.select(*(sa.literal(value) for value in values.values())).where(~sa.exists(query))
    return bool(connection.execute(table.insert().from_select(list(values), row)).rowcount)
