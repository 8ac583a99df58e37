"""Report stage. Reads a release's reference, what it scores now and the truth; writes Evidently's page and snapshot.

The verdict comes from `models.gates.drift`, over all rows. Evidently draws the same numbers, on a sample:
its own chi-square and its own bins are wrong for two samples (it takes the reference for the truth,
and one outlier stretches equal-width bins over everything), so each column gets a test of ours.
"""

from __future__ import annotations

import os
import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from models.errors import describe
from models.gates.drift import PREDICTION, ColumnDrift, DriftReport
from models.limits import DriftPolicy
from tasks.home import Home
from tasks.monitoring.release_files import read_reference, read_release
from tasks.monitoring.report_sample import REPORT_ROWS, drawable
from tasks.monitoring.report_sections import heading, missingness, performance, verdict
from tasks.monitoring.workspace import keep_snapshot

if TYPE_CHECKING:
    from tasks.monitoring.truth import TruthReport


@task(name="draw-drift-report", cache_policy=NO_CACHE)
def draw_report(
    report: DriftReport,
    payload: Path,
    current: pd.DataFrame,
    policy: DriftPolicy,
    to: Path,
    *,
    home: Home,
    truth: TruthReport | None,
    as_of: datetime,
) -> str | None:
    """Write Evidently's page (it opens offline) and keep its snapshot; returns None, or why there is no page.

    Columns that cannot be drawn (missing, empty, of another type) stand in its tables alone.

    Args:
        payload: the release's folder.
        to: the page.
        truth: what is known of the labels; None: none is mature yet.
        as_of: the check's date; a second check of the same date takes the place of the first.
    """
    try:
        to.unlink(missing_ok=True)  # an older page of the same date would pass for this one
        if all(column.test == "none" for column in report.columns):
            return f"nothing to draw: {report.problem or 'no column has values on both sides'}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Evidently's own, of libraries it calls
            run = _run(report, payload, current, policy, truth, as_of)
            _write_page(run, to)
            keep_snapshot(run, home, as_of)
    except Exception as error:  # the gate fails closed: no report is an alarm, not a detail
        get_run_logger().exception("the drift report failed")
        to.unlink(missing_ok=True)
        return f"the report failed: {describe(error)}"
    return None


def _run(
    report: DriftReport, payload: Path, current: pd.DataFrame, policy: DriftPolicy, truth: TruthReport | None,
    as_of: datetime,
) -> Any:
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report  # seconds and 200 MB, so only here
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset

    contract, _ = read_release(payload)
    reference = read_reference(payload)
    drawn = [column for column in report.columns if column.test != "none" and column.problem is None]
    names = [column.name for column in drawn]
    inputs = [name for name in names if name != PREDICTION]
    definition = DataDefinition(
        numerical_columns=[name for name in names if name not in contract.categorical],
        categorical_columns=[name for name in names if name in contract.categorical],
    )
    sides = [Dataset.from_pandas(side, data_definition=definition) for side in drawable(current, reference, names,
                                                                                       contract)]
    tests = {column.name: register_test(column, policy) for column in drawn}
    parts: list[Any] = [*verdict(report), heading(
        "Inputs", f"Distributions of {len(inputs)} features, at most {REPORT_ROWS:,} rows a side. Score and test are "
        "the verdict's, over all rows")]
    if inputs:
        any_column = 1 / len(inputs)  # one column that moved and matters is a drifted data set, on this page
        parts.append(DataDriftPreset(columns=inputs, per_column_method={name: tests[name] for name in inputs},
                                     drift_share=any_column))
    parts += missingness(report, reference, current, policy)
    parts.append(heading("Predictions", "The score itself: what the model says, over all rows"))
    if PREDICTION in names:
        parts.append(ValueDrift(column=PREDICTION, method=tests[PREDICTION]))
    parts += performance(truth)
    return Report(parts, include_tests=True).run(*sides, timestamp=as_of)


def register_test(column: ColumnDrift, policy: DriftPolicy) -> str:
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


def _write_page(run: Any, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    beside = to.with_name(f".{to.stem}.{os.getpid()}.html")
    beside.touch(mode=0o600)  # before anything stands in it
    try:
        run.save_html(str(beside))
        beside.rename(to)
    finally:
        beside.unlink(missing_ok=True)
