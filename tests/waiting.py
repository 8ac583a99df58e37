"""Waiting for what another process does, and a port for it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def wait_for(
    what: Callable[[], Answer], seconds: float = 60, *, every: float = 0.2, say: Callable[[], object] | None = None
) -> Answer:
    """The first truthy answer; an OSError is none yet: nobody listens, a busy server, no such file.

    Args:
        say: what the error adds, such as the log of the process that is waited for.

    Raises:
        AssertionError: there was no truthy answer within `seconds`.
    """
    end, seen = time.monotonic() + seconds, "nothing"
    while True:
        try:
            answer = what()
            if answer:
                return answer
            seen = repr(answer)
        except OSError as error:
            seen = repr(error)
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s in vain, the last answer was {seen}\n{say() if say else ''}")
        time.sleep(every)


def free_port(ports: range) -> int:
    """The first of `ports` that nobody holds.

    Each test file has a range of its own, below 32768: no outgoing connection takes its port from there, and no file
    that runs at the same time.

    Raises:
        AssertionError: all are taken.
    """
    for port in ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port free from {ports[0]} to {ports[-1]}")
