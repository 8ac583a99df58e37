"""The platform clock as a release sees it: a small file with a simulated date, or the word `wall`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_KEEP_SECONDS: Final = 1.0  # how long a reading is used again: age is counted in days


class PlatformClock:
    """Says what time it is on the platform; without a file, wall time."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read_at = float("-inf")
        self._reading: datetime | str | None = None

    def now(self) -> datetime | None:
        """UTC; None where the file cannot be read or holds no date: then no age can be vouched for."""
        if self._path is None:
            return datetime.now(UTC)
        if time.monotonic() - self._read_at > _KEEP_SECONDS:
            self._reading = _read(self._path)
            self._read_at = time.monotonic()
        return datetime.now(UTC) if self._reading == "wall" else self._reading  # type: ignore[return-value]  # the one word there is


def _read(path: Path) -> datetime | str | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
        if text == "wall":
            return text
        moment = datetime.fromisoformat(text)
    except (OSError, ValueError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
