"""Serves a release by several worker processes on one port: `python -m models.serving.prefork --port 8101`.

The parent loads libraries and payload once and scores the golden rows; then it forks the workers, which share its
memory and its listening socket. A worker that is killed costs the requests it held, and another is forked within
milliseconds: BentoML's own supervisor starts it anew, which takes ten seconds. `bentoml serve` serves the same Bento
where one process will do, as in a container.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from models.errors import PipelineError, ReleaseError

if TYPE_CHECKING:
    from models.serving.runtime import Runtime

WORKERS: Final = 2
REFUSED: Final = 3  # a worker's exit code: it said why it cannot be ready
GRACE_SECONDS: Final = 3  # for requests that are being answered
LEAST_SECONDS: Final = 1.0  # a worker that lives shorter than this is not followed by the next at once
IDLE_SECONDS: Final = 75  # longer than Envoy keeps a connection it does not use: whoever closes first must be Envoy
ENDING: Final = (signal.SIGTERM, signal.SIGINT)
LOGGER: Final = logging.getLogger("bentoml.churn")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM.

    Returns:
        0 after SIGTERM; 1 where the release may not start, with one line that says why.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        with _metrics_folder():
            return _serve(options.host, options.port, _workers())
    except PipelineError as error:
        LOGGER.critical("the release does not start: %s", error)
        return 1


def _workers() -> int:
    """How many, from the environment.

    Raises:
        ReleaseError: no whole number from 1 to 32.
    """
    given = os.environ.get("CHURN_RELEASE_WORKERS", str(WORKERS))
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= 32:
        raise ReleaseError(f"cannot use CHURN_RELEASE_WORKERS={given!r}: it must be a whole number from 1 to 32")
    return int(given)


@contextlib.contextmanager
def _metrics_folder() -> Iterator[None]:
    """Each worker writes files of its own in CHURN_METRICS_DIR; what a run before left there is counted no more."""
    given = os.environ.get("CHURN_METRICS_DIR")
    with contextlib.ExitStack() as stack:
        folder = Path(given or stack.enter_context(tempfile.TemporaryDirectory(prefix="churn-metrics-")))
        os.environ["CHURN_METRICS_DIR"] = str(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob("*.db"):
                left.unlink()
        except OSError as error:
            raise ReleaseError(f"cannot use CHURN_METRICS_DIR={folder}: {error.strerror}. Name a folder the release "
                               "may write") from None
        yield


def _serve(host: str, port: int, workers: int) -> int:
    with _bound(host, port) as listening:
        from models.serving.start import RELEASE, load_parts, open_runtime

        parts = load_parts(RELEASE, release_id=os.environ.get("CHURN_RELEASE_ID", "unpackaged"))
        gc.collect()
        gc.freeze()  # what is shared stays shared: the collector would write into every page
        return _Parent(workers, listening, lambda: open_runtime(parts)).run()


class _Parent:
    """Keeps a number of workers alive."""

    def __init__(self, workers: int, listening: socket.socket, open_runtime: Callable[[], Runtime]) -> None:
        self.workers = workers
        self.listening = listening
        self.open_runtime = open_runtime
        self.children: dict[int, float] = {}  # process id: when it was forked
        self.ending = False
        self.was_ready = False  # any worker, ever
        self.told, self.tell = os.pipe()  # a byte from each worker that got ready
        os.set_blocking(self.told, False)

    def run(self) -> int:
        for name in ENDING:
            signal.signal(name, self._end)
        while not self.ending or self.children:
            while not self.ending and len(self.children) < self.workers:
                self._fork()
            try:
                child, status = os.wait()
            except ChildProcessError:
                continue
            lived = time.monotonic() - self.children.pop(child, 0.0)
            if self.ending:
                continue
            if os.waitstatus_to_exitcode(status) == REFUSED and not self._any_was_ready():
                self._end()
                self._reap()
                return 1
            LOGGER.error("worker %d ended (%d) after %.1f s; another one takes its place", child,
                         os.waitstatus_to_exitcode(status), lived)
            time.sleep(max(0.0, LEAST_SECONDS - lived))
        return 0

    def _fork(self) -> None:
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # until the worker has lost the parent's handlers
        child = os.fork()
        if child:
            self.children[child] = time.monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            if self.ending:  # since the loop asked: that signal may have come before this worker could be told
                self._end()
            return
        code = 1
        try:  # nothing of the parent's clean-up may run in a worker
            _end_with(parent)
            code = _work(self.listening, self.open_runtime, self.tell)
        except BaseException as error:
            LOGGER.critical("a worker failed: %s", type(error).__name__, exc_info=not isinstance(error, SystemExit))
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _any_was_ready(self) -> bool:
        """Then a worker that cannot start is the place's fault, and those that answer should go on."""
        with contextlib.suppress(BlockingIOError):
            self.was_ready = self.was_ready or bool(os.read(self.told, 1))
        return self.was_ready

    def _end(self, *_: object) -> None:
        self.ending = True
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    def _reap(self) -> None:
        for child in list(self.children):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _work(listening: socket.socket, open_runtime: Callable[[], Runtime], tell: int) -> int:
    """A worker: connections of its own, then the server; it listens only once it can answer."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    import uvicorn

    from models.serving.api import build_app
    from models.serving.one_write import OneWrite

    app = build_app(probes=True)
    try:
        app.state.runtime = open_runtime()
    except PipelineError as error:
        LOGGER.critical("the release does not start: %s", error)
        return REFUSED
    os.write(tell, b"1")
    config = uvicorn.Config(app, http=OneWrite, lifespan="off", access_log=False, log_config=None, log_level="warning",
                            server_header=False, date_header=False, timeout_keep_alive=IDLE_SECONDS,
                            timeout_graceful_shutdown=GRACE_SECONDS, backlog=2048)
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """A socket of the address that does not listen yet: who comes too early is refused, and does not hang."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ReleaseError(f"cannot listen on {host}:{port}: {error.strerror}. End what holds the port, or take "
                           "another one") from None
    return bound


def _end_with(parent: int) -> None:
    """Have Linux end this worker with its parent: an orphan would keep the port and the old release."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # it ended in between
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
