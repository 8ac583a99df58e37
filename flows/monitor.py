"""Monitor: is what the champion says still right? Truth, drift, performance, concept, quality; then one decision."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.context import Context, open_context
from models.decision import Decision
from models.errors import ConfigError, PipelineError, PlatformError, describe
from models.gates.drift import DriftReport
from models.gates.retraining_check import GATE
from models.gates.signals import Signal
from tasks.clock import data_now
from tasks.data.lake import stamp
from tasks.monitoring.decide import decide_and_record, judge_quality
from tasks.monitoring.events import DRIFT_EVENT, emit_retrain_event, event_of, open_retrain_decisions
from tasks.monitoring.heartbeats import beat, note_signals
from tasks.monitoring.memory import previous_check
from tasks.monitoring.monitor import measure_drift, publish_drift
from tasks.monitoring.parts import Truth, follow, guarded, labelled, watch
from tasks.monitoring.report import draw_report
from tasks.monitoring.truth_page import publish_truth
from tasks.monitoring.waiting import due
from tasks.monitoring.why_page import publish_alarm, publish_decision, publish_why
from tasks.scoring.score import NO_CHAMPION_YET, Scored, awaits_first_champion, read_scored
from tasks.state import record_decision
from tasks.state_store import cause_of


@flow(name="monitor")
def monitor(as_of: datetime | None = None) -> Decision:
    """One check at `as_of`: nothing, harmless, retrain, or alarm a person; recorded with its evidence, and shown.

    A retrain decision that nobody has acted on is asked for again, while every check since says the same.

    Raises:
        PlatformError: our state cannot be used; then the alarm stands in Prefect alone, an artifact and a failed run.
    """
    context = open_check(as_of)
    if before_first_champion(context):
        return say_nothing_yet(context)
    scored = read_what_is_scored(context)
    release_id = None if isinstance(scored, Exception) else scored.release_id
    truth = follow_truth(context)
    drift = find_drift(context, scored)
    page_faults = [draw_page(context, scored, drift, truth), show_truth(context, truth)]
    concept = watch_concept(context, scored)
    quality = guarded("quality", lambda: score_quality(context))
    signals = (truth.labels, truth.performance, concept, quality)
    decision, unwritten = decide_and_record(
        drift, signals, "; ".join(filter(None, page_faults)) or None, engine=context.engine, home=context.home,
        charter=context.charter, release_id=release_id, as_of=context.as_of,
        labelled=labelled(context.home, release_id, as_of=context.as_of),
    )
    publish(context, decision, drift)
    if unwritten:
        publish_alarm(decision.reason)
        raise PlatformError(decision.reason)
    ask_for_retraining(context, decision)
    say_done(context, signals)
    return decision


def open_check(as_of: datetime | None) -> Context:
    """What the check starts from. State that cannot be opened is an alarm that Prefect shows: the ledger cannot.

    Raises:
        ConfigError: `as_of` is after the last load, so nothing there is of that date.
    """
    try:
        context = open_context(as_of)
        loaded = data_now(context.engine, context.charter)
        if context.as_of > loaded:
            raise ConfigError(f"cannot check as of {context.as_of:%Y-%m-%d}: the last load is of {loaded:%Y-%m-%d}. "
                              "Ingest first, or leave as_of out")
        return context
    except PipelineError as error:
        publish_alarm(f"cannot check anything: {error}")
        raise


def before_first_champion(context: Context) -> bool:
    """Whether nothing is champion and nothing ever was; state that cannot be read says nothing of the kind."""
    try:
        return awaits_first_champion(context.home, context.engine)
    except Exception:
        get_run_logger().exception("whether there ever was a champion cannot be read")
        return False


def say_nothing_yet(context: Context) -> Decision:
    """The verdict while the first version is on its way, or waits for a person."""
    decision = Decision(GATE, "nothing", f"{NO_CHAMPION_YET}: nothing is checked", {"release_id": None, "flagged": 0})
    try:
        record_decision(context.engine, decision, as_of=context.as_of, flow_run_id=flow_run.id)
    except Exception as error:
        fault = f"the verdict cannot be written to the ledger: {cause_of(error)}"
        publish_alarm(fault)
        raise PlatformError(fault) from error
    publish_decision(decision, context.as_of)
    return decision


def read_what_is_scored(context: Context) -> Scored | Exception:
    """What the champion scores at `as_of`, or why there is nothing to check."""
    try:
        return read_scored(context.home, context.engine, context.as_of)
    except Exception as error:
        return error


def follow_truth(context: Context) -> Truth:
    """Predictions whose time has come are joined to what happened."""
    return follow(context.home, context.engine, context.charter, context.contract, as_of=context.as_of,
                  memory_limit=context.settings.memory_limit)


def find_drift(context: Context, scored: Scored | Exception) -> DriftReport:
    """What the champion sees against what it learnt; what cannot be compared is a problem."""
    if isinstance(scored, Exception):
        return DriftReport((), 0, 0, str(scored) if isinstance(scored, PipelineError) else describe(scored))
    return measure_drift(scored.payload, scored.current, context.charter.drift)


def draw_page(context: Context, scored: Scored | Exception, drift: DriftReport, truth: Truth) -> str | None:
    """The report of this check; returns why there is no page, or None."""
    if isinstance(scored, Exception):
        return None  # the problem stands in the report
    return draw_report(drift, scored.payload, scored.current, context.charter.drift, report_page(context),
                       home=context.home, truth=truth.report, as_of=context.as_of)


def show_truth(context: Context, truth: Truth) -> str | None:
    """Performance by date of prediction; returns why there is no page, or None."""
    if truth.report is None:
        return None  # the labels' signal is broken
    return publish_truth(truth.report, home=context.home, charter=context.charter, as_of=context.as_of)


def watch_concept(context: Context, scored: Scored | Exception) -> Signal:
    """Do customers behave otherwise than the champion learnt?"""
    if isinstance(scored, Exception):
        return Signal("concept", "waiting", "nothing is scored, so no release is watched")
    return watch(context.home, context.engine, context.charter, release_id=scored.release_id, payload=scored.payload,
                 as_of=context.as_of)


def score_quality(context: Context) -> Signal:
    """Are the data good enough for a difference to be drift?"""
    since = previous_check(context.engine, before=context.as_of)
    return judge_quality(context.engine, context.charter.drift, since=since, as_of=context.as_of)


def say_done(context: Context, signals: Sequence[Signal]) -> None:
    """What the metrics show, and the heartbeats: truth has been followed where its signals are not broken."""
    note_signals(context.engine, signals, as_of=context.as_of)
    if all(signal.state != "broken" for signal in signals if signal.name in ("labels", "performance")):
        beat(context.engine, "labels", as_of=context.as_of)
    beat(context.engine, "monitor", as_of=context.as_of)


def publish(context: Context, decision: Decision, drift: DriftReport) -> None:
    """Show the verdict with every column, and the page that says why there was a retraining, or none."""
    publish_drift(decision, drift, report_page(context), context.as_of)
    publish_decision(decision, context.as_of)
    publish_why(context.engine, context.charter, context.home)


def ask_for_retraining(context: Context, decision: Decision) -> None:
    """Emit the newest retrain decision that is still open and due: an event may be lost, the ledger is not.

    The newest stands for all: the others would train on the same day's data. After an alarm nothing is asked for.
    """
    if decision.verdict == "alarm":
        get_run_logger().info("no retraining is asked for: the check is an alarm")
        return
    now = data_now(context.engine, context.charter)
    try:
        waiting = due(context.engine, open_retrain_decisions(context.engine, context.charter.drift, now), now)
    except PipelineError as error:  # the check was an alarm for the same reason
        get_run_logger().error("no retraining is asked for: %s", error)
        return
    if waiting:
        emit_retrain_event(waiting[0].decision_id, charter_name=context.charter.name,
                           name=event_of(waiting[0]) or DRIFT_EVENT)
    else:
        get_run_logger().info("no retrain decision is open and due")


def report_page(context: Context) -> Path:
    """Where the page of a check lies."""
    return context.home.reports / f"drift-{stamp(context.as_of)}.html"
