"""Release: build and start a model version, give it customers stage by stage, promote it or roll it back.

Which steps are left is in our state, not in this process: killed anywhere, the next call goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.settings import REPO, load_place, load_settings
from models.charter import Charter
from models.decision import Decision
from models.errors import PipelineError, PlatformError, ReleaseError
from models.go import judge_deployment
from tasks import rollouts
from tasks.clock import platform_now
from tasks.model_registry import fetch_payload, mirror_champion
from tasks.package import build_bento
from tasks.processes import supervisor_running
from tasks.release import (
    built_release,
    judge_canary,
    pass_smoke_test,
    refuse,
    register_built,
    roll_back,
    roll_back_canary,
    send_first_traffic,
    send_more_traffic,
    settle,
)
from tasks.release_process import ReleasePlace, smoke_test
from tasks.rollouts import RolloutRow
from tasks.state import open_state, record_decision

DEPLOYMENT = "release/release"
LOGGER = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@flow(name="release")
def release(
    version: int | None = None,
    who: str = "schedule",
    why: str = "advance the open rollout",
    strategy: Literal["basic", "canary"] | None = None,
) -> Decision:
    """Release a model version, or without one advance the open rollout by what the evidence allows.

    No flow waits for traffic: each call does what can be done now, and a schedule calls it while a
    rollout is open. `strategy` overrides the charter's.
    """
    charter, place = release_place()
    step(finish_what_was_begun)(place)
    if version is not None:
        release_id = step(package_version)(place, charter, version)
        rollouts.open_new(place.engine, release_id=release_id, strategy=strategy or charter.rollout.strategy,
                          who=who, why=why)
    rollout = rollouts.open_rollout(place.engine)
    decision = advance(place, charter, rollout) if rollout else nothing_open()
    step(mirror)(place, charter)
    return decision


def finish_what_was_begun(place: ReleasePlace) -> None:
    """Make the world what the state says, after a call that was killed. A champion that is down stops no release."""
    try:
        settle(place)
    except ReleaseError as error:
        get_run_logger().error("the champion is down: %s", error)


def advance(place: ReleasePlace, charter: Charter, rollout: RolloutRow) -> Decision:
    """All the steps that need no customer's request; then what the requests so far allow."""
    if rollout.state == "packaged":
        decision = record(place, charter, rollout, step(smoke_test)(place, rollout.release_id))
        if decision.verdict != "pass":
            return record(place, charter, rollout, step(refuse)(place, rollout, decision.reason))
        pass_smoke_test(place, rollout)
        rollout = rollouts.read_rollout(place.engine, rollout.rollout_id)
    if rollout.state == "smoke-tested":
        return record(place, charter, rollout, step(send_first_traffic)(place, rollout))
    decision = record(place, charter, rollout, step(judge_canary)(place, rollout))
    if decision.verdict == "roll back":
        return record(place, charter, rollout, step(roll_back_canary)(place, rollout, decision.reason))
    if decision.verdict == "advance":
        after = step(send_more_traffic)(place, rollout, decision)
        return after if after is decision else record(place, charter, rollout, after)
    return decision


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


def nothing_open() -> Decision:
    """What a call without a version answers where no rollout is under way."""
    return Decision("canary", "hold", "no rollout is open: nothing to advance")


def mirror(place: ReleasePlace, charter: Charter) -> None:
    """Let MLflow's alias and the schedule follow the state; both may lag, neither may stop a release."""
    mirror_champion(place.home, model_name=charter.name, version=champion_version(place))
    follow_schedule(place)


def champion_version(place: ReleasePlace) -> str | None:
    """The model version that serves, by our state."""
    serving = rollouts.champion(place.engine)
    return rollouts.read_release(place.engine, serving.release_id).model_version if serving else None


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


def record(place: ReleasePlace, charter: Charter, rollout: RolloutRow, decision: Decision) -> Decision:
    """Write a verdict to the ledger and the log, and what it means for the deployment where it ends the rollout."""
    for one in filter(None, (decision, judge_deployment(decision))):
        record_decision(place.engine, one, as_of=platform_now(place.engine, charter), subject=rollout.release_id,
                        flow_run_id=flow_run.id)
    get_run_logger().info("%s: %s: %s", decision.gate, decision.verdict, decision.reason)
    return decision


def step(work: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A Prefect task around work that runs without Prefect too. Not retried: our state says what is next."""
    return task(name=work.__name__.replace("_", "-"), cache_policy=NO_CACHE, persist_result=False)(work)


def release_place() -> tuple[Charter, ReleasePlace]:
    """The charter, and where its releases live."""
    settings = load_settings()
    charter, home = load_place(settings)
    return charter, ReleasePlace(home=home, engine=open_state(home.state_url), limits=charter.rollout, repo=REPO,
                                 first_port=settings.release_port)


def main(arguments: list[str] | None = None) -> int:
    """`make release` and `make rollback`; needs the running platform."""
    parser = argparse.ArgumentParser(prog="flows.release", description="Release a model version, or roll back.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--version", type=int, help="registered model version; without one the open rollout advances")
    what.add_argument("--rollback", action="store_true", help="end the open rollout, or bring back the champion before")
    parser.add_argument("--who", required=True, help="your name, for the ledger")
    parser.add_argument("--why", required=True, help="your reason, for the ledger")
    parser.add_argument("--strategy", choices=["basic", "canary"], help="instead of the charter's")
    given = parser.parse_args(arguments)
    try:
        charter, place = release_place()
        if not supervisor_running(place.home):
            raise PlatformError(f"cannot release: the platform of {place.home.root} does not run. Start it with "
                                "`make run`")
        if given.rollback:  # without Prefect's server: it must work when that does not
            decision = roll_back(place, who=given.who, why=given.why)
            serving = rollouts.champion(place.engine)  # what is live now is live because of this
            for one in filter(None, (decision, judge_deployment(decision))):
                record_decision(place.engine, one, as_of=platform_now(place.engine, charter),
                                subject=serving.release_id if serving else None)
            mirror_champion(place.home, model_name=charter.name, version=champion_version(place))
        else:
            decision = release(version=given.version, who=given.who, why=given.why, strategy=given.strategy)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{decision.gate}: {decision.verdict}: {decision.reason}")
    return 1 if decision.verdict == "refuse" else 0


if __name__ == "__main__":
    sys.exit(main())
