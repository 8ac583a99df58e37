"""Decision stage. Reads the ledger, loads, quality and rollouts; writes the verdict of a check.

What it remembers is read by `tasks.monitoring.memory`; a memory that cannot be read is an alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from models.charter import Charter
from models.decision import Decision
from models.gates.drift import DriftReport
from models.gates.retraining import decide
from models.gates.retraining_check import GATE
from models.gates.signals import Signal
from models.limits import DriftPolicy
from tasks.data.quality import read_scorecards
from tasks.home import Home
from tasks.monitoring.alarms import latest, unanswered
from tasks.monitoring.memory import Labelled, recall
from tasks.state import last_load, record_decision
from tasks.state_store import cause_of


@task(name="decide", cache_policy=NO_CACHE)
def decide_and_record(
    report: DriftReport,
    signals: Sequence[Signal],
    page_fault: str | None,
    *,
    engine: sa.Engine,
    home: Home,
    charter: Charter,
    release_id: str | None,
    labelled: Labelled | Exception,
    as_of: datetime,
) -> tuple[Decision, str | None]:
    """Weigh this check with the earlier ones, and write the verdict to the ledger.

    Args:
        page_fault: why there is no report page, or None: without the page the verdict is an alarm.
        release_id: the release that was checked; flags of another one count for nothing, its reference is another.
        labelled: or why that cannot be read.

    Returns:
        The verdict, and why it could not be written, or None: it stands in the ledger. What could not be written is
        an alarm, whatever was found.
    """
    flag = bool(report.mattering) and report.problem is None
    memory = recall(engine, home, charter, release_id, labelled, flag=flag, now=as_of)
    decision = decide(
        replace(report, problem=report.problem or page_fault), signals, memory.earlier_flags, charter.drift,
        last_retrain=memory.last_retrain, retrainings=memory.retrainings, now=as_of, past=memory.past,
        owner=charter.owner,
    )
    decision = replace(decision, evidence={**decision.evidence, "release_id": release_id})
    try:
        record_decision(engine, decision, as_of=as_of, subject=release_id, flow_run_id=flow_run.id)
    except Exception as error:  # the alarm must reach somebody all the same
        fault = f"the verdict cannot be written to the ledger: {cause_of(error)}"
        get_run_logger().error("%s; it was: %s: %s", fault, decision.verdict, decision.reason)
        return _unwritten(decision, fault, charter), fault
    return decision, None


def judge_quality(engine: sa.Engine, policy: DriftPolicy, *, since: datetime | None, as_of: datetime) -> Signal:
    """Is what was loaded good enough for a difference to be drift?

    A batch refused is bad, whatever its date, until one of that date or a later one is accepted, as for an open alarm.

    Args:
        since: the check before this one; loads after it are judged, and the last one in any case.
    """
    load = last_load(engine)
    if load is None:
        return Signal("quality", "broken", "nothing was ever loaded, by our state")
    cards = [card for card in read_scorecards(engine) if card.as_of <= as_of]
    newest = cards[-1] if cards else None
    if newest is None or (load <= as_of and newest.as_of != load):
        return Signal("quality", "broken", f"the load of {load:%Y-%m-%d} has no scorecard")
    refused = max(unanswered(engine, "data"), key=latest, default=None)
    if refused is not None:
        return Signal("quality", "bad", f"the last batch was refused: {refused.decision.reason}")
    recent = [card for card in cards if card is newest or (since is not None and card.as_of > since)]
    judged = [(card.overall, card) for card in recent if card.overall is not None]
    if not judged:
        return Signal("quality", "waiting", f"no new rows to judge since {recent[0].as_of:%Y-%m-%d}")
    overall, card = min(judged, key=lambda pair: pair[0])
    evidence = {"overall": overall, "loads": len(recent)}
    text = f"{card.line}, as of {card.as_of:%Y-%m-%d}; at least {policy.least_quality:g} (least_quality)"
    return Signal("quality", "good" if overall >= policy.least_quality else "bad", text, evidence)


def _unwritten(decision: Decision, fault: str, charter: Charter) -> Decision:
    owner = charter.owner("platform")
    step = "Mend our state (disk, database server, locks), then run `monitor` again"
    reason = f"{fault}. What it found: {decision.verdict}: {decision.reason}. For the {owner}: {step}"
    return Decision(GATE, "alarm", reason, {**decision.evidence, "owner": owner, "step": step, "why": "memory"})
