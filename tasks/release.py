"""Release stage. Reads and writes our state, supervisor's programs and Envoy's routes; needs no Prefect and no MLflow.

Our state says what should be, `settle` makes the world so. Each step changes the state once, by
compare-and-set, then settles: killed anywhere, the next call goes on from the state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from models.canary import judge
from models.decision import Decision
from models.errors import PipelineError, ReleaseError
from models.go import judge_deployment
from tasks import package, rollouts
from tasks.evidence import log_size, read_evidence
from tasks.home import Home
from tasks.processes import programs, stop_program
from tasks.release_process import ReleasePlace, program_name, start_release
from tasks.rollouts import RolloutRow
from tasks.routing import Routes, Upstream, read_routes, routes_lock, set_routes
from tasks.state import read_clock, record_decision


def built_release(place: ReleasePlace, version: int) -> str | None:
    """The release built from a model version, or None where it must be built first.

    Raises:
        ReleaseError: it cannot be released now: a rollout is open, or it is the champion already.
    """
    release = rollouts.release_of_version(place.engine, str(version))
    rollout, serving = rollouts.open_rollout(place.engine), rollouts.champion(place.engine)
    if rollout:
        raise ReleaseError(f"cannot release version {version}: the rollout of {rollout.release_id} is open since "
                           f"{rollout.opened_at} ({rollout.state}, by {rollout.who}). Wait for its end or roll it back")
    if release and serving and serving.release_id == release.release_id:
        raise ReleaseError(f"cannot release version {version}: it is the champion already, since {serving.closed_at}")
    if release is None:
        return None
    try:
        package.bento_payload(place.home, release.release_id)
    except ReleaseError:  # its Bento was removed
        return None
    return release.release_id


def register_built(place: ReleasePlace, release_id: str, payload: Path) -> str:
    """Write a built Bento into our state, by what its payload says of itself."""
    about = json.loads((payload / "release.json").read_text(encoding="utf-8"))
    return rollouts.register_release(
        place.engine, release_id=release_id, model_version=str(about["model_version"]), run_id=about["run_id"],
        fingerprint=about["fingerprint"], as_of=about["as_of"], auc=float(about["auc"]),
        monthly_value=float(about["monthly_value"])).release_id


def pass_smoke_test(place: ReleasePlace, rollout: RolloutRow) -> bool:
    """packaged -> smoke-tested; False when somebody else moved it."""
    return rollouts.advance(place.engine, rollout, state="smoke-tested")


def send_first_traffic(place: ReleasePlace, rollout: RolloutRow) -> Decision:
    """smoke-tested -> canary at the first stage, or at once champion where the strategy is basic."""
    if rollout.strategy == "basic" or rollouts.champion(place.engine) is None:
        return promote(place, rollout, "basic strategy: golden rows passed, nobody to compare with or none asked for")
    moved = rollouts.advance(place.engine, rollout, state="canary", evidence={"log_byte": log_size(place.home)})
    settle(place)
    share = place.limits.stages[0]
    return (Decision("canary", "advance", f"{rollout.release_id} gets its first customers: {share:.0%} of them, the "
                     f"others stay with {rollout.champion_id}", {"share": share}) if moved else _overtaken(rollout))


def judge_canary(place: ReleasePlace, rollout: RolloutRow) -> Decision:
    """What the access log says about the present stage."""
    stage = min(rollout.stage, len(place.limits.stages) - 1)  # the charter may have lost a stage meanwhile
    evidence = read_evidence(place.home, rollout.rollout_id, place.limits.stages[:stage + 1],
                             canary_id=rollout.release_id, from_byte=int(rollout.evidence.get("log_byte", 0)))
    return judge(evidence.stages, place.limits, minutes_in_stage=rollout.minutes_in_stage, fault=evidence.fault)


def send_more_traffic(place: ReleasePlace, rollout: RolloutRow, decision: Decision) -> Decision:
    """The next stage, or after the last one everybody."""
    stage = rollout.stage + 1
    if stage >= len(place.limits.stages):
        return promote(place, rollout, decision.reason)
    moved = rollouts.advance(place.engine, rollout, state="canary", stage=stage)
    settle(place)
    return decision if moved else _overtaken(rollout)


def promote(place: ReleasePlace, rollout: RolloutRow, reason: str) -> Decision:
    """The rollout's release becomes champion; the one before it is stopped, its Bento and venv stay."""
    start_release(place, rollout.release_id)  # a champion that is not up would leave everybody without an answer
    before = rollouts.champion(place.engine)
    if not rollouts.close(place.engine, rollout, state="champion", reason=reason):
        return _overtaken(rollout)
    settle(place)
    after = f"{rollout.release_id} is champion, in place of {before.release_id if before else 'nobody'}"
    return Decision("release", "release", f"{after}: {reason}", {"rollout_id": rollout.rollout_id})


def refuse(place: ReleasePlace, rollout: RolloutRow, reason: str) -> Decision:
    """End a rollout that never got a customer."""
    if not rollouts.close(place.engine, rollout, state="rolled back", reason=reason):
        return _overtaken(rollout)
    settle(place)
    return Decision("release", "refuse", f"{rollout.release_id} is not released: {reason}",
                    {"rollout_id": rollout.rollout_id})


