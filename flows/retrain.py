"""Retrain: act on a drift decision of the ledger, once. Started by the event that the monitor emits."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run

from flows.context import Context, open_context
from flows.release import release
from flows.releasing import held_back
from flows.train import train
from flows.verdict import concept_changed_at, must_wait
from models.decision import Decision
from models.errors import PlatformError, describe
from models.gates.retraining_check import Evidence
from models.training.fit import TrainingConfig
from tasks.home import Home
from tasks.locks import hold
from tasks.monitoring.events import refusal
from tasks.monitoring.retrainings import ONE_AT_A_TIME, end_unfinished, reason_of_release
from tasks.monitoring.why_page import publish_why
from tasks.state import LedgerRow, accept_decision, acted_on, read_decision, record_decision

SLOT_SECONDS = 10.0  # a retraining that holds the slot takes longer: who waits, waits in vain
ALIVE: Final = (StateType.RUNNING, StateType.CANCELLING)


@flow(name="retrain")
def retrain(decision_id: str) -> Decision:
    """Train now, and release the candidate if it wins, because drift decision `decision_id` says so.

    Refuses a decision that is unknown, expired, used, withdrawn by a later check, of another champion, answered by a
    later retraining, or not a retrain decision; and any of them in the cool-down and where the budget is used up.
    Answers `wait`, and leaves the decision open, while there are not two mature cuts after a change of the concept.
    """
    context = open_context()
    with ExitStack() as slot:
        busy = _take_slot(slot, context.home)
        if busy is None:
            end_unfinished(context.engine, context.as_of)
        found = read_decision(context.engine, decision_id)
        config = choose_window(found, context) if found else TrainingConfig()
        answer = accept_or_refuse(decision_id, found, config, busy, context)
        if answer.verdict == "accept":
            try:
                _train_and_release(decision_id, config, context, hypothesis=answer.reason)
            finally:
                publish_why(context.engine, context.charter, context.home)
    return answer


def choose_window(found: LedgerRow, context: Context) -> TrainingConfig:
    """After a change of the concept only cuts since then train, for older ones teach what is no longer so.

    Other drift asks for every cut there is: customers of another kind, who behave as such customers always did.
    """
    evidence = found.decision.evidence
    if evidence.get("kind") != "concept":
        return TrainingConfig()
    said = evidence.get("changed_since")
    changed = datetime.fromisoformat(str(said)) if said else concept_changed_at(context.engine, context.as_of)
    return TrainingConfig(window="new", not_before=changed) if changed else TrainingConfig()


def accept_or_refuse(
    decision_id: str, found: LedgerRow | None, config: TrainingConfig, busy: str | None, context: Context
) -> Decision:
    """The verdict, written to the ledger; accepting uses the decision up.

    Args:
        found: the decision, None where the ledger does not know it.
        busy: why the only slot cannot be had, or None: it is held.
    """
    engine, evidence = context.engine, {"decision_id": decision_id[:64]}
    fault = _fault(decision_id, found, busy, context)
    waiting = None if fault else must_wait(context, config)
    log = get_run_logger()
    if fault is None and waiting is None and found is not None:
        answer = Decision("retrain", "accept", f"retraining: {found.decision.reason}", {
            **evidence, "kind": found.decision.evidence.get("kind", "data"), "window": config.window,
            "not_before": f"{config.not_before:%Y-%m-%d}" if config.not_before else None})
        if accept_decision(engine, decision_id, answer, as_of=context.as_of, subject=found.subject,
                           flow_run_id=flow_run.id):
            log.info(answer.reason)
            return answer
        fault = "it was acted on before"
    if waiting is not None and found is not None:
        answer = Decision("retrain", "wait", f"no retraining yet for decision {decision_id[:64]!r}: {waiting.reason}", {
            **evidence, "waits_until": waiting.evidence["waits_until"],
            "changed_since": found.decision.evidence.get("changed_since")})
    else:
        answer = Decision("retrain", "refuse", f"no retraining for decision {decision_id[:64]!r}: {fault}", evidence)
    record_decision(engine, answer, as_of=context.as_of, subject=found.subject if found else None,
                    flow_run_id=flow_run.id)
    log.warning(answer.reason)
    return answer


def _fault(decision_id: str, found: LedgerRow | None, busy: str | None, context: Context) -> str | None:
    """Why the decision orders nothing now, or None."""
    if found is None:
        return "the ledger does not know it"
    if acted_on(context.engine, decision_id):
        return "it was acted on before"
    return refusal(found, context.engine, context.charter.drift, context.as_of) or busy


def _take_slot(stack: ExitStack, home: Home) -> str | None:
    """Hold the only slot until `stack` closes; None, or why it cannot be had.

    The deployment's own limit guards runs of that deployment only, Prefect's global one every run that it knows, and
    the lock of the home any process: Prefect keeps its leases in memory, and a server that starts again has none. What
    such a server still counts is a slot that nobody gives back: who holds the lock frees it, where no other run lives.
    """
    try:
        stack.enter_context(hold(home, ONE_AT_A_TIME, patience_seconds=SLOT_SECONDS))
        try:
            _hold_limit(stack)
        except TimeoutError:
            if not _free_left_slot():
                raise
            _hold_limit(stack)
    except TimeoutError:
        return f"another retraining is running (waited {SLOT_SECONDS:.0f} s)"
    except PlatformError:
        return f"another retraining is running in this home (waited {SLOT_SECONDS:.0f} s)"
    except Exception as error:  # fails closed: no limit, no server
        return f"cannot make sure that no other one is running: {describe(error)}"
    return None


def _hold_limit(stack: ExitStack) -> None:
    """Raises TimeoutError where the slot is taken."""
    stack.enter_context(concurrency(
        ONE_AT_A_TIME, timeout_seconds=SLOT_SECONDS, strict=True,
        raise_on_lease_renewal_failure=False,  # a lost lease must not kill a training that nothing else doubles
    ))


def _free_left_slot() -> bool:
    """Free the slot where Prefect knows no other run of this flow that lives; call it as holder of the home's lock.

    Returns:
        Whether it was freed.
    """
    with get_client(sync_client=True) as client:
        alive = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["retrain"])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ALIVE)))))
        if any(str(one.id) != str(flow_run.id) for one in alive):
            return False
        client.update_global_concurrency_limit(ONE_AT_A_TIME, GlobalConcurrencyLimitUpdate(active_slots=0))
    get_run_logger().warning("the slot of a retraining was taken by none that lives: freed")
    return True


def _train_and_release(decision_id: str, config: TrainingConfig, context: Context, *, hypothesis: str) -> None:
    """Train, and release what wins; how it ends stands in the ledger, once."""
    engine, as_of = context.engine, context.as_of
    try:
        promotion = train(as_of=as_of, config=config, hypothesis=hypothesis)
    except BaseException as error:  # that of Prefect which ends a cancelled run is no Exception
        _write_down(engine, as_of, decision_id, f"the retraining failed: {describe(error)}", evidence={"failed": 1})
        raise
    version = promotion.evidence.get("model_version")
    ended: Evidence = {"promotion": promotion.verdict, "window": config.window,
                                          "run_id": _text(promotion.evidence.get("run_id"))}
    if promotion.verdict == "wait":  # no cool-down: once there are enough cuts, the next check that asks is heard
        _write_down(engine, as_of, decision_id, f"retrained in vain, {promotion.reason}", evidence={"failed": 1})
    elif promotion.verdict != "promote":
        _write_down(engine, as_of, decision_id, f"retrained, and no model is released: {promotion.reason}", "done",
                    evidence=ended)
    else:
        _release(decision_id, int(str(version)), context, {**ended, "model_version": str(version)})


def _release(decision_id: str, version: int, context: Context, ended: Evidence) -> None:
    engine, as_of = context.engine, context.as_of
    why_not = held_back(engine, str(version))
    if why_not is not None:
        _write_down(engine, as_of, decision_id, f"retrained, but {why_not}", evidence=ended)
        return
    try:
        said = release(version=version, who="retrain", why=reason_of_release(decision_id), by_itself=True)
    except BaseException as error:
        _write_down(engine, as_of, decision_id, f"retrained, but version {version} was not released: {describe(error)}",
                    evidence=ended)
        raise
    _write_down(engine, as_of, decision_id, f"retrained, version {version}: {said.verdict}: {said.reason}", "done",
                evidence=ended)


def _write_down(
    engine: sa.Engine, as_of: datetime, decision_id: str, reason: str, verdict: str = "refuse", *,
    evidence: Evidence,
) -> None:
    """Add how it ended to the ledger; `failed` takes back the cool-down that accepting started."""
    decision = Decision("retrain", verdict, reason, {"decision_id": decision_id, **evidence})
    record_decision(engine, decision, as_of=as_of, flow_run_id=flow_run.id)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
