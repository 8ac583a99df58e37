"""By hand, with who and why: the same as `make approve`, for the Prefect UI."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.approving import approve_now
from flows.release import release
from flows.releasing import release_place
from models.decision import Decision


@flow(name="approve")
def approve(version: int, who: str, why: str, reject: bool = False) -> Decision:
    """Release a version that waits for a person; the artifact `waits-for-approval` shows what speaks for it.

    Args:
        version: the one that waits.
        who: your name.
        why: your reason; both stand in the ledger.
        reject: turn it down instead.
    """
    charter, place = release_place()
    answer = approve_now(charter, place, version=version, who=who, why=why, reject=reject, run_id=flow_run.id)
    if answer.verdict != "approve":
        return answer
    opened: Decision = release(version=version, who=who, why=f"approved: {why}", by_itself=True)
    return opened
