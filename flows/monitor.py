"""Monitor: has what the champion sees moved away from what it learnt? Judges, shows, and asks for a retraining."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pandas as pd
import sqlalchemy as sa
from prefect import flow, get_run_logger

from flows.settings import load_place, load_settings
from models.charter import Charter
from models.decision import Decision
from models.drift import DriftReport
from models.errors import PipelineError
from tasks.clock import as_utc, data_now
from tasks.events import emit_retrain_event, open_retrain_decisions
from tasks.home import Home
from tasks.lake import stamp
from tasks.monitor import draw_drift_report, judge_drift, measure_drift, publish_drift
from tasks.score import read_scored
from tasks.state import open_state


@flow(name="monitor")
def monitor(as_of: datetime | None = None) -> Decision:
    """Compare what the champion scores at `as_of` with what it learnt, and say whether to ignore, flag or retrain.

    Every retrain decision that nobody has acted on is asked for again.
    """
    charter, home = load_place(load_settings())
    engine = open_state(home.state_url)
    as_of = as_utc(as_of) if as_of else data_now(engine, charter)
    try:
        scored = read_scored(home, engine, as_of)
    except PipelineError as error:
        report = DriftReport((), 0, 0, str(error))
        decision = judge_drift(report, None, engine=engine, policy=charter.drift, release_id=None, as_of=as_of)
    else:
        decision = check_drift(charter, home, engine, scored.release_id, scored.payload, scored.current, as_of)
    ask_for_retraining(charter, engine)
    return decision


def check_drift(
    charter: Charter,
    home: Home,
    engine: sa.Engine,
    release_id: str,
    payload: Path,
    current: pd.DataFrame,
    as_of: datetime,
) -> Decision:
    """One check of one release, recorded and shown; for use within a flow run.

    Args:
        payload: the release's folder, with `reference.parquet`, `contract.json` and `release.json`.
        current: eligible rows of the newest snapshot: the contract's features and `churn_probability`.
    """
    page = report_page(home, as_of)
    report = measure_drift(payload, current, charter.drift)
    fault = draw_drift_report(report, payload, current, charter.drift, page)
    decision = judge_drift(report, fault, engine=engine, policy=charter.drift, release_id=release_id, as_of=as_of)
    publish_drift(decision, report, page, as_of)
    return decision


def report_page(home: Home, as_of: datetime) -> Path:
    """Where the page of a check lies."""
    return home.reports / f"drift-{stamp(as_of)}.html"


def ask_for_retraining(charter: Charter, engine: sa.Engine) -> None:
    """Emit the newest retrain decision that is still open: an event may be lost, the ledger is not.

    The newest stands for all: the others would train on the same day's data.
    """
    waiting = open_retrain_decisions(engine, charter.drift, data_now(engine, charter))
    if waiting:
        emit_retrain_event(waiting[0].decision_id, charter_name=charter.name)
    else:
        get_run_logger().info("no retrain decision is open")
