"""`make demo`: the sample world lived through month by month under traffic, on a platform of its own beside the user's.

Quiet months, other customers, another behaviour, a broken delivery and a bad candidate. One line a month: what was
seen, decided and done; at the end what retraining was worth, by what really happened.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final

import polars as pl

from deploy.local.command import command, keep_quiet
from deploy.local.demo_lines import draw, head, line, value_lines
from deploy.local.demo_months import Month, Place, live_month, quiet_flows
from deploy.local.demo_place import LIMITS, beside, customers_of, home_beside, platform_beside, say
from deploy.local.demo_value import value_of_month
from deploy.local.demo_world import FULL, SHORT, Story, world_folder, write_files
from deploy.local.platform import Platform, stop_platform
from deploy.local.run import only_run
from deploy.local.traffic import Tally, traffic
from flows.settings import Settings, load_settings
from models.errors import PlatformError
from tasks.home import Home
from tasks.release import releases, rollouts
from tasks.state import open_state

NAME: Final = "demo"
PORTS_BESIDE: Final = 120  # how far the demo's ports lie from the user's
RATE: Final = 40.0  # requests a second
KEPT: Final = ("venvs", "run", "run.lock")  # of an earlier demo: the releases' libraries (half a minute), the lock
MARKER: Final = "made-by-make-demo"
CHARTER: Final[Mapping[str, Mapping[str, Any]]] = {
    "rollout": LIMITS | {"stages": [0.25, 0.5]}, "training": {"train_cuts": 4}}


@command("interrupted; what the demo started is stopped")
def main(arguments: list[str] | None = None) -> int:
    """0; 1 with one line where it cannot be shown; 130 on Ctrl-C. Nothing runs afterwards that did not before."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--short", action="store_true", default=os.environ.get("SHORT", "0") not in ("", "0"),
                        help="the same events closer together: six months (environment: SHORT=1)")
    options = parser.parse_args(arguments)
    keep_quiet()
    show(SHORT if options.short else FULL)
    return 0


def show(story: Story) -> None:
    """The whole demo.

    Raises:
        PipelineError: with the one line to print.
    """
    begun, given = time.monotonic(), load_settings()
    root = home_beside(given, NAME)
    refuse_foreign(root)
    with only_run(Home(root), what="make demo"):
        with stage(given, story) as (place, platform):
            months, tallies = live(place, platform)
            finish(place, months, tallies)
        say(f"{len(months)} months in {time.monotonic() - begun:.0f} s")


def refuse_foreign(root: Path) -> None:
    """The demo empties its home when it starts, so it takes none that it did not make.

    Raises:
        PlatformError: there is such a folder.
    """
    if root.exists() and any(path.name not in KEPT for path in root.iterdir()) and not (root / MARKER).exists():
        raise PlatformError(f"cannot use {root} for the demo: it holds files that are not the demo's. Move them, or "
                            "set CHURN_HOME to another folder")


@contextmanager
def stage(given: Settings, story: Story) -> Iterator[tuple[Place, Platform]]:
    """A new world on a platform that runs while the block runs; what an earlier demo left is removed first."""
    root = home_beside(given, NAME)
    (root / MARKER).touch()
    settings = beside(given, name=NAME, ports=PORTS_BESIDE, charter={
        **CHARTER, "problem": {"first_as_of": story.as_of(story.first).date()}})
    stop_platform(settings, Home(root))  # of one that was killed
    for path in (*root.iterdir(), *(root / "run").iterdir()):
        if path.name not in (*KEPT, MARKER, "charter.yaml"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    stopped = f"stopped; the next `make demo` starts anew. To remove it: rm -r {root}"
    with platform_beside(settings, after=stopped) as (charter, home, part):
        write_files(home, story)
        with quiet_flows():
            yield Place(settings, charter, home, open_state(home.state_url), story), part


def live(place: Place, platform: Platform) -> tuple[list[Month], list[Tally]]:
    """Every month of the story, each under traffic once something serves."""
    say(f"\n{head()}")
    months: list[Month] = []
    tallies: list[Tally] = []
    for month in place.story.months:
        listed = months[-1].listed_as_of if months else None
        serving = rollouts.champion(place.engine)
        with ExitStack() as stack:
            if serving is not None:
                people = customers_of(place.home, serving.release_id)
                tallies.append(stack.enter_context(
                    traffic("127.0.0.1", place.settings.api_port, people, rate=RATE, seed=month)))
            log = stack.enter_context((place.home.run / "logs" / "demo.log").open("a", encoding="utf-8"))
            stack.enter_context(redirect_stdout(log))
            stack.enter_context(redirect_stderr(log))  # what flows tell of a search: a month is one line here
            lived = live_month(place, month, listed_as_of=listed)
        say(line(lived))
        platform.wait()  # the worker acts on events, so it must be there
        months.append(lived)
    return months, tallies


def finish(place: Place, months: Sequence[Month], tallies: Sequence[Tally]) -> None:
    """What it was worth, the picture, and whether every request was answered.

    Raises:
        PlatformError: a request failed.
    """
    truth = pl.read_parquet(world_folder(place.home) / "truth" / "customers.parquet")
    first = min(releases.read_releases(place.engine), key=lambda one: one.created_at).release_id
    values = [value_of_month(place.home, place.engine, place.charter, as_of=one.as_of, listed_as_of=one.listed_as_of,
                             first_release=first, truth=truth) for one in months]
    say("")
    for text in value_lines(values):
        say(text)
    say(f"picture   {draw(values, months, place.home.reports / 'demo.png').as_uri()}")
    answered, failed = sum(tally.answered for tally in tallies), sum(tally.failed for tally in tallies)
    say(f"requests  {answered:,} answered, {failed} failed")
    if failed:
        why = next(tally.first_failure for tally in tallies if tally.failed)
        raise PlatformError(f"{failed} of {answered + failed} requests failed, first: {why}")

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # each of them stops what was started
    sys.exit(main())
