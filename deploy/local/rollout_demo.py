"""`make rollout-demo`: two releases by canary under generated traffic, on a platform of its own beside the user's.

The first candidate does what it should and becomes champion. The second one hangs again and again: it is
rolled back, and no client notices. Printed as it happens: every look of the judge, then what the clients saw.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from deploy.local.command import command, keep_quiet
from deploy.local.demo_faults import hanging
from deploy.local.demo_place import (
    LIMITS,
    LOOK_SECONDS,
    beside,
    canary_of,
    customers_of,
    platform_beside,
    promoted_versions,
    roll_out,
    say,
)
from deploy.local.parts import client_environment, place_environment
from deploy.local.traffic import Tally, traffic
from flows.settings import Settings, load_place, load_settings
from models.charter import Charter
from models.decision import Decision
from models.errors import PlatformError
from models.training.fit import TrainingConfig
from tasks.home import Home
from tasks.release import releases, rollouts
from tasks.release.looks import E_VALUE, picture
from tasks.release.processes import supervisor_running
from tasks.release.rollouts import RolloutRow
from tasks.state import open_state, read_decisions

ON_RUNNING: Final = "ROLLOUT_DEMO_HOME"
PORTS_BESIDE: Final = 60  # how far the demo's ports lie from the user's
RATE: Final = 60.0  # requests a second
LATER: Final = datetime(2025, 12, 1)  # the concept of the sample world has changed by then: a new model wins
NEW_CONCEPT: Final = TrainingConfig(window="new", not_before=datetime(2025, 8, 1))


@command("interrupted; what the demo started is stopped")
def main() -> int:
    """0; 1 with one line where it cannot be shown; 130 on Ctrl-C. Nothing runs afterwards that did not before."""
    keep_quiet()
    with place() as (settings, charter, home):
        demonstrate(settings, charter, home)
    return 0


@contextlib.contextmanager
def place() -> Iterator[tuple[Settings, Charter, Home]]:
    """A platform with two model versions: one of the demo's own, stopped at the end, or ROLLOUT_DEMO_HOME's.

    Raises:
        PlatformError: the platform does not start, or that of ROLLOUT_DEMO_HOME does not run.
    """
    chosen = os.environ.get(ON_RUNNING)
    settings = load_settings()
    if chosen:
        settings = settings.model_copy(update={"home": Path(chosen)})
        charter, home = load_place(settings)
        if not supervisor_running(home):
            raise PlatformError(f"cannot show a rollout on {chosen}: its platform does not run. Start it with "
                                f"`make run`, or leave {ON_RUNNING} away: the demo then starts one of its own")
        os.environ.update(client_environment(settings, home) | place_environment(settings, home))
        yield settings, charter, home
        return
    settings = beside(settings, name="rollout-demo", ports=PORTS_BESIDE, charter={"rollout": LIMITS})
    stopped = f"stopped; `make rollout-demo` starts quicker now. To remove it: rm -r {settings.home}"
    with platform_beside(settings, after=stopped) as (charter, home, _platform):
        train_two(home)  # what flows do not need comes up meanwhile
        yield settings, charter, home


def train_two(home: Home) -> None:
    """A champion that learnt the sample world's first year, a later model of its changed concept, no open rollout."""
    from flows.features import features
    from flows.ingest import ingest
    from flows.release import release
    from flows.rollback import rollback
    from flows.train import train
    from models.training.fit import TrainingConfig
    engine = open_state(home.state_url)
    for number, (as_of, config) in enumerate(((None, TrainingConfig()), (LATER, NEW_CONCEPT)), 1):
        if number not in promoted_versions(engine):
            begun = time.monotonic()
            ingest(as_of)
            features(as_of)
            decision = train(as_of, config)
            if decision.verdict != "promote":
                raise PlatformError(f"cannot show a rollout: version {number} was not promoted: {decision.reason}")
            say(f"version {number}, {time.monotonic() - begun:.0f} s: {decision.reason}")
        if rollouts.champion(engine) is None:
            opened = rollouts.open_rollout(engine)  # of a demo that was interrupted, as below
            release(version=None if opened else number, who="rollout-demo", why="the first champion")
    if rollouts.open_rollout(engine):
        rollback(who="rollout-demo", why="the demo before this one was interrupted")


