"""Locks. One writer at a time, across processes; the kernel frees the lock of a process that dies."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from models.errors import PlatformError
from tasks.home import Home

LOGGER: Final = logging.getLogger(__name__)
PATIENCE_SECONDS: Final = 600.0


@contextmanager
def hold(home: Home, name: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Be the only holder of a home's lock `name` ("lake": whoever writes raw data); others wait their turn.

    Raises:
        PlatformError: somebody else held it for longer than `patience_seconds`.
    """
    home.run.mkdir(parents=True, exist_ok=True)
    with (home.run / f"{name}.lock").open("a+") as lock:
        begun, said = time.monotonic(), False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - begun
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                if waited >= patience_seconds:
                    raise PlatformError(f"cannot write to the {name} of {home.root}: process {holder} has been at it "
                                        f"for over {patience_seconds:.0f} s. Wait for it, or end it and try again"
                                        ) from None
                if waited > 1 and not said:
                    said = True
                    LOGGER.warning("waiting for process %s, which writes to the %s of %s", holder, name, home.root)
                time.sleep(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
