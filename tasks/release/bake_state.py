"""Where the bake stands, and its end. Reads and writes our state; scores nothing, so that `make status` is quick."""

from __future__ import annotations

import sqlalchemy as sa

from models.charter import Charter
from models.decision import Decision
from models.errors import ReleaseError
from tasks.clock import platform_now
from tasks.release import rollouts
from tasks.release.release_process import ReleasePlace
from tasks.release.rollouts import RolloutRow
from tasks.release.settle import settle
from tasks.state import LedgerRow, read_decisions, record_decision


def baking(engine: sa.Engine) -> RolloutRow | None:
    """The champion's rollout while it bakes: it is not baked yet, and there was a release before it."""
    serving = rollouts.champion(engine)
    return serving if serving and serving.state == "champion" and serving.champion_id else None


def verdicts(engine: sa.Engine, rollout: RolloutRow) -> list[LedgerRow]:
    """What was said of this rollout's bake, newest first."""
    return [row for row in read_decisions(engine, gate="bake", subject=rollout.release_id, limit=1000)
            if row.decision.evidence.get("rollout_id") == rollout.rollout_id]


def bake_line(engine: sa.Engine) -> str | None:
    """What the bake's last look said, with its date; None where nothing bakes."""
    rollout = baking(engine)
    if rollout is None:
        return None
    said = verdicts(engine, rollout)
    if not said:
        return f"{rollout.release_id} against {rollout.champion_id}: no look yet"
    return (f"{rollout.release_id} against {rollout.champion_id}: {said[0].decision.verdict}"
            f" (as of {(said[0].as_of or said[0].at)[:10]}): {said[0].decision.reason}")


def bake_alarm(engine: sa.Engine, charter: Charter) -> str | None:
    """The bake asks for a person: what it recommends and the command to type; None where it does not."""
    rollout = baking(engine)
    last = next(iter(verdicts(engine, rollout)), None) if rollout else None
    if rollout is None or last is None or not (
            last.decision.verdict == "roll back" or last.decision.evidence.get("overdue")):
        return None
    said = f"as of {(last.as_of or last.at)[:10]}; owner: {charter.owner('bake')}): {last.decision.reason}"
    back = f'`make rollback WHO=name WHY="the bake of {rollout.release_id}"`'
    if last.decision.verdict == "roll back":
        return f"bake: roll back is recommended ({said}. Back to {rollout.champion_id}: {back}"
    return (f"bake: no verdict ({said}. Keep {rollout.release_id}: `make keep WHO=name WHY=text`, or go back to "
            f"{rollout.champion_id}: {back}")


def end_bake(place: ReleasePlace, rollout: RolloutRow, reason: str) -> bool:
    """champion -> baked, and what came before it is stopped; False when somebody moved the rollout meanwhile.

    Raises:
        PipelineError: it is baked, and a process could not be started or stopped.
    """
    if not rollouts.bake(place.engine, rollout, reason):
        return False
    settle(place)
    return True


def keep_champion(charter: Charter, place: ReleasePlace, *, who: str, why: str) -> Decision:
    """By hand: the champion is baked, whatever its judge has said so far.

    Raises:
        ReleaseError: nothing bakes.
    """
    rollout = baking(place.engine)
    if rollout is None:
        serving = rollouts.champion(place.engine)
        raise ReleaseError("cannot keep: nothing bakes; " + (
            f"{serving.release_id} is {serving.state} since {serving.closed_at}" if serving else
            "no release is champion"))
    decision = Decision("bake", "baked", f"{rollout.release_id} is kept by {who}: {why}",
                        {"rollout_id": rollout.rollout_id, "previous_id": rollout.champion_id})
    if not end_bake(place, rollout, decision.reason):
        return Decision("bake", "hold", f"the rollout of {rollout.release_id} was moved meanwhile; nothing done here")
    record_decision(place.engine, decision, as_of=platform_now(place.engine, charter), subject=rollout.release_id)
    return decision
