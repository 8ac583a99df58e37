"""Release stage. The steps of a rollout, forward and back; needs no Prefect and no MLflow.

Each changes our state once, by compare-and-set, then makes processes and routes follow (`settle`): killed anywhere,
the next call goes on from the state.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from models.decision import Decision
from models.errors import PipelineError, ReleaseError
from tasks.release import package, releases, rollouts
from tasks.release.endings import record_missing_end
from tasks.release.release_process import ReleasePlace, start_release
from tasks.release.rollouts import RolloutRow
from tasks.release.routing import read_routes
from tasks.release.settle import WITH_TRAFFIC, apply_routes, settle

JUST_NOW: Final = timedelta(minutes=15)  # what was rolled back since then is most likely what a person means


def built_release(place: ReleasePlace, version: int) -> str | None:
    """The release built from a model version, or None where it must be built first.

    Raises:
        ReleaseError: it cannot be released now: a rollout is open, or it is the champion already.
    """
    release = releases.release_of_version(place.engine, str(version))
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
    return releases.register_release(
        place.engine, release_id=release_id, model_version=str(about["model_version"]), run_id=about["run_id"],
        fingerprint=about["fingerprint"], as_of=about["as_of"], auc=float(about["auc"]),
        monthly_value=float(about["monthly_value"])).release_id


def finish_what_was_begun(place: ReleasePlace) -> None:
    """Make the ledger and the world what the state says, after a call that was killed.

    Raises:
        ReleaseError: the champion does not become ready; all else is done.
    """
    record_missing_end(place.engine)
    settle(place)


def pass_smoke_test(place: ReleasePlace, rollout: RolloutRow) -> bool:
    """packaged -> smoke-tested; False when somebody else moved it."""
    return rollouts.advance(place.engine, rollout, state="smoke-tested")


def send_first_traffic(place: ReleasePlace, rollout: RolloutRow) -> Decision:
    """smoke-tested -> shadow, canary at the first stage, or at once champion, as the strategy says."""
    if rollout.strategy == "basic" or rollouts.champion(place.engine) is None:
        return promote(place, rollout, "basic strategy: golden rows passed, nobody to compare with or none asked for")
    if rollout.strategy == "shadow" or place.limits.shadow_first:
        return _enter(place, rollout, "shadow", f"{rollout.release_id} is a shadow: it gets a copy of every request, "
                      f"clients see {rollout.champion_id} only")
    return _first_customers(place, rollout)


def send_more_traffic(place: ReleasePlace, rollout: RolloutRow, decision: Decision) -> Decision:
    """What follows a judge's `advance`: the canary after the shadow, the stage after the stage, at last everybody."""
    if rollout.state == "shadow":
        if rollout.strategy == "shadow":
            return promote(place, rollout, decision.reason)
        return _first_customers(place, rollout)
    stage = rollout.stage + 1
    if stage >= len(rollout.stages(place.limits.stages)):
        return promote(place, rollout, decision.reason)
    moved = rollouts.advance(place.engine, rollout, state="canary", stage=stage)
    settle(place)
    return decision if moved else _overtaken(rollout)


def promote(place: ReleasePlace, rollout: RolloutRow, reason: str) -> Decision:
    """The rollout's release becomes champion; the one before it stays warm until this one is baked."""
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
    """Everybody back to the champion, at once; then stop the candidate, a canary or a shadow."""
    if not rollouts.close(place.engine, rollout, state="rolled back", reason=reason):
        return _overtaken(rollout)
    apply_routes(place)
    try:
        settle(place)
    except PipelineError as error:  # what counts is done: nobody is sent to it any more
        reason = f"{reason} (its process may still run: {error})"
    return Decision("release", "rolled back", f"{rollout.release_id} is rolled back: {reason}",
                    {"rollout_id": rollout.rollout_id})


def roll_back(place: ReleasePlace, *, who: str, why: str, further: bool = False) -> Decision:
    """By hand: end the open rollout, or where none is open bring the previous champion back.

    A rollback that was killed before the routes followed is finished, and nothing else is rolled back; nor by the same
    command (who and why) typed again.

    Args:
        further: also where something was rolled back `JUST_NOW`, so that the champion is not what was meant.

    Raises:
        ReleaseError: there is nothing to go back to, it does not become ready, or something was rolled back just now
            (then nothing changes).
    """
    rollout = rollouts.open_rollout(place.engine)
    ended = rollouts.last_ended(place.engine)  # after it: what the judge ends meanwhile is seen here
    if rollout:
        return roll_back_canary(place, rollout, f"by {who}: {why}")
    if ended and ended.state == "rolled back" and _routed(place, ended.release_id):
        settle(place)
        return Decision("release", "rolled back", f"{ended.release_id} is rolled back, begun by a call that was "
                        f"killed: {ended.reason}", {"rollout_id": ended.rollout_id})
    if ended and ended.state == "rolled back" and ended.reason == f"by {who}: {why}":
        return Decision("release", "rolled back", f"{ended.release_id} is rolled back since {ended.closed_at} "
                        f"{ended.reason}. To go back further, say FURTHER=1 and give another reason",
                        {"rollout_id": ended.rollout_id})
    serving, previous = rollouts.champion(place.engine), rollouts.previous_champion(place.engine)
    if serving is None or previous is None:
        raise ReleaseError(f"cannot roll back: no rollout is open, and there is no champion before "
                           f"{serving.release_id if serving else 'the first one'}. Release another version")
    if ended and ended.state == "rolled back" and not further and _just_now(ended):
        by = str(ended.reason) if str(ended.reason).startswith("by ") else f"by the platform: {ended.reason}"
        raise ReleaseError(f"cannot roll back {serving.release_id}, which serves now: {ended.release_id} was rolled "
                           f"back already, at {ended.closed_at}, {by}. To go one champion further back, to "
                           f"{previous.release_id}: `make rollback FURTHER=1 WHO={who} WHY=text`")
    start_release(place, previous.release_id)
    if not rollouts.close(place.engine, serving, state="rolled back", reason=f"by {who}: {why}"):
        return _overtaken(serving)
    settle(place)
    return Decision("release", "rolled back", f"{previous.release_id} is champion again, {serving.release_id} is "
                    f"rolled back by {who}: {why}", {"rollout_id": serving.rollout_id})


