"""By hand, with who and why: the same as `make pause`, for the Prefect UI."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.releasing import pause_now, release_place
from models.decision import Decision


@flow(name="pause")
def pause(who: str, why: str) -> Decision:
    """The open rollout stays where it is: traffic as it is, nothing advances, its time stands still."""
    charter, place = release_place()
    return pause_now(charter, place, who=who, why=why, run_id=flow_run.id)
