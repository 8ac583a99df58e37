"""One month of the demo: its data arrive, every part of the loop does its work once, and what was asked for is done.

Flows run in this process against the demo's own Prefect server; a retraining runs on its worker, started by the event.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from deploy.local.demo_faults import hanging
from deploy.local.demo_place import canary_of, follow_rollout, promoted_versions, roll_out, tell_nothing
from deploy.local.demo_world import Event, Story, deliver
from deploy.local.parts import prefect_api
from flows.settings import Settings
from models.charter import Charter
from models.errors import DataError, PlatformError
from models.training.fit import TrainingConfig
from tasks.home import Home
from tasks.monitoring.waiting import waits_until
from tasks.release import releases, rollouts
from tasks.release.rollouts import RolloutRow
from tasks.state import LedgerRow, now, read_decisions

WHO: Final = "demo"
FIRST_TRAINING: Final = TrainingConfig(trials=4)  # of the first model; a retraining takes the defaults
PATIENCE: Final = 150.0  # seconds from the event until the retrain flow answers, on a busy machine
LONGEST: Final = 900.0  # seconds a retraining may take
ENDED: Final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
ASKS: Final = "retrain"  # verdict of the gate `drift` for which an event is emitted


@dataclass(frozen=True)
class Place:
    """Where the demo happens."""

    settings: Settings
    charter: Charter
    home: Home
    engine: sa.Engine
    story: Story


@dataclass(frozen=True)
class Month:
    """What became of a month."""

    month: int
    as_of: datetime
    listed_as_of: datetime  # of the newest list of whom to contact
    planted: tuple[Event, ...]
    ledger: tuple[LedgerRow, ...]  # what was decided, oldest first
    rollouts: tuple[RolloutRow, ...]  # what was released, and how that ended
    trained: bool  # a training was run
    event_seconds: float | None  # from the monitor's end to the retrain flow's answer
    seconds: float = 0.0

    def verdicts(self, gate: str) -> list[str]:
        """What a gate said this month, oldest first."""
        return [row.decision.verdict for row in self.ledger if row.decision.gate == gate]


def live_month(place: Place, month: int, *, listed_as_of: datetime | None) -> Month:
    """Everything that happens in a month.

    Args:
        listed_as_of: of the newest list before this month.

    Raises:
        PlatformError: a part did not do what the story needs; says which.
    """
    begun, since = time.monotonic(), now()
    as_of = place.story.as_of(month)
    print(f"{as_of:%Y-%m}")
    deliver(place.home, place.story, month)
    loaded = _data(as_of)
    trained, ended, event_seconds = False, list[RolloutRow](), None
    if loaded and rollouts.champion(place.engine) is None:
        _first_model(place, as_of)
        trained = True
    if loaded:
        _score(place, as_of)
    _watch(place, as_of if loaded else None)
    if loaded:
        asked = asked_for(place.engine, since, as_of)
        if asked is not None:
            with timed("retrain"):
                event_seconds, accepted = _await_retraining(place, asked, since)
            trained = trained or accepted
            if rollouts.open_rollout(place.engine) is not None:
                with timed("canary"):
                    ended.append(follow_rollout(place.engine, begun=time.monotonic(), who=WHO, tell=tell_nothing))
    if month == place.story.bad_candidate:
        with timed("bad candidate"):
            ended.append(_bad_candidate(place))
    ledger = tuple(row for row in reversed(read_decisions(place.engine, limit=2_000)) if row.at >= since)
    listed = as_of if loaded else listed_as_of
    if listed is None:
        raise PlatformError(f"cannot begin the story in {as_of:%Y-%m}: its delivery is refused, and there is no list")
    return replace(Month(month, as_of, listed, place.story.events(month), ledger, tuple(ended), trained,
                         event_seconds), seconds=time.monotonic() - begun)


def _data(as_of: datetime) -> bool:
    """Ingest and features; False where the delivery is refused: then what was there before stays."""
    from flows.features import features
    from flows.ingest import ingest

    try:
        with timed("ingest"):
            ingest(as_of)
    except DataError:  # the reason stands in the ledger
        return False
    with timed("features"):
        features(as_of)
    return True


def _first_model(place: Place, as_of: datetime) -> None:
    from flows.release import release
    from flows.train import train

    with timed("train"):
        decision = train(as_of, FIRST_TRAINING)
    if decision.verdict != "promote":
        raise PlatformError(f"cannot begin the story: the first model was not promoted: {decision.reason}")
    with timed("release"):
        release(version=int(str(decision.evidence["model_version"])), who=WHO, why="the first champion",
                strategy="basic")
    if rollouts.champion(place.engine) is None:
        last = rollouts.last_rollout(place.engine)
        raise PlatformError(f"cannot begin the story: the first release did not become champion: "
                            f"{last.reason if last else 'no rollout was opened'}")


def _score(place: Place, as_of: datetime) -> None:
    from flows.bake import bake
    from flows.score import score
    from flows.ship import ship
    from tasks.release.bake_state import baking

    with timed("score"):
        score(as_of)
    with timed("ship"):
        ship()
    if baking(place.engine):
        with timed("bake"):
            bake(as_of)


def _watch(place: Place, as_of: datetime | None) -> None:
    """The monitor's check; None: of the data there were before."""
    from flows.monitor import monitor

    if rollouts.champion(place.engine) is not None:
        with timed("monitor"):
            monitor(as_of)