def pause(place: ReleasePlace, *, who: str, why: str) -> Decision:
    """By hand: the open rollout stays where it is, and its time stands still. A harmful one is still rolled back.

    Raises:
        ReleaseError: no rollout is open, or it is paused already.
    """
    rollout = _open_for(place, "pause")
    if rollout.paused_at:
        raise ReleaseError(f"cannot pause the rollout of {rollout.release_id}: it is paused since {rollout.paused_at} "
                           f"by {rollout.paused_by}: {rollout.paused_why}. `make resume` lets it go on")
    if not rollouts.pause(place.engine, rollout, who=who, why=why):
        return _overtaken(rollout)
    return Decision("pause", "paused", f"{rollout.release_id} stays {_where(rollout)}, by {who}: {why}",
                    {"rollout_id": rollout.rollout_id})


def resume(place: ReleasePlace, *, who: str, why: str) -> Decision:
    """By hand: a paused rollout goes on; the pause does not count against its time.

    Raises:
        ReleaseError: no rollout is open, or it is not paused.
    """
    rollout = _open_for(place, "resume")
    if not rollout.paused_at:
        raise ReleaseError(f"cannot resume the rollout of {rollout.release_id}: it is not paused, it is "
                           f"{_where(rollout)}. `make status` shows its last look")
    if not rollouts.resume(place.engine, rollout):
        return _overtaken(rollout)
    return Decision("pause", "resumed", f"{rollout.release_id} goes on as {_where(rollout)}, by {who}: {why}",
                    {"rollout_id": rollout.rollout_id})


def promote_by_hand(place: ReleasePlace, rollout: RolloutRow, *, who: str, why: str) -> Decision:
    """By hand: a rollout that has passed its smoke test, paused or not, becomes champion without the judge."""
    return promote(place, rollout, f"promoted from {_where(rollout)} by {who}: {why}")


def open_for_promotion(place: ReleasePlace) -> RolloutRow:
    """The open rollout.

    Raises:
        ReleaseError: none is open.
    """
    return _open_for(place, "promote")


def _open_for(place: ReleasePlace, what: str) -> RolloutRow:
    rollout = rollouts.open_rollout(place.engine)
    if rollout is None:
        serving = rollouts.champion(place.engine)
        raise ReleaseError(f"cannot {what}: no rollout is open; " + (
            f"{serving.release_id} is champion since {serving.closed_at}" if serving else "nothing was released yet")
            + ". Open one with `make release VERSION=...`")
    return rollout


def _first_customers(place: ReleasePlace, rollout: RolloutRow) -> Decision:
    share = place.limits.stages[0]
    return _enter(place, rollout, "canary", f"{rollout.release_id} gets its first customers: {share:.0%} of them, the "
                  f"others stay with {rollout.champion_id}", share=share)


def _enter(place: ReleasePlace, rollout: RolloutRow, state: str, reason: str, **evidence: float) -> Decision:
    from tasks.release.router_lines import opening_evidence  # brings numpy, which the watchdog does without

    opening = {**opening_evidence(place.home), "stages": place.limits.stages}  # the charter may change meanwhile
    moved = rollouts.advance(place.engine, rollout, state=state, evidence=opening)
    settle(place)
    if not moved:
        return _overtaken(rollout)
    after = rollouts.read_rollout(place.engine, rollout.rollout_id)
    if after.state == "rolled back":
        return Decision("release", "rolled back", str(after.reason), {"rollout_id": after.rollout_id})
    return Decision(state, "advance", reason, evidence)


def _routed(place: ReleasePlace, release_id: str) -> bool:
    routes = read_routes(place.home)
    return any(one is not None and one.release_id == release_id
               for one in (routes.champion, routes.canary, routes.shadow))


def _just_now(ended: RolloutRow) -> bool:
    return datetime.now(UTC) - datetime.fromisoformat(str(ended.closed_at)) < JUST_NOW


def _where(rollout: RolloutRow) -> str:
    return f"canary at stage {rollout.stage + 1}" if rollout.state == "canary" else rollout.state


def _overtaken(rollout: RolloutRow) -> Decision:
    gate = rollout.state if rollout.state in WITH_TRAFFIC else "canary"
    return Decision(gate, "hold", f"the rollout of {rollout.release_id} was moved on from {rollout.state!r} by "
                    "another call meanwhile, or is paused; nothing done here")
