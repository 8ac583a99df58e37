"""Heartbeats. Reads and writes our state: when each part last did its work, and what the check of the latest date saw.

A part that works says so itself; one that is silent cannot. So who looks for silence (`tasks.monitoring.silence`)
runs elsewhere, in the watchdog. Imports no Prefect, pandas or polars: the watchdog and the exporter read this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

import sqlalchemy as sa

from models.charter import Charter
from models.gates.signals import Signal
from models.limits import PartName
from tasks.maturity import MANUAL
from tasks.monitoring.awake import hours_awake, stretches
from tasks.release.rollouts import champion
from tasks.state import now
from tasks.tables import HEARTBEATS, SIGNALS

PARTS: Final[tuple[PartName, ...]] = get_args(PartName)
WATCHDOG: Final = "watchdog"  # its own beat, at the end of each round in which nothing failed
STEPS: Final = ("online", "parity")  # of the features flow: seen apart, since the second may refuse what the first did
AFTER_CHAMPION: Final[frozenset[PartName]] = frozenset({"score", "monitor", "labels"})  # before one there is no work
CLOCK_SLACK: Final = timedelta(minutes=1)  # a clock that is set right steps back a little


@dataclass(frozen=True)
class Beat:
    """When a part last did its work."""

    name: str
    at: datetime  # wall time, UTC
    as_of: datetime | None  # platform clock of what it worked on


@dataclass(frozen=True)
class SilentPart:
    """How long a part has not done its work."""

    part: PartName
    since: datetime  # wall time, UTC: its last beat, or from when on it was due
    hours: float  # without its work, while the platform ran
    limit_hours: float
    ever: bool  # whether it is known ever to have done its work


@dataclass(frozen=True)
class Noted:
    """A signal of the last check."""

    signal: Signal
    at: datetime  # wall time, UTC
    as_of: datetime  # platform clock, UTC


def beat(engine: sa.Engine, name: str, *, at: datetime | None = None, as_of: datetime | None = None) -> None:
    """Write down that a part has done its work; called at its end, so a run that failed says nothing.

    Work on an earlier date shows that the part is alive, and takes no date back. A step is of what is online now,
    whatever its date.

    Args:
        name: one of `PARTS` or `STEPS`, or `WATCHDOG`.
        at: wall time, UTC; None: now.
        as_of: platform clock of what it worked on.

    Raises:
        ValueError: no such part.
    """
    known = (*PARTS, *STEPS, WATCHDOG)
    if name not in known:
        raise ValueError(f"no part {name!r} is known; there are {', '.join(known)}")
    moment = at.astimezone(UTC).isoformat(timespec="microseconds") if at else now()
    date, stored = as_of.isoformat() if as_of else None, HEARTBEATS.c.as_of
    later = sa.case((stored > date, stored), else_=date) if date and name in PARTS else date
    _put(engine, HEARTBEATS, name, {"at": moment, "as_of": date}, update={"as_of": later})


def last_beats(engine: sa.Engine) -> dict[str, Beat]:
    """The last beat of each part that ever beat."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(HEARTBEATS)).mappings().all()
    return {row["name"]: Beat(row["name"], datetime.fromisoformat(row["at"]),
                              datetime.fromisoformat(row["as_of"]) if row["as_of"] else None) for row in rows}


def due_parts(engine: sa.Engine, *, maturity: int) -> dict[PartName, datetime | None]:
    """The parts that should run, each with the moment (wall time, UTC) from which on; None: from the first.

    At `MANUAL` nothing is scheduled, so nothing is due. What scores or checks a champion is due once there is one.
    """
    if maturity <= MANUAL:
        return {}
    serving = champion(engine)
    since = datetime.fromisoformat(serving.closed_at) if serving and serving.closed_at else None
    return {part: since if part in AFTER_CHAMPION else None for part in PARTS
            if serving is not None or part not in AFTER_CHAMPION}


def silences(
    engine: sa.Engine, charter: Charter, *, maturity: int, at: datetime | None = None
) -> list[SilentPart]:
    """How long each part has not done its work while the platform ran; the limit of one that is not due is infinite.

    Args:
        maturity: CHURN_MATURITY.
        at: wall time, UTC; None: now.
    """
    at, beats, awake = at or datetime.now(UTC), last_beats(engine), stretches(engine)
    due, found = due_parts(engine, maturity=maturity), []
    for part in PARTS:
        last = beats.get(part)
        heard = last.at if last and not ahead(last.at, at) else None  # one of the future vouches for nothing
        began = max(filter(None, (due.get(part), heard)), default=None)
        found.append(SilentPart(
            part, heard or began or min((one.began for one in awake), default=at), hours_awake(awake, began, at),
            charter.alarms.hours(part) if part in due else math.inf, heard is not None))
    return found


def silent_parts(
    engine: sa.Engine, charter: Charter, *, maturity: int = 3, at: datetime | None = None
) -> list[SilentPart]:
    """The parts that have not done their work for longer than the charter allows."""
    return [one for one in silences(engine, charter, maturity=maturity, at=at) if one.hours > one.limit_hours]


def ahead(moment: datetime, at: datetime) -> bool:
    """Whether a beat is dated in the future, by more than a clock that is set right."""
    return moment > at + CLOCK_SLACK


def note_signals(engine: sa.Engine, signals: Iterable[Signal], *, as_of: datetime) -> None:
    """Keep what a check saw, so that the exporter can show it without reading what the check read.

    A check of an earlier date than the one that is kept changes nothing.
    """
    date = as_of.isoformat()
    for signal in signals:
        _put(engine, SIGNALS, signal.name, {
            "at": now(), "as_of": date, "state": signal.state, "evidence": json.dumps(
                {"reason": signal.reason, **dict(signal.evidence)}, default=str)}, where=SIGNALS.c.as_of <= date)


def noted_signals(engine: sa.Engine) -> list[Noted]:
    """What the check of the latest date that noted each signal saw."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(SIGNALS).order_by(SIGNALS.c.name)).mappings().all()
    found = []
    for row in rows:
        evidence = json.loads(row["evidence"])
        found.append(Noted(Signal(row["name"], row["state"], evidence.pop("reason"), evidence),
                           datetime.fromisoformat(row["at"]), datetime.fromisoformat(row["as_of"])))
    return found


def _put(
    engine: sa.Engine, table: sa.Table, name: str, values: Mapping[str, Any], *,
    update: Mapping[str, Any] | None = None, where: sa.ColumnElement[bool] | None = None,
) -> None:
    """Update or insert; of two who insert at once either may stay.

    Args:
        update: other values for a row that is there.
        where: only such a row is updated; None: any.
    """
    same = table.c.name == name
    with engine.begin() as connection:
        if connection.execute(table.update().where(same if where is None else same & where)
                              .values(**{**values, **(update or {})})).rowcount:
            return
    try:
        with engine.begin() as connection:
            connection.execute(table.insert().values(name=name, **values))
    except sa.exc.IntegrityError:
        pass
