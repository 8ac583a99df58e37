"""Monitoring stage. Reads a release's reference and what it scores now; writes the report, the ledger, artifacts.

The verdict comes from `models.drift`, over all rows. Evidently draws the same numbers, on a sample:
its own chi-square and its own bins are wrong for two samples (it takes the reference for the truth,
and one outlier stretches equal-width bins over everything), so each column gets a test of ours.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy as sa
from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from models.charter import DriftPolicy
from models.contract import Contract
from models.decision import Decision
from models.drift import ColumnDrift, DriftReport, assess_drift, decide_retrain
from tasks.events import LOOK_BACK, last_retrain, one_line
from tasks.state import read_decisions, record_decision

REPORT_ROWS = 5_000  # a side, drawn by Evidently: more only make it slower


@task(name="measure-drift", cache_policy=NO_CACHE)
def measure_drift(payload: Path, current: pd.DataFrame, policy: DriftPolicy) -> DriftReport:
    """Compare what the release scores now with the reference it carries.

    Args:
        payload: the release's folder: `reference.parquet`, `contract.json`, `release.json`.
        current: eligible rows of the newest snapshot: the contract's features and `churn_probability`.

    Returns:
        The report; where anything fails, one that cannot be judged, and says why.
    """
    try:
        contract, importance = read_release(payload)
        return assess_drift(read_reference(payload), current, contract, policy, importance)
    except Exception as error:  # the gate fails closed: a crashed check is an alarm
        get_run_logger().exception("the drift check crashed")
        return DriftReport((), len(current), 0, f"the check crashed: {one_line(error)}")


def read_release(payload: Path) -> tuple[Contract, dict[str, float]]:
    """The contract a release was built for, and each feature's share of its importance."""
    contract = Contract.from_json((payload / "contract.json").read_text(encoding="utf-8"))
    return contract, json.loads((payload / "release.json").read_text(encoding="utf-8"))["importance"]


def read_reference(payload: Path) -> pd.DataFrame:
    """The rows a release learnt from, a sample: features and `churn_probability`."""
    return pd.read_parquet(payload / "reference.parquet")


@task(name="draw-drift-report", cache_policy=NO_CACHE)
def draw_drift_report(
    report: DriftReport, payload: Path, current: pd.DataFrame, policy: DriftPolicy, to: Path
) -> str | None:
    """Write Evidently's page (it opens offline); returns None, or why there is no page.

    Columns that cannot be drawn (missing, empty, of another type) are left out: they stand in the artifact.
    """
    to.unlink(missing_ok=True)  # an older page of the same date would pass for this one
    try:
        drawn = [column for column in report.columns if column.test != "none"]
        if not drawn:
            return f"nothing to draw: {report.problem or 'no column has values on both sides'}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Evidently's own, of libraries it calls
            _draw(drawn, read_reference(payload), current, read_release(payload)[0], policy, to)
    except Exception as error:  # the gate fails closed: no report is an alarm, not a detail
        get_run_logger().exception("the drift report failed")
        return f"the report failed: {one_line(error)}"
    return None


def _draw(
    columns: list[ColumnDrift],
    reference: pd.DataFrame,
    current: pd.DataFrame,
    contract: Contract,
    policy: DriftPolicy,
    to: Path,
) -> None:
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report  # seconds and 200 MB, so only here
    from evidently.presets import DataDriftPreset

    names = [column.name for column in columns]
    definition = DataDefinition(
        numerical_columns=[name for name in names if name not in contract.categorical],
        categorical_columns=[name for name in names if name in contract.categorical],
    )
    sides = [Dataset.from_pandas(_drawable(side[names]), data_definition=definition) for side in (current, reference)]
    tests = {column.name: _register_test(column, policy) for column in columns}
    any_column = 1 / len(names)  # one column that moved and matters is a drifted data set, on this page
    run = Report([DataDriftPreset(columns=names, per_column_method=tests, drift_share=any_column)]).run(*sides)
    to.parent.mkdir(parents=True, exist_ok=True)
    beside = to.with_name(f".{to.stem}.{os.getpid()}.html")
    beside.touch(mode=0o600)  # before anything stands in it
    run.save_html(str(beside))
    beside.rename(to)


