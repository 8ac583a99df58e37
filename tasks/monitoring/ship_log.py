"""Shipping stage. Reads the prediction log and Envoy's; writes `lake/predictions`, a row a prediction with its role.

    lake/predictions/date=YYYY-MM-DD/part-PIECE-BYTE.parquet

A part is named by the piece of the log and the byte it begins at, so that shipping again what was shipped before
(a run was killed between the file and our state) writes the same file. Two runs do not meet: there is a lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl
import sqlalchemy as sa

from models.serving.prediction_log import parse_line, pieces, unused
from tasks.data.lake import sweep_unfinished, write_partition
from tasks.home import Home
from tasks.locks import hold
from tasks.monitoring.queue import piece_identity, prediction_log, shipped_bytes
from tasks.monitoring.roles import REACH_SECONDS, RouterWindow, log_ends
from tasks.release.rollouts import open_rollout
from tasks.release.router_log import access_logs, rotate_access_log
from tasks.release.routing import access_log
from tasks.state import now
from tasks.tables import SHIPPED

LOCK: Final = "predictions"
CHUNK_LINES: Final = 20_000  # parsed, about 60 MB
KEEP_DAYS: Final = 7.0  # how long raw lines stay for who looks into a fault
ROTATE_ACCESS_BYTES: Final = 64 << 20
FUTURE: Final = timedelta(hours=1)  # what is dated later was written by a wrong clock: nobody knows when it was
_FORGOTTEN: Final = b'{"forgotten":true}'  # tasks/erasure/forget_serving.py
SCHEMA: Final[dict[str, Any]] = {
    "at": pl.Datetime("us", "UTC"), "request_id": pl.String, "row": pl.Int32, "attempt": pl.Int32,
    "release_id": pl.String, "model_version": pl.String, "entity": pl.String,
    "features_as_of": pl.Datetime("us", "UTC"), "probability": pl.Float64, "action": pl.String, "why": pl.String,
    "expected_value": pl.Float64, "degraded": pl.List(pl.String), "features": pl.String, "route": pl.String,
    "role": pl.String,
}


@dataclass
class Shipped:
    """What one run did."""

    roles: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0  # lines that are no predictions, or are dated in the future
    removed: int = 0  # pieces of both logs that nobody needs any more

    @property
    def rows(self) -> int:
        return sum(self.roles.values())

    @property
    def line(self) -> str:
        """In one line."""
        roles = ", ".join(f"{count:,} {role}" for role, count in sorted(self.roles.items())) or "nothing new"
        return (f"{self.rows:,} predictions shipped: {roles}"
                + (f"; {self.unreadable:,} lines could not be read" if self.unreadable else ""))


@dataclass(frozen=True)
class _Chunk:
    records: Sequence[tuple[Any, ...]]  # rows of SCHEMA but for the role
    begin: int  # bytes into the piece
    end: int
    unreadable: int


def predictions_folder(home: Home) -> Path:
    return home.lake / "predictions"


def ship(
    home: Home, engine: sa.Engine, *, settle_seconds: float = REACH_SECONDS, keep_days: float = KEEP_DAYS
) -> Shipped:
    """Bring what is new in the prediction log into the lake, then drop pieces of both logs that nobody needs.

    Args:
        settle_seconds: younger predictions wait for the next run: Envoy may not have written their line yet.
        keep_days: how long a piece that was shipped stays; while a rollout is open, what it may be judged by
            stays as well.

    Raises:
        PlatformError: another run held the lock for too long.
    """
    done = Shipped()
    with hold(home, LOCK):
        sweep_unfinished(home)
        until = datetime.now(UTC) - timedelta(seconds=settle_seconds)
        window: RouterWindow | None = None
        for piece in pieces(prediction_log(home)):
            known = piece_identity(piece)
            for chunk in _chunks(piece, shipped_bytes(engine, known), until) if known else ():
                if chunk.records:
                    moments = [record[0] for record in chunk.records]
                    window = window or RouterWindow(home, engine, min(moments))
                    window.move(min(moments), max(moments), {record[1] for record in chunk.records})
                    done.roles += _write(home, chunk, f"part-{known}-{chunk.begin:014d}.parquet", window)
                done.unreadable += chunk.unreadable
                _record(engine, known, chunk.end)
        done.removed = _clean_up(home, engine, until, timedelta(days=keep_days))
    return done


def _whole_bytes(piece: Path) -> int:
    """Where a piece's last whole line ends: what a full disk cut short at its end nobody completes any more."""
    with piece.open("rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))


def _record(engine: sa.Engine, known: str, end: int) -> None:
    with engine.begin() as connection:
        connection.execute(SHIPPED.delete().where(SHIPPED.c.piece == known))
        connection.execute(SHIPPED.insert().values(piece=known, bytes=end, at=now()))


def _chunks(piece: Path, begin: int, until: datetime) -> Iterator[_Chunk]:
    """Whole lines from a byte on, up to the first that is younger than `until`; one of the future stops nothing."""
    future = datetime.now(UTC) + FUTURE
    with piece.open("rb") as file:
        file.seek(begin)
        records: list[tuple[Any, ...]] = []
        end, unreadable, lines = begin, 0, 0
        for line in file:
            if not line.endswith(b"\n"):
                break  # still being written, or the last that a full disk took: the next line mends it
            record = parse_line(line)
            at = _moment(record.get("at")) if record else None
            if at is not None and until < at <= future:
                break
            end, lines = end + len(line), lines + 1
            row = _row(at, record) if record and at and at <= future else None
            if row:
                records.append(row)
            elif line.strip() not in (b"", _FORGOTTEN):
                unreadable += 1
            if lines == CHUNK_LINES:
                yield _Chunk(records, begin, end, unreadable)
                records, begin, unreadable, lines = [], end, 0, 0
        if end > begin:
            yield _Chunk(records, begin, end, unreadable)


def _write(home: Home, chunk: _Chunk, name: str, window: RouterWindow) -> Counter[str]:
    names = list(SCHEMA)
    asked = [names.index(name) for name in ("request_id", "release_id", "attempt")]
    rows = [(*record, window.role(*(record[place] for place in asked))) for record in chunk.records]
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    for (date,), part in frame.group_by(pl.col("at").dt.date(), maintain_order=True):
        write_partition(part, predictions_folder(home) / f"date={date}" / name)
    return Counter(frame["role"].to_list())


def _row(at: datetime, record: dict[str, Any]) -> tuple[Any, ...] | None:
    """A prediction as a row of SCHEMA but for its role; None where it is none, so that no line stops those after it."""
    try:
        decision = record.get("decision") or {}
        return (
            at, str(record["request_id"]), int(record.get("row") or 0), int(record.get("attempt") or 1),
            str(record.get("release_id")), str(record.get("model_version")), record.get("entity"),
            _moment(record.get("features_as_of")), float(record["probability"]), decision.get("action"),
            decision.get("why"), decision.get("expected_value"), record.get("degraded") or [],
            orjson.dumps(record.get("features")).decode(), record.get("route"),
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (OverflowError, TypeError, ValueError):
        return None


def _clean_up(home: Home, engine: sa.Engine, until: datetime, keep: timedelta) -> int:
    """Remove pieces that were shipped whole, are older than `keep` and than the open rollout; move Envoy's log on."""
    rollout = open_rollout(engine)
    oldest = min(until, datetime.now(UTC) - keep)
    if rollout is None and (log := access_log(home)).exists() and log.stat().st_size > ROTATE_ACCESS_BYTES:
        rotate_access_log(home)
    if rollout is not None:
        oldest = min(oldest, datetime.fromisoformat(rollout.opened_at))
    oldest -= timedelta(seconds=2 * REACH_SECONDS)
    removed = 0
    for piece in pieces(prediction_log(home)):
        known, ended = piece_identity(piece), log_ends(piece)
        if piece == prediction_log(home) or ended is None or ended > oldest or not unused(piece):
            continue
        if _whole_bytes(piece) == shipped_bytes(engine, known):
            with engine.begin() as connection:  # first: a row without its piece would pass over another's lines
                connection.execute(SHIPPED.delete().where(SHIPPED.c.piece == known))
            piece.unlink()
            removed += 1
    for piece in access_logs(home):
        ended = log_ends(piece)
        if piece != access_log(home) and ended is not None and ended < oldest:
            piece.unlink()
            removed += 1
    return removed
