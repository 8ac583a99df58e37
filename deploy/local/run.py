"""`make run`: start what is missing of the platform, run the lifecycle once, say what is live."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

from deploy.local.command import command, keep_quiet
from deploy.local.platform import start_platform
from flows.settings import load_place, load_settings
from models.errors import PipelineError, PlatformError
from tasks.clock import parse_as_of
from tasks.home import Home
from tasks.monitoring.address import check_address

# In the order the lifecycle needs them. While the servers start, this process would only wait.
HEAVY = ("duckdb", "pandas", "pandera.pandas", "flows.lifecycle", "feast", "sklearn.ensemble", "sklearn.linear_model",
         "mlflow", "evidently")


@command("interrupted; the platform goes on (`make down` stops it), `make run` goes on where this stopped")
def main(arguments: list[str] | None = None) -> int:
    """0; 1 with one line on stderr where something can be mended; 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--as-of", default=os.environ.get("AS_OF") or None,
                        help="date the platform clock is moved to (environment: AS_OF), such as 2025-02-01")
    options = parser.parse_args(arguments)
    run(options.as_of)
    return 0


def run(as_of_text: str | None) -> None:
    """Everything `make run` does.

    Raises:
        PipelineError: with the one line to print.
    """
    as_of = parse_as_of(as_of_text) if as_of_text else None
    settings = load_settings()
    charter, home = load_place(settings)
    keep_quiet()
    if settings.notify is not None:
        check_address(settings.notify)
    if not settings.sample:
        check_sources()  # before anything is started: what can be found out now need not wait for a platform
    if settings.online_store or settings.feature_registry:
        from tasks.features.feature_stores import check_stores

        check_stores(home)
    with only_run(home):
        print("platform", flush=True)
        with warming_up() as warm_up:
            platform = start_platform(settings, charter, home, say=lambda line: print(line, flush=True),
                                      meanwhile=warm_up)
        try:
            from flows.lifecycle import lifecycle

            print("lifecycle", flush=True)
            summary = lifecycle(as_of=as_of)
        except PipelineError:
            with contextlib.suppress(PipelineError):  # the first error is the one to tell
                platform.wait()
            raise
        platform.wait()
        print(summary.text())


def check_sources() -> None:
    """The sources file can be used, and every file it names is there.

    Raises:
        PipelineError: not so.
    """
    from flows.context import open_context
    from tasks.data.source_files import find_files

    context = open_context()
    for name, source in context.sources.tables.items():
        if source.database is None:
            find_files(name, source, root=context.root)


@contextlib.contextmanager
def only_run(home: Home, *, what: str = "make run") -> Iterator[None]:
    """Hold the lock of this home; a second run at the same time would start the same things twice.

    Args:
        what: the command that holds it.

    Raises:
        PlatformError: another process holds it; says which.
    """
    home.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(home.run / "run.lock", "a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise PlatformError(f"cannot run twice at once on {home.root}: process {lock.read().strip() or 'unknown'} "
                                f"is a `{what}` at work there. Wait for it, or set CHURN_HOME to another folder"
                                ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def warming_up() -> Iterator[Callable[[], None]]:
    """Gives a function that imports what the lifecycle will need, until the block ends.

    Leaving the block waits for the import in progress: two threads must not import halves of one package.
    """
    stop, idle = threading.Event(), threading.Event()
    idle.set()

    def warm_up() -> None:
        idle.clear()
        try:
            for name in HEAVY:
                if stop.is_set():
                    return
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Feast turns deprecations on for whatever is imported after it
                    importlib.import_module(name)
        finally:
            idle.set()

    try:
        yield warm_up
    finally:
        stop.set()
        idle.wait(60)


if __name__ == "__main__":
    sys.exit(main())