def _drawable(side: pd.DataFrame) -> pd.DataFrame:
    """At most `REPORT_ROWS` rows; numbers as float with infinities left out (histograms cannot hold them)."""
    sample = side.sample(n=min(len(side), REPORT_ROWS), random_state=0)
    numeric = [name for name in sample.columns if not isinstance(sample[name].dropna().iloc[0], str)]
    return sample.assign(**{name: sample[name].astype(float).replace([np.inf, -np.inf], np.nan) for name in numeric})


def _register_test(column: ColumnDrift, policy: DriftPolicy) -> str:
    """Register this column's result as an Evidently test, so that its page shows the numbers of the verdict."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    name = f"churn:{column.name}"
    moved = f", missing {column.missing_change:+.1%}" if column.missing_change else ""
    moved += f", new levels {column.new_share:.1%}" if column.new_share else ""
    moved += ", moved but harmless" if column.flagged and not column.matters else ""
    test = StatTest(
        name=name,
        display_name=f"quantile PSI ({column.test} p = {column.p_value:.2g}{moved})",
        allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
        default_threshold=policy.least_psi,
    )
    register_stattest(test, lambda *_: (column.psi, column.matters))
    return name


@task(name="judge-drift", cache_policy=NO_CACHE)
def judge_drift(
    report: DriftReport,
    page_fault: str | None,
    *,
    engine: sa.Engine,
    policy: DriftPolicy,
    release_id: str | None,
    as_of: datetime,
) -> Decision:
    """Weigh this check with the earlier ones and write the verdict to the ledger.

    Args:
        page_fault: why there is no report page, or None: without the page the verdict is an alarm.
        release_id: the release that was checked; checks of another one count for nothing here, since its
            reference is another.
    """
    judged = replace(report, problem=report.problem or page_fault)
    decision = decide_retrain(
        judged, earlier_flags(engine, release_id, before=as_of), policy, last_retrain=last_retrain(engine), now=as_of
    )
    decision = replace(decision, evidence={**decision.evidence, "release_id": release_id})
    record_decision(engine, decision, as_of=as_of, subject=release_id, flow_run_id=flow_run.id)
    return decision


def earlier_flags(engine: sa.Engine, release_id: str | None, *, before: datetime) -> list[bool]:
    """Whether each earlier check of this release flagged, newest first.

    One entry a distinct day of `as_of`, its last verdict: repeating a check is no second check, and by
    wall time every run would be one.
    """
    rows = read_decisions(engine, gate="drift", subject=release_id, limit=LOOK_BACK)
    last = {
        datetime.fromisoformat(row.as_of).date(): row.decision.verdict in ("flag", "retrain")
        for row in reversed(rows)  # oldest first, so that the last verdict of a day stays
        if row.as_of
    }
    return [last[day] for day in sorted(last, reverse=True) if day < before.date()]


@task(name="publish-drift", cache_policy=NO_CACHE)
def publish_drift(decision: Decision, report: DriftReport, page: Path, as_of: datetime) -> None:
    """Show the verdict in the Prefect UI: a table of columns and, where there is one, the page's address."""
    create_markdown_artifact(
        drift_table(decision, report), key="drift", description=f"drift at {as_of:%Y-%m-%d}: {decision.verdict}"
    )
    if page.exists():
        create_link_artifact(page.as_uri(), link_text=page.name, key="drift-report", description=decision.reason)


def drift_table(decision: Decision, report: DriftReport) -> str:
    """The verdict and every column as Markdown, the ones that moved most first."""
    lines = [
        f"**{decision.verdict}**: {decision.reason}", "",
        "| column | test | p | PSI | missing | new levels | importance | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for column in sorted(report.columns, key=lambda one: (not one.problem, not one.flagged, -one.psi)):
        weight = "?" if column.importance is None else f"{column.importance:.1%}"
        verdict = column.problem or ("matters" if column.matters else "harmless" if column.flagged else "")
        lines.append(
            f"| {column.name} | {column.test} | {column.p_value:.2g} | {column.psi:.4f} | {column.missing_change:+.1%} "
            f"| {column.new_share:.1%} | {weight} | {verdict} |"
        )
    return "\n".join(lines)
