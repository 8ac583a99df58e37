"""Monitoring stage. Reads a release's reference and what it scores now; writes artifacts.

What moved is measured by `models.gates.drift`, over all rows; what follows is `tasks.monitoring.decide`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

import pandas as pd
from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from models.decision import Decision
from models.errors import describe
from models.gates.drift import PREDICTION, ColumnDrift, DriftReport, assess_drift
from models.limits import DriftPolicy
from tasks.monitoring.release_files import read_reference, read_release, reference_worth

HEADER: Final = ["column", "test", "p", "PSI", "missing", "new levels", "importance", "verdict"]


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
        return assess_drift(read_reference(payload), current, contract, policy, importance,
                            worth=reference_worth(payload))
    except Exception as error:  # the gate fails closed: a crashed check is an alarm
        get_run_logger().exception("the drift check crashed")
        return DriftReport((), len(current), 0, f"the check crashed: {describe(error)}")


@task(name="publish-drift", cache_policy=NO_CACHE)
def publish_drift(decision: Decision, report: DriftReport, page: Path, as_of: datetime) -> None:
    """Show the verdict in the Prefect UI: a table of columns and, where there is one, the page's address."""
    create_markdown_artifact(
        drift_table(decision, report), key="drift", description=f"drift at {as_of:%Y-%m-%d}: {decision.verdict}"
    )
    if page.exists():
        create_link_artifact(page.as_uri(), link_text=page.name, key="drift-report", description=decision.reason)


def drift_table(decision: Decision, report: DriftReport) -> str:
    """The verdict and every column as Markdown: the prediction on its own, then the columns that moved most first."""
    rows = [["**prediction**", *row[1:]] if row[0] == PREDICTION else row for row in table_rows(report)]
    lines = [f"**{decision.verdict}**: {decision.reason}", "", f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    return "\n".join(lines + [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows])


def table_rows(report: DriftReport) -> list[list[str]]:
    """The cells below `HEADER`: the prediction, what could not be judged, then the columns that moved most."""
    def order(column: ColumnDrift) -> tuple[bool, bool, bool, float]:
        return column.name != PREDICTION, not column.problem, not column.flagged, -column.psi

    return [[
        column.name, column.test, f"{column.p_value:.2g}", f"{column.psi:.4f}", f"{column.missing_change:+.1%}",
        f"{column.new_share:.1%}", _weight(column),
        column.problem or ("matters" if column.matters else "harmless" if column.flagged else ""),
    ] for column in sorted(report.columns, key=order)]


def _weight(column: ColumnDrift) -> str:
    if column.name == PREDICTION:
        return "counts in full"
    return "?" if column.importance is None else f"{column.importance:.1%}"
