"""Rollouts. Reads and writes the rollouts of our state; starts and routes nothing.

    packaged -> smoke-tested -> [shadow] -> canary, stage by stage -> champion -> baked
        \\___________\\______________\\__________\\____________________\\________\\-> rolled back (reason)

Every transition is one statement that names the state it leaves: of two callers one wins, the other is
told False. The champion is the release of the rollout that became champion last and was not rolled back.
A paused rollout keeps its traffic: it does not advance and its time stands still, but it can end.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import sqlalchemy as sa

from models.errors import ReleaseError
from tasks.release.releases import Release, read_releases
from tasks.state import now
from tasks.tables import ROLLOUTS

Strategy = Literal["basic", "shadow", "canary"]
OPEN_STATES: Final = ("packaged", "smoke-tested", "shadow", "canary")
CHAMPION_STATES: Final = ("champion", "baked")
CLOCK_SLACK_MINUTES: Final = 1.0  # a clock that is set right steps back a little


@dataclass(frozen=True)
class RolloutRow:
    """One rollout; `evidence` holds where in the access log it began, and its stages."""

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
    last_look_at: str | None = None
    paused_at: str | None = None
    paused_by: str | None = None
    paused_why: str | None = None
    paused_seconds: float | None = None
    baked_at: str | None = None

    def stages(self, charters: Sequence[float]) -> tuple[float, ...]:
        """Shares of its canary: those it opened with, whatever the charter says by now; else the charter's."""
        return tuple(self.evidence.get("stages") or charters)

    @property
    def minutes_in_stage(self) -> float:
        """Minutes of its present state and stage, without those it was paused."""
        until = datetime.fromisoformat(self.paused_at) if self.paused_at else datetime.now(UTC)
        since = datetime.fromisoformat(self.stage_since)
        return ((until - since).total_seconds() - (self.paused_seconds or 0)) / 60

    @property
    def minutes_without_look(self) -> float:
        """Minutes since the judge's last verdict, or since its present state began where that is later.

        Infinite where both lie ahead of the clock, which went back: nothing says then that anybody looks.
        """
        passed = [(datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() / 60
                  for moment in (self.last_look_at, self.stage_since) if moment]
        return min((minutes for minutes in passed if minutes > -CLOCK_SLACK_MINUTES), default=math.inf)


def champion(engine: sa.Engine) -> RolloutRow | None:
    """The rollout whose release serves everybody: the latest that is champion or baked."""
    return next(iter(_champions(engine)), None)


def any_champion(engine: sa.Engine) -> bool:
    """Whether a rollout is champion, was baked, or met a champion; one that was rolled back unbaked leaves no trace."""
    return bool(_read(engine, sa.select(ROLLOUTS).where(sa.or_(
        ROLLOUTS.c.state.in_(CHAMPION_STATES), ROLLOUTS.c.baked_at.is_not(None),
        ROLLOUTS.c.champion_id.is_not(None))).limit(1)))


def previous_champion(engine: sa.Engine) -> RolloutRow | None:
    """The champion before it, of another release: where rolling back goes."""
    rows = _champions(engine)
    return next((row for row in rows if row.release_id != rows[0].release_id), None)


def warm_champion(engine: sa.Engine) -> RolloutRow | None:
    """The champion before it, whose process stays warm until the present one is baked."""
    serving = champion(engine)
    return previous_champion(engine) if serving and serving.state == "champion" else None


def open_rollout(engine: sa.Engine) -> RolloutRow | None:
    """The rollout that is under way; at most one is."""
    rows = _read(engine, sa.select(ROLLOUTS).where(ROLLOUTS.c.state.in_(OPEN_STATES)))
    return rows[0] if rows else None


def last_rollout(engine: sa.Engine) -> RolloutRow | None:
    """The rollout that was opened last, whatever became of it."""
    rows = _read(engine, sa.select(ROLLOUTS).order_by(ROLLOUTS.c.opened_at.desc()).limit(1))
    return rows[0] if rows else None


def opened_for(engine: sa.Engine, why: str) -> RolloutRow | None:
    """The newest rollout that was opened for this reason; None: there was none."""
    rows = _read(engine, sa.select(ROLLOUTS).where(ROLLOUTS.c.why == why)
                 .order_by(ROLLOUTS.c.opened_at.desc()).limit(1))
    return rows[0] if rows else None


def opened_since(engine: sa.Engine, model_version: str, moment: str) -> bool:
    """Whether a rollout of a model version was opened after a moment (wall time, ISO 8601 UTC)."""
    built = [one.release_id for one in read_releases(engine) if one.model_version == model_version]
    return bool(_read(engine, sa.select(ROLLOUTS).where(ROLLOUTS.c.release_id.in_(built), ROLLOUTS.c.opened_at > moment)
                      .limit(1)))


def last_state(engine: sa.Engine, release_id: str) -> str | None:
    """The state of a release's newest rollout; None: it had none."""
    rows = _read(engine, sa.select(ROLLOUTS).where(ROLLOUTS.c.release_id == release_id)
                 .order_by(ROLLOUTS.c.opened_at.desc()).limit(1))
    return rows[0].state if rows else None


def last_ended(engine: sa.Engine) -> RolloutRow | None:
    """The rollout that ended last: it became champion, or was rolled back."""
    rows = _read(engine, sa.select(ROLLOUTS).where(ROLLOUTS.c.closed_at.is_not(None))
                 .order_by(ROLLOUTS.c.closed_at.desc()).limit(1))
    return rows[0] if rows else None


def rolled_back_twin(engine: sa.Engine, release: Release) -> RolloutRow | None:
    """The last rollout of this release, or of one with the same model, where that was rolled back.

    The same model: of the same version, or trained on the same data to the same figures, whatever it is called.
    """
    same = [one.release_id for one in read_releases(engine) if one.model_version == release.model_version or (
        one.fingerprint, one.as_of, one.auc, one.monthly_value) == (
        release.fingerprint, release.as_of, release.auc, release.monthly_value)]
    rows = _read(engine, sa.select(ROLLOUTS).where(ROLLOUTS.c.release_id.in_(same))
                 .order_by(ROLLOUTS.c.opened_at.desc()).limit(1))
    return rows[0] if rows and rows[0].state == "rolled back" else None


def open_new(
    engine: sa.Engine, *, release_id: str, strategy: Strategy, who: str, why: str,
    evidence: Mapping[str, Any] | None = None, along: Callable[[sa.Connection], None] | None = None,
) -> RolloutRow:
    """Open a rollout. The very first release is `basic`: there is nobody to compare it to.

    Args:
        along: done in the same transaction; what it raises opens nothing.

    Raises:
        ReleaseError: one is open, or the release is the champion already.
    """
    at, rollout_id = now(), uuid.uuid4().hex[:12]
    try:
        with engine.begin() as connection:
            # First of all the row that keeps others from opening one: nobody becomes champion from here on.
            connection.execute(ROLLOUTS.insert().values(
                rollout_id=rollout_id, release_id=release_id, strategy=strategy, state="packaged", stage=0, who=who,
                why=why, opened_at=at, stage_since=at, evidence=json.dumps(dict(evidence or {}))))
            serving = next(iter(_champions(connection)), None)
            if serving and serving.release_id == release_id:
                raise ReleaseError(f"cannot release {release_id}: it is the champion since {serving.closed_at}")
            connection.execute(ROLLOUTS.update().where(ROLLOUTS.c.rollout_id == rollout_id).values(
                champion_id=serving.release_id if serving else None, strategy=strategy if serving else "basic"))
            if along is not None:
                along(connection)
    except sa.exc.IntegrityError:
        other = open_rollout(engine)
        raise ReleaseError(f"cannot open a rollout of {release_id}: "
                           + (f"that of {other.release_id} is open since {other.opened_at} ({other.state}, by "
                              f"{other.who}). Wait for its end or roll it back" if other else
                              "another was open. Try again")) from None
    return read_rollout(engine, rollout_id)


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
    return _transition(engine, seen, {"state": state, "stage": stage, "stage_since": now(), "paused_seconds": None,
                                      "evidence": json.dumps({**seen.evidence, **(evidence or {})})},
                       ROLLOUTS.c.paused_at.is_(None))


def close(engine: sa.Engine, seen: RolloutRow, *, state: Literal["champion", "rolled back"], reason: str) -> bool:
    """End a rollout, or roll back one that had become champion; False when somebody else was first.

    One that was paused since it was seen does not become champion: a judge that looked meanwhile knows nothing of it.
    """
    unpaused = [ROLLOUTS.c.paused_at.is_not_distinct_from(seen.paused_at)] if state == "champion" else []
    return _transition(engine, seen, {"state": state, "closed_at": _after_all(engine), "reason": reason,
                                      "paused_at": None}, *unpaused)


def bake(engine: sa.Engine, seen: RolloutRow, reason: str) -> bool:
    """champion -> baked: the one before it need not be kept warm any more; False when somebody else was first."""
    if seen.state != "champion":
        raise ValueError(f"a champion is baked, not a rollout that is {seen.state!r}")
    return _transition(engine, seen, {"state": "baked", "baked_at": now(), "reason": reason})


def pause(engine: sa.Engine, seen: RolloutRow, *, who: str, why: str) -> bool:
    """Let an open rollout stay where it is; False where it is paused already, or somebody moved it."""
    return _transition(engine, seen, {"paused_at": now(), "paused_by": who, "paused_why": why},
                       ROLLOUTS.c.paused_at.is_(None), ROLLOUTS.c.closed_at.is_(None))


def resume(engine: sa.Engine, seen: RolloutRow) -> bool:
    """Let a paused rollout go on; the pause does not count against its time. False where somebody was first."""
    if seen.paused_at is None:
        return False
    paused = (datetime.now(UTC) - datetime.fromisoformat(seen.paused_at)).total_seconds()
    return _transition(engine, seen, {"paused_at": None, "paused_seconds": (seen.paused_seconds or 0) + paused},
                       ROLLOUTS.c.paused_at == seen.paused_at)


def touch_look(engine: sa.Engine, rollout_id: str) -> None:
    """Write down that the judge has just given a verdict on an open rollout."""
    with engine.begin() as connection:
        connection.execute(ROLLOUTS.update().where(
            ROLLOUTS.c.rollout_id == rollout_id, ROLLOUTS.c.closed_at.is_(None)).values(last_look_at=now()))


def _after_all(engine: sa.Engine) -> str:
    """Now; where the clock went back, just after the last end: by its order we know who is champion."""
    with engine.connect() as connection:
        last = connection.execute(sa.select(sa.func.max(ROLLOUTS.c.closed_at))).scalar()
    after = datetime.fromisoformat(last) + timedelta(microseconds=1) if last else datetime.now(UTC)
    return max(now(), after.isoformat(timespec="microseconds"))


def _transition(
    engine: sa.Engine, seen: RolloutRow, values: Mapping[str, Any], *conditions: sa.ColumnElement[bool]
) -> bool:
    with engine.begin() as connection:
        return bool(connection.execute(ROLLOUTS.update().where(
            ROLLOUTS.c.rollout_id == seen.rollout_id, ROLLOUTS.c.state == seen.state, ROLLOUTS.c.stage == seen.stage,
            *conditions).values(**values)).rowcount)


def _champions(reader: sa.Engine | sa.Connection) -> list[RolloutRow]:
    return _read(reader, sa.select(ROLLOUTS).where(ROLLOUTS.c.state.in_(CHAMPION_STATES))
                 .order_by(ROLLOUTS.c.closed_at.desc(), ROLLOUTS.c.opened_at.desc()))


def _read(reader: sa.Engine | sa.Connection, query: sa.Select[Any]) -> list[RolloutRow]:
    if isinstance(reader, sa.Engine):
        with reader.connect() as connection:
            return _read(connection, query)
    return [RolloutRow(**{field.name: row[field.name] for field in fields(RolloutRow) if field.name != "evidence"},
                       evidence=json.loads(row["evidence"])) for row in reader.execute(query).mappings()]
