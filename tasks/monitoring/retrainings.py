"""What became of retrainings. Reads the ledger, rollouts and the lock of the home; writes down those that died.

A retraining begins with an `accept` and ends with a row that names the same decision. One that was killed writes no
such row; the kernel frees its lock, and whoever holds the lock next writes the end for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from models.decision import Decision
from models.errors import PlatformError
from models.gates.retraining_check import Evidence
from models.limits import DriftPolicy
from tasks.home import Home
from tasks.locks import hold
from tasks.release import releases, rollouts
from tasks.state import LedgerRow, read_decisions, record_decision

ONE_AT_A_TIME: Final = "retrain"  # the lock of the home that a retraining holds
MONTH: Final = timedelta(days=30)  # of the platform clock, that the budget of retrainings is for


def read_retrainings(engine: sa.Engine) -> list[LedgerRow]:
    """Every answer and end of a retraining, newest first: all, for each forged event adds a refusal."""
    return read_decisions(engine, gate="retrain", limit=None)


def when(row: LedgerRow) -> datetime:
    """Platform clock of a row. Raises PlatformError where a row that must have one has no date."""
    if row.as_of is None:
        raise PlatformError(f"cannot read decision {row.decision_id} of the ledger: it has no as_of. Restore our state "
                            "from a backup")
    return datetime.fromisoformat(row.as_of)


def accepted(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """The retrainings that were begun."""
    return [row for row in rows if row.decision.verdict == "accept"]


def begun_in_month(rows: Sequence[LedgerRow], now: datetime) -> list[LedgerRow]:
    """Those the budget at `now` counts, failed ones too."""
    return [row for row in accepted(rows) if when(row) > now - MONTH]


def failed(rows: Sequence[LedgerRow]) -> set[object]:
    """Decisions whose retraining gave nothing: it has cost budget, and starts no cool-down."""
    return {decision_of(row) for row in rows if row.decision.evidence.get("failed")}


def last_retrain(engine: sa.Engine) -> datetime | None:
    """`last_of` all retrainings there were."""
    return last_of(read_retrainings(engine))


def last_of(rows: Sequence[LedgerRow]) -> datetime | None:
    """Platform clock of the last accepted retraining that did not fail."""
    vain = failed(rows)
    return max((when(row) for row in accepted(rows) if decision_of(row) not in vain), default=None)


def no_room(rows: Sequence[LedgerRow], last: datetime | None, policy: DriftPolicy, now: datetime) -> str | None:
    """Why no retraining may begin at `now`, whoever asks: cool-down or budget; None: one may.

    Args:
        rows: of the gate `retrain`.
        last: see `last_retrain`.
    """
    if last is not None and now - last < timedelta(days=policy.cooldown_days):
        return f"retrained {(now - last) / timedelta(days=1):.0f} days ago, cool-down {policy.cooldown_days} days"
    begun = len(begun_in_month(rows, now))
    if begun >= policy.retrainings_a_month:
        return (f"{begun} retrainings were begun in the last month, at most {policy.retrainings_a_month} "
                "(retrainings_a_month)")
    return None


def end_the_dead(engine: sa.Engine, home: Home, as_of: datetime) -> None:
    """`end_unfinished`, unless a retraining runs: then there is nothing to end."""
    with ExitStack() as lock:
        try:
            lock.enter_context(hold(home, ONE_AT_A_TIME, patience_seconds=0))
        except PlatformError:
            return
        end_unfinished(engine, as_of)


def end_unfinished(engine: sa.Engine, as_of: datetime) -> None:
    """Write down the end of each retraining that has none. Call it as holder of the lock: then none of them runs.

    One whose rollout was opened is done: its model is judged like any other. Else it failed.
    """
    rows = read_retrainings(engine)
    for row in accepted(rows):
        if ends(rows, row):
            continue
        decision_id = str(decision_of(row))
        rollout = rollouts.opened_for(engine, reason_of_release(decision_id))
        evidence: Evidence = {"decision_id": decision_id}
        if rollout is None:
            verdict, reason = "refuse", "the retraining failed: its process ended before it did"
            evidence["failed"] = 1
        else:
            version = releases.read_release(engine, rollout.release_id).model_version
            verdict = "done"
            reason = f"retrained, version {version}: its process ended while {rollout.release_id} was released"
            evidence |= {"promotion": "promote", "model_version": version}
        record_decision(engine, Decision("retrain", verdict, reason, evidence), as_of=as_of,
                        flow_run_id=row.flow_run_id)


def reason_of_release(decision_id: str) -> str:
    """Why a retraining's rollout is opened: by it the rollout is found again."""
    return f"drift decision {decision_id}"


def ends(rows: Sequence[LedgerRow], begun: LedgerRow) -> list[LedgerRow]:
    """What says how a retraining ended; that its decision was refused later, as used, says nothing."""
    return [row for row in rows if decision_of(row) == decision_of(begun) and (
        row.decision.verdict == "done" or row.decision.evidence.get("model_version")
        or row.decision.evidence.get("failed"))]


def decision_of(row: LedgerRow) -> object:
    return row.decision.evidence.get("decision_id")
