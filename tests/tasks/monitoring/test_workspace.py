"""Evidently's workspace: a snapshot a date, bounded, which its own reader and its UI understand."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.home import Home
from tasks.monitoring import workspace
from tasks.monitoring.workspace import keep_snapshot, old_snapshots, project_id, snapshot_id, workspace_folder

HOME = Home(Path("anywhere"), "shop")


def month(number: int, year: int = 2025) -> datetime:
    return datetime(year, number, 1, tzinfo=UTC)


def test_names_sort_by_date_and_are_the_same_for_the_same_check() -> None:
    dates = [month(12, 1997), month(1), month(2), month(10), month(1, 2040)]
    names = [str(snapshot_id(HOME, date)) for date in dates]
    assert names == sorted(names)
    assert str(snapshot_id(HOME, month(1))) == names[1]
    assert {snapshot_id(HOME, date).version for date in dates} == {7}


def test_two_charters_share_no_project_and_no_name() -> None:
    other = Home(Path("anywhere"), "other")
    assert project_id(HOME) != project_id(other)
    assert snapshot_id(HOME, month(1)) != snapshot_id(other, month(1))


def run_of(number: float, as_of: datetime) -> Any:
    from evidently import Dataset, Report

    from tasks.monitoring.evidently_metrics import Reading, Section

    rows = Dataset.from_pandas(pd.DataFrame({"a": [1.0, 2.0]}))
    parts = [Reading(name="prediction drift", number=number), Section(title="said", header=["a"], cells=[["1"]])]
    return Report(parts).run(rows, None, timestamp=as_of)


@pytest.mark.service  # Evidently takes seconds to import
def test_a_repeated_check_replaces_its_snapshot_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evidently.ui.workspace import Workspace

    monkeypatch.setattr(workspace, "KEEP", 3)
    home = Home(tmp_path, "shop")
    for number, at in enumerate([1, 2, 3, 4, 4]):
        path = keep_snapshot(run_of(float(number), month(at)), home, month(at))
    assert old_snapshots(home) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(workspace_folder(home).stat().st_mode) == 0o700
    own = Workspace(str(workspace_folder(home)))
    assert [project.name for project in own.list_projects()] == ["shop"]
    runs = [own.get_run(project_id(home), one) for one in sorted(own.list_runs(project_id(home)))]
    assert [run.timestamp for run in runs] == [month(2), month(3), month(4)]
    assert [next(iter(run.metric_results.values())).value for run in runs] == [1.0, 2.0, 4.0]
    assert sorted(path.name for path in path.parent.iterdir()) == sorted(f"{one}.json" for one in
                                                                         own.list_runs(project_id(home)))


@pytest.mark.service
def test_points_of_two_dates_are_one_line_of_the_dashboard(tmp_path: Path) -> None:
    """Evidently joins points whose metric and parameters are equal: the number must be none of them."""
    home = Home(tmp_path, "shop")
    paths = [keep_snapshot(run_of(float(at), month(at)), home, month(at)) for at in (1, 2)]
    params = [[result["metric_value_location"]["metric"]["params"] for result in
               json.loads(path.read_text())["metric_results"].values()] for path in paths]
    assert params[0] == params[1]
    assert {"type": "evidently:metric_v2:Reading", "name": "prediction drift"} in params[0]


@pytest.mark.service
def test_a_dashboard_somebody_changed_stays(tmp_path: Path) -> None:
    from evidently.sdk.models import DashboardModel
    from evidently.ui.workspace import Workspace

    home = Home(tmp_path, "shop")
    keep_snapshot(run_of(1.0, month(1)), home, month(1))
    own = Workspace(str(workspace_folder(home)))
    titles = [panel.title for panel in own.get_dashboard(project_id(home)).panels]
    assert titles == ["Share of drifted columns", "Prediction drift", "Missing values", "AUC", "Brier", "Value"]
    own.save_dashboard(project_id(home), DashboardModel(tabs=[], panels=[]))
    keep_snapshot(run_of(2.0, month(2)), home, month(2))
    assert own.get_dashboard(project_id(home)).panels == []
