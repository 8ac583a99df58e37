"""A fault for the demo: a release that hangs for a moment, again and again. Stops and continues real processes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import psutil

from tasks.home import Home
from tasks.release.release_process import program_name
from tasks.release.supervisord import owned

HANGS, ANSWERS = 3.0, 3.0  # seconds; Envoy tries a release for less than that before it asks the champion


@contextlib.contextmanager
def hanging(home: Home, whose: Callable[[], str | None]) -> Iterator[None]:
    """While the block runs, the release that `whose` names (None: nobody) hangs HANGS seconds of HANGS + ANSWERS.

    A process that is stopped keeps its connections and answers nothing: worse than one that is dead.
    """
    over = threading.Event()

    def run() -> None:
        while not over.wait(ANSWERS):
            release_id = whose()
            processes = owned(home, name=program_name(release_id)) if release_id else []
            try:
                _send(processes, signal.SIGSTOP)
                over.wait(HANGS)
            finally:
                _send(processes, signal.SIGCONT)

    thread = threading.Thread(target=run, name="fault", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