def demonstrate(settings: Settings, charter: Charter, home: Home) -> None:
    """A rollout that becomes champion, and one that is rolled back, under one stream of requests.

    Raises:
        PlatformError: there are no two versions, a rollout did not end as it should, or a request failed.
    """
    engine = open_state(home.state_url)
    serving, opened = rollouts.champion(engine), rollouts.open_rollout(engine)
    if serving is None or opened is not None:
        raise PlatformError(f"cannot show a rollout in {home.root}: " + (
            f"that of {opened.release_id} is open. Wait for its end, or `make rollback`" if opened
            else "nothing is champion. Run `make run` first"))
    champion = int(releases.read_release(engine, serving.release_id).model_version)
    candidate = next((version for version in promoted_versions(engine) if version != champion), None)
    if candidate is None:
        raise PlatformError(f"cannot show a rollout in {home.root}: no version but {champion} won its gate")
    with traffic("127.0.0.1", settings.api_port, customers_of(home, serving.release_id), rate=RATE) as tally:
        say(f"{RATE:g} requests a second; stages {', '.join(f'{share:.0%}' for share in charter.rollout.stages)}; "
            f"a look every {LOOK_SECONDS:g} s")
        say(f"\nversion {candidate}, in place of version {champion}")
        first = roll_out(engine, candidate, who="rollout-demo", why="a better model", tell=tell_looks)
        say(f"\nversion {champion} again, but it hangs three seconds of every six")
        with hanging(home, lambda: canary_of(engine)):
            second = roll_out(engine, champion, who="rollout-demo", why="a faulty one", tell=tell_looks)
    report(tally, home, ((first, "champion"), (second, "rolled back")))


def tell_looks(engine: sa.Engine, rollout: RolloutRow, told: int, begun: float) -> int:
    """Print the ledger's lines of this rollout after the first `told` of them; how many there are now."""
    rows = [row for row in reversed(read_decisions(engine, subject=rollout.release_id, limit=10_000))
            if row.at >= rollout.opened_at and row.decision.gate != "go"]
    judged = [row for row in rows if e_values(row.decision)]
    for row in rows[told:]:
        if judged and row is judged[0]:
            say(header(row.decision))
        say(f"  {time.monotonic() - begun:5.1f} s  {look_line(row.decision)}")
    return len(rows)


def e_values(decision: Decision) -> dict[str, float]:
    """The worth of each monitor's bets, by name; empty for what is no look of a judge."""
    return {name.removesuffix(E_VALUE): float(value) for name, value in decision.evidence.items()
            if name.endswith(E_VALUE) and value is not None}


def header(decision: Decision) -> str:
    """The head of the columns that `look_line` fills."""
    names = "".join(f"{name.replace('_', ' '):>14}" for name in e_values(decision))
    limit = f"e-values, limit {float(decision.evidence.get('e_limit') or 0):g}"
    return f"{'':39}{'':>10}{limit:>{len(names) - 10}}\n{'':9} {'stage':<11} {'canary':>7} {'champion':>9}{names}"


def look_line(decision: Decision) -> str:
    """A verdict in one line: of a judge's look the customers an arm and the e-values; with its reason if it decides."""
    seen, worth = decision.evidence, e_values(decision)
    if not worth:
        return f"{decision.gate}: {decision.verdict}: {decision.reason}"
    stage = decision.gate + (f" {float(seen['share'] or 0):.0%}" if "share" in seen else "")
    line = (f"{stage:<11} {seen.get('canary_customers', ''):>7} {seen.get('champion_customers', ''):>9}"
            f"{''.join(f'{value:>14.2g}' for value in worth.values())}   {decision.verdict}")
    return line if decision.verdict == "hold" else f"{line}\n{'':11}{decision.reason}"


def report(tally: Tally, home: Home, ended: Sequence[tuple[RolloutRow, str]]) -> None:
    """What the clients saw, and where the pictures are.

    Raises:
        PlatformError: a request failed, or a rollout ended otherwise than it should.
    """
    say(f"\nrequests  {tally.answered:,} answered, {tally.failed} failed")
    for release_id, count in tally.releases.most_common():
        say(f"          {count:,} by {release_id}")
    for rollout, _state in ended:
        drawn = picture(home, rollout.rollout_id)
        say(f"{rollout.state:<14}{rollout.release_id}" + (f"  {drawn.as_uri()}" if drawn.exists() else ""))
    for rollout, state in ended:
        if rollout.state != state:
            raise PlatformError(f"the rollout of {rollout.release_id} ended as {rollout.state}, not {state}: "
                                f"{rollout.reason}")
    if tally.failed:
        raise PlatformError(f"{tally.failed} of {tally.answered + tally.failed} requests failed, first: "
                            f"{tally.first_failure}")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # each of them stops what was started
    sys.exit(main())
