"""Hours awake. Reads and writes our state: the stretches in which the platform ran and its machine did not sleep.

The watchdog writes them round by round, so they add up over nights and restarts: what is due and did not run is silent
by them, not by wall time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import psutil
import sqlalchemy as sa

from models.errors import PipelineError
from tasks.home import Home
from tasks.release.supervisord import sockets
from tasks.tables import AWAKE

SLEPT_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Stretch:
    """A time without a break; wall time, UTC."""

    began: datetime
    ended: datetime


def platform_started(home: Home) -> datetime:
    """When supervisord was started, wall time in UTC.

    Raises:
        PlatformError: it was not started.
        OSError, ValueError, psutil.Error: its process is not there.
    """
    pid = int((sockets(home) / "supervisord.pid").read_text(encoding="ascii"))
    return datetime.fromtimestamp(psutil.Process(pid).create_time(), UTC)


class Awake:
    """Writes down, mark after mark, that the platform runs: a machine that slept was down too, though its processes
    live.

    Args:
        home: whose supervisord; where it has none, the platform runs from the first mark on.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._number: int | None = None  # of the stretch that goes on
        self._rests = False
        self._seen = (time.time(), time.monotonic())

    def mark(self, engine: sa.Engine, *, due: bool = True) -> None:
        """The platform runs at this moment.

        Args:
            due: whether anything is scheduled; the time before a mark without it never counts.
        """
        wall, passed = time.time(), time.monotonic()  # a sleeping machine's monotonic clock stands still
        broken = abs((wall - self._seen[0]) - (passed - self._seen[1])) > SLEPT_SECONDS
        self._seen = (wall, passed)
        at = datetime.fromtimestamp(wall, UTC)
        if self._number is not None and not broken and (due or self._rests):
            values = {"ended": _text(at), **({} if due else {"began": _text(at)})}
            self._rests = not due
            with engine.begin() as connection:
                if connection.execute(AWAKE.update().where(AWAKE.c.number == self._number).values(**values)).rowcount:
                    return
        began = self._began(engine, at) if self._number is None and due else at
        self._rests = not due
        with engine.begin() as connection:
            self._number = connection.execute(AWAKE.insert().values(
                began=_text(began), ended=_text(at)).returning(AWAKE.c.number)).scalar_one()

    def _began(self, engine: sa.Engine, at: datetime) -> datetime:
        """Of a new watchdog: since supervisord runs, but for what was written of that; another one may have died."""
        try:
            started = platform_started(self._home)
        except (PipelineError, OSError, ValueError, psutil.Error):
            started = at
        return min(at, max([started, *(one.ended for one in stretches(engine) if one.ended <= at)]))


def stretches(engine: sa.Engine) -> list[Stretch]:
    """What was ever written, in order of beginning."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(AWAKE.c.began, AWAKE.c.ended).order_by(AWAKE.c.began)).all()
    return [Stretch(datetime.fromisoformat(began), datetime.fromisoformat(ended)) for began, ended in rows]


def hours_awake(found: Sequence[Stretch], since: datetime | None, at: datetime) -> float:
    """Hours between two moments in which the platform was awake; what two stretches share counts once.

    Args:
        found: in order of beginning.
        since: None: from the first stretch on.
    """
    total, reached = timedelta(0), since
    for one in found:
        began = max(one.began, reached) if reached else one.began
        ended = min(one.ended, at)
        if ended > began:
            total += ended - began
            reached = ended
    return total / timedelta(hours=1)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
