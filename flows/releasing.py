"""What the flows of a release share, and what a person does by hand; without Prefect: a rollback must not need it."""

from __future__ import annotations

import logging
from typing import Final

import sqlalchemy as sa

from flows.settings import REPO, load_place, load_settings
from models.charter import Charter
from models.decision import Decision
from models.errors import ConfigError, ReleaseError
from tasks.clock import platform_now
from tasks.monitoring.outbox import send_events
from tasks.release import releases, rollouts, steps
from tasks.release.endings import record_end
from tasks.release.model_registry import mirror_champion
from tasks.release.release_process import ReleasePlace, smoke_test
from tasks.release.routing import read_routes
from tasks.state import open_state, read_decisions, record_decision

LOGGER: Final = logging.getLogger(__name__)


def release_place() -> tuple[Charter, ReleasePlace]:
    """The charter, and where its releases live."""
    settings = load_settings()
    charter, home = load_place(settings)
    return charter, ReleasePlace(home=home, engine=open_state(home.state_url), limits=charter.rollout, repo=REPO,
                                 first_port=settings.release_port, workers=settings.release_workers)


def promote_now(charter: Charter, place: ReleasePlace, *, who: str, why: str, run_id: str | None = None) -> Decision:
    """The open rollout's release becomes champion without the judge; after its smoke test, which nobody skips.

    Raises:
        ReleaseError: no rollout is open.
        ConfigError: nobody is named, or no reason.
    """
    check_by_hand("promote", who, why)
    finish_what_was_begun(place)
    rollout = steps.open_for_promotion(place)
    if rollout.state == "packaged":
        smoke = record(place, charter, smoke_test(place, rollout.release_id), subject=rollout.release_id, run_id=run_id)
        if smoke.verdict != "pass":
            return record(place, charter, steps.refuse(place, rollout, smoke.reason), subject=rollout.release_id,
                          run_id=run_id)
    decision = record(place, charter, steps.promote_by_hand(place, rollout, who=who, why=why),
                      subject=rollout.release_id, run_id=run_id)
    mirror_alias(place, charter)
    return decision


def roll_back_now(
    charter: Charter, place: ReleasePlace, *, who: str, why: str, further: bool = False, run_id: str | None = None
) -> Decision:
    """End the open rollout, or where none is open bring the previous champion back.

    Needs our state, the route file and supervisor, nothing else; MLflow's alias follows if it can.

    Raises:
        ReleaseError: there is nothing to go back to, it does not become ready, or something was rolled back just now
            and `further` is not said.
        ConfigError: nobody is named, or no reason.
    """
    check_by_hand("roll back", who, why)
    decision = steps.roll_back(place, who=who, why=why, further=further)
    serving = rollouts.champion(place.engine)  # what is live now is live because of this
    record(place, charter, decision, subject=serving.release_id if serving else None, run_id=run_id)
    mirror_alias(place, charter)
    return decision


def pause_now(charter: Charter, place: ReleasePlace, *, who: str, why: str, run_id: str | None = None) -> Decision:
    """The open rollout stays where it is until `resume_now`.

    Raises:
        ReleaseError: no rollout is open, or it is paused already.
        ConfigError: nobody is named, or no reason.
    """
    check_by_hand("pause", who, why)
    return _record_open(charter, place, steps.pause(place, who=who, why=why), run_id)


def resume_now(charter: Charter, place: ReleasePlace, *, who: str, why: str, run_id: str | None = None) -> Decision:
    """A paused rollout goes on.

    Raises:
        ReleaseError: no rollout is open, or it is not paused.
        ConfigError: nobody is named, or no reason.
    """
    check_by_hand("resume", who, why)
    return _record_open(charter, place, steps.resume(place, who=who, why=why), run_id)


def check_by_hand(what: str, who: str, why: str) -> None:
    """Raises ConfigError where a person does not say who they are and why: the ledger has to."""
    missing = [name for name, given in (("who", who), ("why", why)) if not given.strip()]
    if missing:
        raise ConfigError(f"cannot {what}: {' and '.join(missing)} is empty. Give your name and your reason")


def finish_what_was_begun(place: ReleasePlace) -> None:
    """Make the world what the state says, after a call that was killed. A champion that is down stops no release."""
    try:
        steps.finish_what_was_begun(place)
    except ReleaseError as error:
        LOGGER.error("the champion is down: %s", error)


def record(
    place: ReleasePlace, charter: Charter, decision: Decision, *, subject: str | None, run_id: str | None = None
) -> Decision:
    """Write a verdict to the ledger; where it ends a rollout, once, with what that means for the deployment."""
    now = platform_now(place.engine, charter)
    if decision.gate == "release" and "rollout_id" in decision.evidence:
        record_end(place.engine, decision, subject=subject, as_of=now, flow_run_id=run_id)
    else:
        record_decision(place.engine, decision, as_of=now, subject=subject, flow_run_id=run_id)
    send_events(place.engine, charter_name=charter.name)  # after all is done; Prefect away costs nothing
    return decision


def mirror_alias(place: ReleasePlace, charter: Charter) -> None:
    """Let MLflow's alias follow the route file; it may lag behind what serves, never be ahead of it."""
    mirror_champion(place.home, model_name=charter.name, version=routed_version(place))


def routed_version(place: ReleasePlace) -> str | None:
    """The model version that serves, by the route file."""
    champion = read_routes(place.home).champion
    return releases.read_release(place.engine, champion.release_id).model_version if champion else None


def held_back(engine: sa.Engine, version: str) -> str | None:
    """Why a promoted model version is not released by itself now; None: release it.

    It needs a go of its development, one that was rolled back is not tried again, and one rollout runs at a time.
    A person may release each of them.
    """
    release = releases.release_of_version(engine, version)
    refusal = no_go_of(engine, version) or (rolled_back_before(engine, release) if release else None)
    if refusal is not None:
        return f"version {version} is not released by itself: {refusal}. A person may: {by_hand(version)}"
    under_way = rollouts.open_rollout(engine)
    if under_way is not None:
        return f"version {version} waits: a rollout of {under_way.release_id} is open. When it ends: {by_hand(version)}"
    return None


def no_go_of(engine: sa.Engine, version: str) -> str | None:
    """Why a version's development did not end with a go; None where it did. One without a verdict has none in its
    favour."""
    for row in read_decisions(engine, gate="go", subject=version):
        if row.decision.evidence.get("stage") == "development":
            return None if row.decision.verdict == "go" else row.decision.reason
    return f"version {version} has no go of its development in the ledger"


def rolled_back_before(engine: sa.Engine, release: releases.Release) -> str | None:
    """Whether the same model was rolled back when it was last tried, and why; None where not."""
    before = rollouts.rolled_back_twin(engine, release)
    return f"its model is that of {before.release_id}, which was rolled back ({before.reason})" if before else None


def by_hand(version: str) -> str:
    """The command by which a person releases a version."""
    return f"`make release VERSION={version} WHO=name WHY=text`"


def _record_open(charter: Charter, place: ReleasePlace, decision: Decision, run_id: str | None) -> Decision:
    rollout = rollouts.open_rollout(place.engine)
    return record(place, charter, decision, subject=rollout.release_id if rollout else None, run_id=run_id)
