"""Watchdog. Reads our state; rolls a shadow or a canary back at which the judge has not looked for too long.

It also finishes what a killed call began: routes that do not lead to the champion of our state are written anew. It
raises an alarm where a part has not run when it should have (`tasks.monitoring.silence`) or the API answers nobody
(`tasks.monitoring.api_question`), and it sends what of the ledger was not told (`tasks.monitoring.teller`). Each round
in which nothing failed ends with a beat of its own, whose age the exporter tells: nobody else would see that it hangs.

A process of its own under supervisor, so that a dead schedule, worker, Prefect or judge cannot leave customers with a
candidate that nobody watches. Also paused, a rollout must be looked at. Imports neither Prefect nor pandas.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from models.charter import load_charter
from models.decision import Decision
from models.errors import PipelineError
from tasks.home import Home
from tasks.maturity import MANUAL
from tasks.monitoring.api_question import Missed, watch_api
from tasks.monitoring.awake import Awake
from tasks.monitoring.heartbeats import WATCHDOG, beat
from tasks.monitoring.silence import watch_silence, watched_level
from tasks.monitoring.teller import Teller, catch_up
from tasks.release import rollouts
from tasks.release.endings import record_end, record_missing_end
from tasks.release.release_process import ReleasePlace
from tasks.release.settle import WITH_TRAFFIC, readable_routes, settle
from tasks.release.steps import roll_back_canary
from tasks.state import open_state
from tasks.state_store import state_place

LOGGER: Final = logging.getLogger("watchdog")
# By the environment: they may hold passwords, and a command line is public.
STORES: Final = ("CHURN_ONLINE_STORE", "CHURN_FEATURE_REGISTRY", "CHURN_STATE_URL")
SECONDS: Final = 20.0


def watched_home(root: Path, name: str, environment: Mapping[str, str]) -> Home:
    """The home as the platform's settings have it; a release that is started with less of it asks for no API key."""
    online, registry, state = (environment.get(name) or None for name in STORES)
    keys = environment.get("CHURN_API_KEYS")
    return Home(root, name, online, registry, state_place(state) if state else None, Path(keys) if keys else None)


def watch_once(place: ReleasePlace, *, minutes_watched: float = math.inf) -> Decision | None:
    """Roll the open rollout back where the judge was silent for too long; None where it was not.

    What was before `minutes_watched` does not count: while the platform was down there was nothing to look at.
    """
    rollout, limit = rollouts.open_rollout(place.engine), place.limits.judge_silence_minutes
    if rollout is None or rollout.state not in WITH_TRAFFIC:
        return None
    silent = min(rollout.minutes_without_look, minutes_watched)
    if not silent >= limit:
        return None
    ahead = ", ahead of the clock, which went back" if math.isinf(rollout.minutes_without_look) else ""
    decision = roll_back_canary(place, rollout, (
        f"the judge was silent for {silent:.1f} minutes (limit {limit:g}), its last look was "
        f"{rollout.last_look_at or 'never'}{ahead}. See that the release flow runs every minute"))
    if decision.gate == "release":
        record_end(place.engine, decision, subject=rollout.release_id)
    return decision


def follow_state(place: ReleasePlace) -> bool:
    """Finish a change of champion that was killed before its routes, or bring back a route file that is gone or
    damaged.

    Where no rollout is open nobody else calls.

    Raises:
        PipelineError: it could not be finished; it is tried again at the next check.
    """
    serving, routes = rollouts.champion(place.engine), readable_routes(place.home)
    routed = routes.champion if routes else None
    if serving is None or (routed is not None and routed.release_id == serving.release_id):
        return False
    record_missing_end(place.engine)
    settle(place)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Watch until it is stopped."""
    parser = argparse.ArgumentParser(prog="tasks.release.watchdog", description="Roll back what nobody watches.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--charter", type=Path, required=True)
    parser.add_argument("--first-port", type=int, required=True, help="first of the releases' loopback ports")
    parser.add_argument("--api", required=True, help="address at which clients reach the API, such as http://host:port")
    parser.add_argument("--every", type=float, default=SECONDS, help="seconds between two checks")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    charter = load_charter(given.charter)
    home = watched_home(given.home, charter.name, os.environ)
    workers = int(os.environ.get("CHURN_RELEASE_WORKERS", ReleasePlace.workers))
    begun, awake, missed, teller = time.monotonic(), Awake(home), Missed(), Teller()

    def watch_release() -> None:
        place = ReleasePlace(home=home, engine=open_state(home.state_url), limits=charter.rollout,
                             repo=given.home, first_port=given.first_port, workers=workers)
        _tell(watch_once(place, minutes_watched=(time.monotonic() - begun) / 60))
        if follow_state(place):
            LOGGER.warning("the routes follow our state again, after a call that was killed")

    def watch_parts() -> None:
        engine, level = open_state(home.state_url), watched_level(home)
        awake.mark(engine, due=level > MANUAL)
        for decision in watch_silence(home, engine, charter, maturity=level):
            _tell(decision)

    def ask_api() -> None:
        nonlocal missed
        missed, said = watch_api(open_state(home.state_url), charter, given.api, missed)
        for decision in said:
            _tell(decision)

    def tell_people() -> None:
        nonlocal teller
        teller = catch_up(home, open_state(home.state_url), given.charter, charter.name, teller)

    while True:
        done = [_done(check) for check in (watch_release, watch_parts, ask_api, tell_people)]
        if all(done):  # the one that fails keeps nobody from the others
            _done(lambda: beat(open_state(home.state_url), WATCHDOG))
        time.sleep(given.every)


def _done(check: Callable[[], object]) -> bool:
    try:
        check()
    except PipelineError as error:  # a store that is away comes back
        LOGGER.error("%s", error)
        return False
    except Exception:  # it must outlive what it did not foresee: the next check may succeed
        LOGGER.exception("this check failed")
        return False
    return True


def _tell(decision: Decision | None) -> None:
    if decision:
        LOGGER.warning("%s: %s: %s", decision.gate, decision.verdict, decision.reason)


if __name__ == "__main__":
    sys.exit(main())
