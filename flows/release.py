"""Release: build and start a model version, give it traffic stage by stage, promote it or roll it back.

Which steps are left is in our state, not in this process: killed anywhere, the next call goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.approving import evidence_page, permission
from flows.releasing import (
    by_hand,
    finish_what_was_begun,
    mirror_alias,
    record,
    release_place,
    rolled_back_before,
)
from models.charter import Charter
from models.decision import Decision
from tasks.release import releases, rollouts
from tasks.release.approval import use
from tasks.release.looks import look
from tasks.release.model_registry import fetch_payload
from tasks.release.package import build_bento
from tasks.release.release_process import ReleasePlace, smoke_test
from tasks.release.rollouts import RolloutRow, Strategy
from tasks.release.settle import apply_routes
from tasks.release.steps import (
    built_release,
    pass_smoke_test,
    refuse,
    register_built,
    roll_back_canary,
    send_first_traffic,
    send_more_traffic,
)

DEPLOYMENT = "release/release"
LOGGER = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@flow(name="release")
def release(
    version: int | None = None,
    who: str = "schedule",
    why: str = "advance the open rollout",
    strategy: Strategy | None = None,
    by_itself: bool = False,
) -> Decision:
    """Release a model version, or without one advance the open rollout by what the evidence allows.

    No flow waits for traffic: each call does what can be done now, and a schedule calls it while a
    rollout is open. `strategy` overrides the charter's; `by_itself` (the loop calls, no person) refuses a model
    that was rolled back before, and below maturity 3 one that nobody approved waits.
    """
    charter, place = release_place()
    step(finish_what_was_begun)(place)
    if version is not None:
        release_id = step(package_version)(place, charter, version)
        answer = (not_again(place, release_id) or permission(place, release_id)) if by_itself else None
        if isinstance(answer, Decision):
            return not_now(place, charter, answer, release_id)
        rollouts.open_new(place.engine, release_id=release_id, strategy=strategy or charter.rollout.strategy,
                          who=who, why=why, along=partial(use, approval=answer) if answer else None)
    rollout = rollouts.open_rollout(place.engine)
    decision = advance(place, charter, rollout) if rollout else nothing_open()
    step(mirror)(place, charter)
    return decision


def advance(place: ReleasePlace, charter: Charter, rollout: RolloutRow) -> Decision:
    """All the steps that need no customer's request; then what the requests so far allow."""
    if rollout.state == "packaged":
        decision = written(place, charter, rollout, step(smoke_test)(place, rollout.release_id))
        if decision.verdict != "pass":
            return written(place, charter, rollout, step(refuse)(place, rollout, decision.reason))
        pass_smoke_test(place, rollout)
        rollout = rollouts.read_rollout(place.engine, rollout.rollout_id)
    if rollout.state in ("packaged", "smoke-tested"):
        return waiting(rollout) if rollout.paused_at else written(
            place, charter, rollout, step(send_first_traffic)(place, rollout))
    decision = written(place, charter, rollout, step(look)(place, rollout))
    rollouts.touch_look(place.engine, rollout.rollout_id)
    if decision.verdict == "roll back":
        return written(place, charter, rollout, step(roll_back_canary)(place, rollout, decision.reason))
    if decision.verdict == "advance" and not rollout.paused_at:
        after = step(send_more_traffic)(place, rollout, decision)
        return after if after is decision else written(place, charter, rollout, after)
    return waiting(rollout) if rollout.paused_at else decision


def package_version(place: ReleasePlace, charter: Charter, version: int) -> str:
    """The Bento of a registered model version; built now unless it was before. Returns its tag.

    Raises:
        ReleaseError: a rollout is open, the version is the champion already, or there is none.
    """
    built = built_release(place, version)
    if built:
        return built
    payload = fetch_payload(place.home, model_name=charter.name, version=version)
    release_id = build_bento(payload, home=place.home, repo=place.repo)
    return register_built(place, release_id, payload)


def not_again(place: ReleasePlace, release_id: str) -> Decision | None:
    """The loop's refusal of a model that was rolled back when it was last tried, whatever its version is called now."""
    one = releases.read_release(place.engine, release_id)
    why = rolled_back_before(place.engine, one)
    return Decision("release", "refuse", f"version {one.model_version} is not released by itself: {why}. A person may: "
                    f"{by_hand(one.model_version)}") if why else None


def not_now(place: ReleasePlace, charter: Charter, refusal: Decision, release_id: str) -> Decision:
    """The answer that nothing was opened, in the ledger; one that waits for a person also as a page in the UI."""
    record(place, charter, refusal, subject=release_id, run_id=flow_run.id)
    if refusal.verdict == "wait":
        create_markdown_artifact(evidence_page(charter, place, refusal), key="waits-for-approval",
                                 description=f"version {refusal.evidence['model_version']} waits for a person")
    return refusal


def nothing_open() -> Decision:
    """What a call without a version answers where no rollout is under way."""
    return Decision("canary", "hold", "no rollout is open: nothing to advance")


def waiting(rollout: RolloutRow) -> Decision:
    """What a call answers where the rollout is paused and not harmful."""
    gate = "shadow" if rollout.state == "shadow" else "canary"
    return Decision(gate, "hold", f"{rollout.release_id} is paused since {rollout.paused_at} by {rollout.paused_by}: "
                    f"{rollout.paused_why}. `make resume` lets it go on")


def mirror(place: ReleasePlace, charter: Charter) -> None:
    """Let fallback, MLflow's alias and the schedule follow; each may lag, none may stop a release."""
    apply_routes(place)
    mirror_alias(place, charter)
    follow_schedule(place)


def follow_schedule(place: ReleasePlace) -> bool:
    """Have the schedules of the release deployment call it while a rollout is open, and only then.

    Call it after `prefect deploy` too, which writes prefect.yaml's `active: false`. False where there is
    no such deployment or no server: then somebody calls by hand.
    """
    from prefect.client.orchestration import get_client

    active = rollouts.open_rollout(place.engine) is not None
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
            for schedule in deployment.schedules:
                if schedule.active != active:
                    client.update_deployment_schedule(deployment.id, schedule.id, active=active)
    except Exception as error:  # httpx, httpcore and Prefect each have a tree of their own
        LOGGER.info("the schedule of %s was not switched: %s", DEPLOYMENT, type(error).__name__)
        return False
    return True


def written(place: ReleasePlace, charter: Charter, rollout: RolloutRow, decision: Decision) -> Decision:
    """A verdict, written to the ledger and the log."""
    get_run_logger().info("%s: %s: %s", decision.gate, decision.verdict, decision.reason)
    return record(place, charter, decision, subject=rollout.release_id, run_id=flow_run.id)


def step(work: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A Prefect task around work that runs without Prefect too. Not retried: our state says what is next."""
    return task(name=work.__name__.replace("_", "-"), cache_policy=NO_CACHE, persist_result=False)(work)
