"""The prediction log: one line of JSON a row, all rows of a request by one `write(2)`, so a killed process tears none.

Several processes append to one file: the workers of several releases. Whoever makes it too long renames it under a
lock; the others go on in the renamed piece until they notice. Each holds a shared lock on the file it has open, so
that who removes a piece can tell that nobody writes to it any more, even when a writer was frozen in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

ROTATE_BYTES: Final = 256 << 20  # about 300,000 rows of thirty features
SYNC_SECONDS: Final = 0.2  # what a power failure may take; a killed process loses nothing that was written
_LINE: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
_BEGIN: Final = b'{"at":'  # every record begins so: by it the line after a torn one is found


class PredictionLog:
    """Appends to one file that only its owner may read: it names the entities, for truth to join later.

    For one thread; make it after a fork, and open it before the first request.

    Args:
        path: the file; full ones are renamed to `STEM-STAMP-N.jsonl` beside it.
        rotate_bytes: how long it may become.

    Raises:
        OSError: the file cannot be opened.
    """

    _file: int
    _inode: int
    _torn: bool  # the file ends in a line that was cut short, as far as we know

    def __init__(self, path: Path, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self._path = path
        self._limit = rotate_bytes
        self._take(_open(path))
        self._guard = threading.Lock()  # the file that is synced must not be closed under the thread's hands
        self._dirty = threading.Event()
        self._syncer: threading.Thread | None = None

    def append_many(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Write the records of a request; never raises, for the log must not cost the caller the answer.

        Args:
            records: each begins with the key `at`.

        Returns:
            How many lie whole in the file; fewer than given where the disk is full.
        """
        if not records:
            return 0
        try:
            text = b"".join([orjson.dumps(record, option=_LINE) for record in records])
            mend = self._torn and _ends_torn(self._file)  # another process may have done so
            if mend:  # a full disk cut the last line short: do not let it swallow this one
                text = b"\n" + text
            written = os.write(self._file, text)
        except (OSError, TypeError):
            return 0
        whole = text.count(b"\n", 0, written) - mend
        self._torn = text[written - 1 : written] != b"\n"
        if not self._dirty.is_set():
            self._dirty.set()
            if self._syncer is None:
                self._syncer = threading.Thread(target=self._sync_for_ever, name="prediction-log", daemon=True)
                self._syncer.start()
        self._follow()
        return max(whole, 0)

    def close(self) -> None:
        """Let go of the file; what is appended afterwards counts as not written."""
        with self._guard:
            os.close(self._file)
            self._file = -1
        self._dirty.set()  # its thread ends

    def _take(self, file: int) -> None:
        self._file = file
        self._inode = os.fstat(file).st_ino
        self._torn = _ends_torn(file)

    def _follow(self) -> None:
        """Go on in a new file where this one is too long, or was renamed by another process."""
        try:
            size = os.lseek(self._file, 0, os.SEEK_CUR)  # of an appending file: where our last write ended
            if size < self._limit and os.stat(self._path).st_ino == self._inode:
                return
            if size >= self._limit:
                _rotate(self._path, self._inode)
            fresh = _open(self._path)
        except FileNotFoundError:  # renamed, and nobody has made a new one yet
            try:
                fresh = _open(self._path)
            except OSError:
                return
        except OSError:
            return  # no new file, no room: the old one still takes lines
        with self._guard:
            os.fdatasync(self._file)
            os.close(self._file)
            self._take(fresh)

    def _sync_for_ever(self) -> None:
        while self._dirty.wait():
            time.sleep(SYNC_SECONDS)
            self._dirty.clear()  # first: what is written while the disk works is synced the next time
            with self._guard:
                if self._file < 0:
                    return
                with contextlib.suppress(OSError):  # the disk fails: the next write says so
                    os.fdatasync(self._file)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None.

    A line that a full disk cut short may have the next one, of another process, at its end: that is found.
    """
    start = 0
    while start >= 0:
        try:
            record = orjson.loads(line[start:])
        except ValueError:
            start = line.find(_BEGIN, start + 1)
            continue
        return record if isinstance(record, dict) and "request_id" in record and "probability" in record else None
    return None


def pieces(path: Path) -> list[Path]:
    """The renamed pieces of a log, oldest first, then the file itself; those that are there."""
    found = sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"), key=lambda piece: piece.name)
    return [*found, path] if path.exists() else found


def unused(path: Path) -> bool:
    """Whether no process has a piece open for writing any more."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _open(path: Path) -> int:
    """Open for appending, with a shared lock that says so; the file that has the name while we hold the lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return file
        except FileNotFoundError:
            pass
        except OSError:
            os.close(file)
            raise
        os.close(file)


def _ends_torn(file: int) -> bool:
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def _rotate(path: Path, inode: int) -> None:
    """Rename the file if it is still the one we wrote to; one process at a time."""
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.stat(path).st_ino != inode:
            return
        stamp, number = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"), 0
        while (piece := path.with_name(f"{path.stem}-{stamp}-{number}{path.suffix}")).exists():
            number += 1
        path.rename(piece)
    finally:
        os.close(lock)
