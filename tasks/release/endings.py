"""The end of a rollout in the ledger. Reads rollouts; writes decisions, each end once, whoever writes it first."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from models.decision import Decision
from tasks.release import rollouts
from tasks.release.rollouts import CHAMPION_STATES
from tasks.state import read_clock, record_decision


def record_end(
    engine: sa.Engine, decision: Decision, *, subject: str | None, as_of: datetime | None = None,
    flow_run_id: str | None = None,
) -> None:
    """Write how a rollout ended (gate `release`), and what that means for the deployment (gate `go`).

    Args:
        decision: names the rollout in its evidence; the same end a second time is not written again.
        as_of: platform clock; None: the simulated date of our state, if it has one.
    """
    from models.gates.go import judge_deployment  # brings numpy, which the watchdog needs only if it acts

    end = "released" if decision.verdict == "release" else "ended"
    for one in filter(None, (decision, judge_deployment(decision))):
        record_decision(engine, one, as_of=as_of or read_clock(engine), subject=subject, flow_run_id=flow_run_id,
                        decision_id=f"{decision.evidence['rollout_id']}-{end}-{one.gate}")


def record_missing_end(engine: sa.Engine) -> None:
    """The end of the last rollout, where a call was killed between our state and the ledger."""
    row = rollouts.last_ended(engine)
    if row is None or row.reason is None:
        return
    release = row.state in CHAMPION_STATES
    record_end(engine, Decision(
        "release", "release" if release else "rolled back",
        f"{row.release_id} is {'champion' if release else 'rolled back'}: {row.reason}",
        {"rollout_id": row.rollout_id}), subject=row.release_id)
