"""By hand, with who and why: the same as `make resume`, for the Prefect UI."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.releasing import release_place, resume_now
from models.decision import Decision


@flow(name="resume")
def resume(who: str, why: str) -> Decision:
    """A paused rollout goes on; the pause does not count against its time."""
    charter, place = release_place()
    return resume_now(charter, place, who=who, why=why, run_id=flow_run.id)
