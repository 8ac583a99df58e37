"""By hand, with who and why: the same as `make promote`, for the Prefect UI."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.releasing import promote_now, release_place
from models.decision import Decision


@flow(name="promote")
def promote(who: str, why: str) -> Decision:
    """The open rollout's release becomes champion without the judge, after its smoke test."""
    charter, place = release_place()
    return promote_now(charter, place, who=who, why=why, run_id=flow_run.id)
