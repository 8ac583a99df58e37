"""Queue of the prediction log. Reads its pieces and our state; says how much has not been shipped yet.

Imports no polars: the exporter asks too.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from models.serving.prediction_log import parse_line, pieces
from tasks.home import Home
from tasks.tables import SHIPPED


@dataclass(frozen=True)
class Queue:
    """What waits to be shipped."""

    bytes: int
    oldest: datetime | None  # wall time, UTC, of the oldest prediction that waits; None: none does


def prediction_log(home: Home) -> Path:
    """What the releases append to."""
    return home.serving / "predictions.jsonl"


def unshipped(home: Home, engine: sa.Engine) -> Queue:
    """How much of the prediction log is not in the lake yet, and since when it waits."""
    waiting, oldest = 0, None
    for piece in pieces(prediction_log(home)):
        with contextlib.suppress(FileNotFoundError):  # just shipped and removed
            known = piece_identity(piece)
            begin = shipped_bytes(engine, known) if known else 0
            left = piece.stat().st_size - begin
            if known and left > 0:
                waiting += left
                oldest = oldest or _moment_at(piece, begin)
    return Queue(waiting, oldest)


def piece_identity(piece: Path) -> str:
    """Hash of the first prediction, which holds a time and a request id; empty where there is none yet.

    Who is forgotten leaves no line to be known by: then the next one counts, and the piece is shipped again.
    """
    with piece.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and parse_line(line):
                return hashlib.sha256(line).hexdigest()[:16]
    return ""


def shipped_bytes(engine: sa.Engine, known: str) -> int:
    """How far a piece was shipped; 0 where it is new."""
    with engine.connect() as connection:
        return int(connection.execute(sa.select(SHIPPED.c.bytes).where(SHIPPED.c.piece == known)).scalar() or 0)


def _moment_at(piece: Path, begin: int) -> datetime | None:
    """When the first readable prediction from a byte on was made."""
    with piece.open("rb") as file:
        file.seek(begin)
        for line in file:
            record = parse_line(line)
            try:
                return datetime.fromisoformat(str((record or {})["at"])).astimezone(UTC)
            except (LookupError, ValueError):
                continue
    return None
