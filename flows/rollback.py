"""By hand, with who and why: the same as `make rollback`, for the Prefect UI."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.releasing import release_place, roll_back_now
from models.decision import Decision


@flow(name="rollback")
def rollback(who: str, why: str, further: bool = False) -> Decision:
    """End the open rollout, or where none is open bring the previous champion back.

    Args:
        further: also just after another rollback: one champion further back.
    """
    charter, place = release_place()
    return roll_back_now(charter, place, who=who, why=why, further=further, run_id=flow_run.id)
