"""Who answered whom. Reads Envoy's access log beside a prediction log, in step with it and in bounded memory.

Both logs are nearly in order of time: a request's lines lie within `REACH_SECONDS` of each other. So only a window
of the access log is held, whatever its length. Where the wall clock was set back they are not in order: then the
requests that were not found are looked for by their ids in all of the log.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import orjson
import sqlalchemy as sa

from tasks.home import Home
from tasks.release.router_log import access_logs
from tasks.tables import ROLLOUTS

Role = Literal["served", "shadow", "superseded", "unrouted"]
ROLES: Final[tuple[Role, ...]] = ("served", "shadow", "superseded", "unrouted")
REACH_SECONDS: Final = 30.0  # a request ends within 5 s, Envoy writes within another; the rest is for a busy machine
LOST_SHARE: Final = 0.1  # more of a chunk than this that Envoy never saw: no smoke test asks as much
_SECOND: Final = len("2026-11-23T17:00:00")  # to the second, stamps of both logs sort as text


class Routed(NamedTuple):
    """What Envoy says of one request."""

    ts: str
    code: int
    attempts: int
    answered_by: str | None
    newcomer: str | None  # the release a copy went to, where one was sent


class RouterWindow:
    """The requests of the access log around a moment that moves forward.

    Args:
        since: the first moment that will be asked for.
    """

    def __init__(self, home: Home, engine: sa.Engine, since: datetime) -> None:
        self._home = home
        self._lines = _lines(home, _stamp(since - timedelta(seconds=REACH_SECONDS)))
        self._releases = _rollout_releases(engine)
        self._held: dict[str, Routed] = {}
        self._read_to = ""

    def move(self, begin: datetime, end: datetime, request_ids: Collection[str]) -> None:
        """Hold the requests from `begin` to `end`, `REACH_SECONDS` more at both ends; look again for those not there.

        Args:
            request_ids: what will be asked for.
        """
        low, high = (_stamp(moment + timedelta(seconds=by)) for moment, by in (
            (begin, -REACH_SECONDS), (end, REACH_SECONDS)))
        self._held = {key: one for key, one in self._held.items() if one.ts >= low}
        while self._read_to <= high and (entry := next(self._lines, None)) is not None:
            routed = self._routed(entry)
            if routed is not None:
                self._read_to = max(self._read_to, routed.ts)
                if routed.ts >= low:
                    self._held[str(entry["request_id"])] = routed
        lost = {one for one in request_ids if one not in self._held}
        if len(lost) > LOST_SHARE * len(request_ids):
            found = ((str(entry["request_id"]), entry) for entry in _lines(self._home, ""))
            self._held |= {key: routed for key, entry in found if key in lost and (routed := self._routed(entry))}

    def role(self, request_id: str, release_id: str, attempt: int) -> Role:
        """What became of the answer that one release gave to one try of a request.

        served: the client got it. shadow: the release was asked in secret. superseded: an earlier try, or nobody
        was there to take it. unrouted: Envoy never saw the request (the smoke test, a call of the release's port).
        """
        routed = self._held.get(request_id)
        if routed is None:
            return "unrouted"
        if routed.answered_by == release_id:
            return "served" if attempt == routed.attempts and routed.code == 200 else "superseded"
        return "shadow" if routed.newcomer == release_id else "superseded"

    def _routed(self, entry: Mapping[str, Any]) -> Routed | None:
        ts, code, attempts = entry.get("ts"), entry.get("code"), entry.get("attempts")
        if not (isinstance(ts, str) and isinstance(code, int) and isinstance(attempts, int)):
            return None
        by = entry.get("answered_by")
        newcomer = self._releases.get(str(entry.get("rollout"))) if entry.get("shadow") == "1" else None
        return Routed(ts[:_SECOND], code, attempts, sys.intern(by) if isinstance(by, str) else None, newcomer)


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def _rollout_releases(engine: sa.Engine) -> dict[str, str]:
    with engine.connect() as connection:
        rows = connection.execute(sa.select(ROLLOUTS.c.rollout_id, ROLLOUTS.c.release_id)).all()
    return {str(rollout): sys.intern(str(release)) for rollout, release in rows}


def _lines(home: Home, since: str) -> Iterator[dict[str, Any]]:
    """Entries of the access log from about `since` on, piece after piece; what cannot be read is passed over."""
    for path in access_logs(home):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue
        with file:
            file.seek(_seek(file, since))
            for line in file:
                entry = _entry(line)
                if entry is not None and entry.get("request_id"):
                    yield entry


def _seek(file: Any, since: str) -> int:
    """By halves: a place at a line's beginning before which every line is older than `since`."""
    low, high = 0, file.seek(0, 2)
    while high - low > 1 << 16:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        place, stamp = file.tell(), ""
        while place < high and not stamp:
            entry = _entry(file.readline())
            stamp = str((entry or {}).get("ts", ""))
            place = place if stamp else file.tell()
        if stamp and stamp[:_SECOND] < since:
            low = place
        else:
            high = middle
    return low


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = orjson.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def log_ends(path: Path) -> datetime | None:
    """When a log was last written to; None where it is gone."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    except FileNotFoundError:
        return None
