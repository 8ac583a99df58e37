"""Retrain: act on a drift decision of the ledger, once. Started by the event that the monitor emits."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime

import sqlalchemy as sa
from prefect import flow, get_run_logger
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run

from flows.go import no_go_of
from flows.release import release
from flows.settings import load_place, load_settings
from flows.train import train
from models.charter import Charter
from models.decision import Decision
from tasks.clock import data_now
from tasks.events import one_line, refusal
from tasks.rollouts import open_rollout
from tasks.state import open_state, read_decision, record_decision, use_decision

ONE_AT_A_TIME = "retrain"  # Prefect's global concurrency limit, made when the platform starts
SLOT_SECONDS = 10.0  # a retraining that holds the slot takes longer: who waits, waits in vain


@flow(name="retrain")
def retrain(decision_id: str) -> Decision:
    """Train now, and release the candidate if it wins, because drift decision `decision_id` says so.

    Refuses a decision that is unknown, expired, used, overtaken by a later retraining, or not a retrain decision.
    """
    charter, home = load_place(load_settings())
    engine = open_state(home.state_url)
    as_of = data_now(engine, charter)
    with ExitStack() as slot:
        busy = _take_slot(slot)
        answer = accept_or_refuse(decision_id, busy, charter, engine, as_of)
        if answer.verdict == "accept":
            _train_and_release(decision_id, engine, as_of)
    return answer


def accept_or_refuse(
    decision_id: str, busy: str | None, charter: Charter, engine: sa.Engine, as_of: datetime
) -> Decision:
    """The verdict, written to the ledger; accepting uses the decision up.

    Args:
        busy: why the only slot cannot be had, or None: it is held.
        as_of: platform clock.
    """
    found = read_decision(engine, decision_id)
    fault = "the ledger does not know it" if found is None else refusal(found, engine, charter.drift, as_of) or busy
    if fault is None and not use_decision(engine, decision_id, flow_run_id=flow_run.id):
        fault = "it was acted on before"
    known = found.decision.reason if found else ""
    answer = Decision(
        "retrain",
        "refuse" if fault else "accept",
        f"no retraining for decision {decision_id[:64]!r}: {fault}" if fault else f"retraining: {known}",
        {"decision_id": decision_id[:64]},
    )
    record_decision(engine, answer, as_of=as_of, subject=found.subject if found else None, flow_run_id=flow_run.id)
    log = get_run_logger()
    (log.warning if fault else log.info)(answer.reason)
    return answer


def _take_slot(stack: ExitStack) -> str | None:
    """Hold the only slot until `stack` closes; None, or why it cannot be had.

    The deployment's own limit guards runs of that deployment only; this one also guards a call from a shell.
    """
    try:
        stack.enter_context(concurrency(
            ONE_AT_A_TIME, timeout_seconds=SLOT_SECONDS, strict=True,
            raise_on_lease_renewal_failure=False,  # a lost lease must not kill a training that nothing else doubles
        ))
    except TimeoutError:
        return f"another retraining is running (waited {SLOT_SECONDS:.0f} s)"
    except Exception as error:  # fails closed: no limit, no server
        return f"cannot make sure that no other one is running: {one_line(error)}"
    return None


def _train_and_release(decision_id: str, engine: sa.Engine, as_of: datetime) -> None:
    try:
        promotion = train(as_of=as_of)
    except Exception as error:
        _write_down(engine, as_of, decision_id, f"the retraining failed: {one_line(error)}", failed=1)
        raise
    if promotion.verdict == "wait":  # no cool-down: once there are enough cuts, the next check that asks is heard
        _write_down(engine, as_of, decision_id, f"retrained in vain, {promotion.reason}", failed=1)
    if promotion.verdict != "promote":
        return
    version = str(promotion.evidence["model_version"])
    refusal = no_go_of(engine, version)
    if refusal is not None:
        _write_down(engine, as_of, decision_id, f"retrained, but version {version} is not released by itself: "
                    f"{refusal}. A person may: make release VERSION={version}")
        return
    under_way = open_rollout(engine)
    if under_way is not None:
        _write_down(engine, as_of, decision_id, f"retrained, but version {version} waits: a rollout of "
                    f"{under_way.release_id} is open. When it ends: make release VERSION={version}")
        return
    try:
        release(version=int(version), who="retrain", why=f"drift decision {decision_id}")
    except Exception as error:
        _write_down(engine, as_of, decision_id, f"retrained, but version {version} was not released: {one_line(error)}")
        raise


def _write_down(engine: sa.Engine, as_of: datetime, decision_id: str, reason: str, **evidence: int) -> None:
    """Add what went wrong to the ledger; `failed=1` takes back the cool-down that accepting started."""
    decision = Decision("retrain", "refuse", reason, {"decision_id": decision_id, **evidence})
    record_decision(engine, decision, as_of=as_of, flow_run_id=flow_run.id)
