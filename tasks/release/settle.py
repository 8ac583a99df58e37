"""Release stage. Makes supervisor's programs and Envoy's routes what our state says; needs no Prefect and no MLflow.

`settle` is the way on after every change of the state, after `make down`, and after a call that was killed: done
twice it changes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from models.decision import Decision
from models.errors import PlatformError, ReleaseError
from tasks.home import Home
from tasks.release import releases, rollouts
from tasks.release.endings import record_end
from tasks.release.processes import programs, stop_program
from tasks.release.release_process import ReleasePlace, is_ready, program_name, run_release, start_release
from tasks.release.rollouts import RolloutRow
from tasks.release.routing import Routes, Upstream, read_routes, routes_lock, set_routes

LOGGER = logging.getLogger(__name__)
ROUTED_SECONDS = 20  # twice what a release takes to be ready: longer, and nobody looks at a canary that hangs
WITH_TRAFFIC = ("shadow", "canary")  # states in which requests reach the release


def settle(place: ReleasePlace) -> Routes:
    """Start what should run, route, then stop what should not.

    Raises:
        ReleaseError: the champion does not become ready; raised last, after all else was done.
    """
    serving, rollout = rollouts.champion(place.engine), rollouts.open_rollout(place.engine)
    fault = None
    if serving:
        try:
            start_release(place, serving.release_id)
        except ReleaseError as error:
            fault = error
    if rollout and rollout.state in WITH_TRAFFIC:
        try:
            start_release(_place_of_routed(place, rollout.release_id), rollout.release_id)
        except ReleaseError as error:
            _end_dead(place, rollout, f"the {rollout.state} does not come up again: {error}")
    routes = apply_routes(place)
    _keep_warm(place)
    _stop_unwanted(place)
    if fault:
        raise fault
    return routes


def apply_routes(place: ReleasePlace) -> Routes:
    """Write the routes the state asks for. Needs neither supervisor nor Envoy: a file is enough.

    A route file that cannot be read is written anew: Envoy holds what it read before, a candidate's customers too.
    """
    with routes_lock(place.home):
        routes = wanted_routes(place)
        if readable_routes(place.home) != routes:
            set_routes(place.home, routes)
    return routes


def readable_routes(home: Home) -> Routes | None:
    """What the route file says; None where it cannot be read as ours."""
    try:
        return read_routes(home)
    except PlatformError as error:
        LOGGER.warning("%s", error)
        return None


def wanted_routes(place: ReleasePlace) -> Routes:
    """Who should serve whom, by the state; the champion before as fallback where it is ready."""
    serving, rollout = rollouts.champion(place.engine), rollouts.open_rollout(place.engine)
    champion = _upstream(place, serving.release_id) if serving else None
    candidate = _upstream(place, rollout.release_id) if rollout and rollout.state in WITH_TRAFFIC else None
    warm = rollouts.warm_champion(place.engine)
    fallback = _upstream(place, warm.release_id) if warm and champion else None
    # A release that comes back as a candidate answers nobody else's customers meanwhile.
    if fallback and ((rollout and rollout.release_id == fallback.release_id) or not is_ready(fallback)):
        fallback = None
    if champion is None or rollout is None or candidate is None:
        return Routes(champion, fallback=fallback)
    same = _fingerprint(place, champion) == _fingerprint(place, candidate)
    if rollout.state == "shadow":
        return Routes(champion, salt=rollout.rollout_id, shadow=candidate, fallback=fallback, same_features=same)
    stages = rollout.stages(place.limits.stages)
    stage = min(rollout.stage, len(stages) - 1)  # of an older rollout: the charter may have lost a stage meanwhile
    return Routes(champion, candidate, stages[stage], rollout.rollout_id, fallback=fallback, same_features=same)


def _place_of_routed(place: ReleasePlace, release_id: str) -> ReleasePlace:
    """With less patience for a candidate that requests are sent to already: the judge waits for this call's end."""
    routes = read_routes(place.home)
    routed = any(one is not None and one.release_id == release_id for one in (routes.canary, routes.shadow))
    return replace(place, ready_seconds=min(place.ready_seconds, ROUTED_SECONDS)) if routed else place


def _fingerprint(place: ReleasePlace, upstream: Upstream) -> str:
    return releases.read_release(place.engine, upstream.release_id).fingerprint


def release_state(home: Home, engine: sa.Engine) -> dict[str, Any]:
    """Who serves, by the route file, with what our state knows of them; `settled` is False where the two differ."""
    routes = read_routes(home)
    serving, rollout = rollouts.champion(engine), rollouts.open_rollout(engine)
    wanted = (serving.release_id if serving else None, _in_state(rollout, "shadow"), _in_state(rollout, "canary"))
    routed = tuple(one.release_id if one else None for one in (routes.champion, routes.shadow, routes.canary))
    return {
        "champion": _shown(engine, routes.champion, since=serving.closed_at if serving else None),
        "fallback": _shown(engine, routes.fallback),
        "shadow": _shown(engine, routes.shadow, since=rollout.opened_at if rollout else None),
        "canary": _shown(engine, routes.canary, since=rollout.opened_at if rollout else None,
                         share=routes.canary_share),
        "rollout": {"release_id": rollout.release_id, "state": rollout.state, "stage": rollout.stage,
                    "stage_since": rollout.stage_since, "who": rollout.who, "why": rollout.why} if rollout else None,
        "settled": wanted == routed,
    }


def _end_dead(place: ReleasePlace, rollout: RolloutRow, reason: str) -> None:
    if rollouts.close(place.engine, rollout, state="rolled back", reason=reason):
        record_end(place.engine, Decision("release", "rolled back", reason, {"rollout_id": rollout.rollout_id}),
                   subject=rollout.release_id)


def _keep_warm(place: ReleasePlace) -> None:
    """Have the champion before run. Nobody waits for it, it is routed once it is ready; and nothing else depends on it.

    After the routes: where its Bento or its environment is gone, a promotion and a rollback must not wait for it.
    """
    warm = rollouts.warm_champion(place.engine)
    try:
        if warm:
            run_release(place, warm.release_id)
    except ReleaseError as error:
        LOGGER.warning("%s is not kept warm: %s", warm.release_id if warm else None, error)


def _stop_unwanted(place: ReleasePlace) -> None:
    wanted = {row.release_id for row in (rollouts.champion(place.engine), rollouts.open_rollout(place.engine),
                                         rollouts.warm_champion(place.engine)) if row}
    running = programs(place.home)
    for release in releases.read_releases(place.engine):
        if release.release_id not in wanted:
            if program_name(release.release_id) in running:
                stop_program(place.home, program_name(release.release_id))
            if release.port is not None:
                releases.free_port(place.engine, release.release_id)


def _in_state(rollout: RolloutRow | None, state: str) -> str | None:
    return rollout.release_id if rollout and rollout.state == state else None


def _shown(engine: sa.Engine, upstream: Upstream | None, **more: Any) -> dict[str, Any] | None:
    if upstream is None:
        return None
    release = releases.read_release(engine, upstream.release_id)
    return {"release_id": release.release_id, "version": release.model_version, "auc": release.auc,
            "monthly_value": release.monthly_value, "as_of": release.as_of, "port": upstream.port, **more}


def _upstream(place: ReleasePlace, release_id: str) -> Upstream | None:
    port = releases.read_release(place.engine, release_id).port
    return Upstream(release_id, port) if port else None