def asked_for(engine: sa.Engine, since: str, as_of: datetime) -> LedgerRow | None:
    """The decision whose event this month's check has emitted: a check that says something else asks for nothing."""
    mine = next((row for row in read_decisions(engine, gate="drift") if row.at >= since), None)
    if mine is None or mine.decision.verdict != ASKS:
        return None
    until = waits_until(engine, mine)
    return mine if until is None or until <= as_of else None


def _await_retraining(place: Place, asked: LedgerRow, since: str) -> tuple[float, bool]:
    """Wait until the retrain flow that the event started has ended; seconds until it answered, and whether by a yes.

    Raises:
        PlatformError: no flow answered the event, or it did not end.
    """
    begun = time.monotonic()
    answer = None
    while answer is None:
        answer = next((row for row in read_decisions(place.engine, gate="retrain") if row.at >= since
                       and row.decision.evidence.get("decision_id") == asked.decision_id), None)
        if answer is None and time.monotonic() - begun > PATIENCE:
            raise PlatformError(f"cannot show the retraining: {PATIENCE:g} s after the event of decision "
                                f"{asked.decision_id} no retrain flow has answered. See the worker's log in "
                                f"{place.home.run / 'logs'}")
        time.sleep(0.25)
    seconds = time.monotonic() - begun
    api = prefect_api(place.settings, place.home)
    while answer.flow_run_id and (state := api.ask(f"/flow_runs/{answer.flow_run_id}")["state_type"]) not in ENDED:
        if time.monotonic() - begun > LONGEST:
            raise PlatformError(f"cannot show the retraining's end: it is still {state} after {LONGEST:g} s")
        time.sleep(0.5)
    return seconds, answer.decision.verdict == "accept"


def _bad_candidate(place: Place) -> RolloutRow:
    """Somebody releases an old version by hand, and it hangs.

    Raises:
        PlatformError: there is no old version.
    """
    serving = rollouts.champion(place.engine)
    assert serving is not None
    champion = int(releases.read_release(place.engine, serving.release_id).model_version)
    old = next((version for version in promoted_versions(place.engine) if version != champion), None)
    if old is None:
        raise PlatformError(f"cannot show a bad candidate: no version but {champion} won its gate")
    with hanging(place.home, lambda: canary_of(place.engine)):
        return roll_out(place.engine, old, who=WHO, why="the model of last year was good, too", tell=tell_nothing)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what a part took, of the wall and of this process: for the demo's log."""
    begun, worked = time.monotonic(), time.process_time()
    yield
    print(f"  {what:<14}{time.monotonic() - begun:6.1f} s {time.process_time() - worked:6.1f} CPU s", flush=True)


def quiet_flows() -> AbstractContextManager[object]:
    """A context in which flows of this process send no heartbeats: each would cost a second (nobody waits for them)."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