def roll_back_canary(place: ReleasePlace, rollout: RolloutRow, reason: str) -> Decision:
    """Everybody back to the champion, at once; then stop the canary."""
    if not rollouts.close(place.engine, rollout, state="rolled back", reason=reason):
        return _overtaken(rollout)
    apply_routes(place)
    try:
        settle(place)
    except PipelineError as error:  # what counts is done: nobody is sent to it any more
        reason = f"{reason} (its process may still run: {error})"
    return Decision("release", "rolled back", f"{rollout.release_id} is rolled back: {reason}",
                    {"rollout_id": rollout.rollout_id})


def roll_back(place: ReleasePlace, *, who: str, why: str) -> Decision:
    """By hand: end the open rollout, or where none is open bring the previous champion back.

    Raises:
        ReleaseError: there is nothing to go back to, or it does not become ready (then nothing changes).
    """
    rollout = rollouts.open_rollout(place.engine)
    if rollout:
        return roll_back_canary(place, rollout, f"by {who}: {why}")
    serving, previous = rollouts.champion(place.engine), rollouts.previous_champion(place.engine)
    if serving is None or previous is None:
        raise ReleaseError(f"cannot roll back: no rollout is open, and there is no champion before "
                           f"{serving.release_id if serving else 'the first one'}. Release another version")
    start_release(place, previous.release_id)
    if not rollouts.close(place.engine, serving, state="rolled back", reason=f"by {who}: {why}"):
        return _overtaken(serving)
    settle(place)
    return Decision("release", "rolled back", f"{previous.release_id} is champion again, {serving.release_id} is "
                    f"rolled back by {who}: {why}", {"rollout_id": serving.rollout_id})


def settle(place: ReleasePlace) -> Routes:
    """Make processes and routes what the state says: start what should run, route, then stop what should not.

    Also the way back after `make down`, and after a call that was killed. Changes nothing where all is well.

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
    if rollout and rollout.state == "canary":
        try:
            start_release(place, rollout.release_id)
        except ReleaseError as error:
            reason = f"the canary does not come up again: {error}"
            if rollouts.close(place.engine, rollout, state="rolled back", reason=reason):
                ended = Decision("release", "rolled back", reason)
                for one in filter(None, (ended, judge_deployment(ended))):
                    record_decision(place.engine, one, subject=rollout.release_id, as_of=read_clock(place.engine))
    routes = apply_routes(place)
    wanted = {row.release_id for row in (rollouts.champion(place.engine), rollouts.open_rollout(place.engine)) if row}
    running = programs(place.home)
    for release in rollouts.releases(place.engine):
        if release.release_id not in wanted:
            if program_name(release.release_id) in running:
                stop_program(place.home, program_name(release.release_id))
            if release.port is not None:
                rollouts.free_port(place.engine, release.release_id)
    if fault:
        raise fault
    return routes


def apply_routes(place: ReleasePlace) -> Routes:
    """Write the routes the state asks for. Needs neither supervisor nor Envoy: a file is enough."""
    with routes_lock(place.home):
        routes = wanted_routes(place)
        if read_routes(place.home) != routes:
            set_routes(place.home, routes)
    return routes


def wanted_routes(place: ReleasePlace) -> Routes:
    """Who should serve whom, by the state."""
    serving, rollout = rollouts.champion(place.engine), rollouts.open_rollout(place.engine)
    champion = _upstream(place, serving.release_id) if serving else None
    canary = _upstream(place, rollout.release_id) if rollout and rollout.state == "canary" else None
    if champion is None or rollout is None or canary is None:
        return Routes(champion)
    stage = min(rollout.stage, len(place.limits.stages) - 1)
    return Routes(champion, canary, place.limits.stages[stage], rollout.rollout_id)


def release_state(home: Home, engine: sa.Engine) -> dict[str, Any]:
    """Who serves, by the route file, with what our state knows of them; `settled` is False where the two differ."""
    routes = read_routes(home)
    serving, rollout = rollouts.champion(engine), rollouts.open_rollout(engine)
    canary = rollout if rollout and rollout.state == "canary" else None
    wanted = (serving.release_id if serving else None, canary.release_id if canary else None)
    routed = tuple(one.release_id if one else None for one in (routes.champion, routes.canary))
    return {
        "champion": _shown(engine, routes.champion, since=serving.closed_at if serving else None),
        "canary": _shown(engine, routes.canary, since=rollout.opened_at if rollout else None,
                         share=routes.canary_share),
        "rollout": {"release_id": rollout.release_id, "state": rollout.state, "stage": rollout.stage,
                    "stage_since": rollout.stage_since, "who": rollout.who, "why": rollout.why} if rollout else None,
        "settled": wanted == routed,
    }


def _shown(engine: sa.Engine, upstream: Upstream | None, **more: Any) -> dict[str, Any] | None:
    if upstream is None:
        return None
    release = rollouts.read_release(engine, upstream.release_id)
    return {"release_id": release.release_id, "version": release.model_version, "auc": release.auc,
            "monthly_value": release.monthly_value, "as_of": release.as_of, "port": upstream.port, **more}


def _upstream(place: ReleasePlace, release_id: str) -> Upstream | None:
    port = rollouts.read_release(place.engine, release_id).port
    return Upstream(release_id, port) if port else None


def _overtaken(rollout: RolloutRow) -> Decision:
    return Decision("canary", "hold", f"the rollout of {rollout.release_id} was moved on from {rollout.state!r} by "
                    "another call meanwhile; nothing done here")
