"""Evidently's workspace. Reads and writes `reports/evidently`: a project a charter, a snapshot a check.

Its own way to add a run makes up a new name each time and writes in place: a check that is repeated would stand
there twice, and its UI does not start beside a half-written file. So snapshots are named by their date.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tasks.home import Home

KEEP: Final = 60  # snapshots: five years of monthly checks, two months of daily ones; the UI holds all in memory
DRIFT_TAB, PERFORMANCE_TAB = "Drift", "Performance"


def workspace_folder(home: Home) -> Path:
    return home.reports / "evidently"


def project_id(home: Home) -> uuid.UUID:
    """Of the charter: the same for every check of it."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"churn:{home.name}")


def snapshot_id(home: Home, as_of: datetime) -> uuid.UUID:
    """Its first 48 bits are the check's date in milliseconds (RFC 9562, version 7), so names sort by date."""
    rest = hashlib.sha256(f"{home.name} {as_of.isoformat()}".encode()).digest()
    moment = int(as_of.timestamp() * 1000) << 80
    bits = moment | int.from_bytes(rest[:10], "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76  # version
    return uuid.UUID(int=bits & ~(0x3 << 62) | 0x2 << 62)  # variant


def keep_snapshot(run: Any, home: Home, as_of: datetime) -> Path:
    """Write a run's snapshot, in the place of one of the same date; drop the oldest beyond `KEEP`."""
    folder = workspace_folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    snapshots = _ensure_project(home) / "snapshots"
    snapshots.mkdir(exist_ok=True)
    path = snapshots / f"{snapshot_id(home, as_of)}.json"
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.touch(mode=0o600)
    try:
        beside.write_text(_dumped(run), encoding="utf-8")
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
    os.utime(path)  # a UI that runs sees a file change, not one renamed into its place
    for old in old_snapshots(home):
        old.unlink(missing_ok=True)
    return path


def _dumped(run: Any) -> str:
    """The snapshot with each picture once (600 kB, not 1.2 MB): as the page shows it, and not again at its metric."""
    from evidently.legacy.utils import NumpyEncoder

    held = run.dump_dict()
    for result in held["metric_results"].values():
        result["widget"] = []
    return json.dumps(held, cls=NumpyEncoder)


def old_snapshots(home: Home) -> list[Path]:
    """Snapshots beyond the newest `KEEP`, oldest first."""
    return sorted((workspace_folder(home) / str(project_id(home)) / "snapshots").glob("*.json"))[:-KEEP]


def _ensure_project(home: Home) -> Path:
    """The charter's project with its dashboard; one that is there is left as it is: somebody may have changed it."""
    from evidently.sdk.models import ProjectModel
    from evidently.ui.workspace import Workspace

    folder = workspace_folder(home) / str(project_id(home))
    if (folder / "metadata.json").exists() and any(folder.glob("dashboard*")):
        return folder
    project = Workspace(str(workspace_folder(home))).add_project(ProjectModel(
        id=project_id(home), name=home.name,
        description="Each check of the champion: what it scores now against what it learnt from"))
    for tab, panel in _panels():
        project.dashboard.add_panel(panel, tab=tab)
    return folder


def _panels() -> list[tuple[str, Any]]:
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel

    def panel(tab: str, title: str, said: str, *names: str) -> tuple[str, Any]:
        return tab, line_plot_panel(title=title, description=said, size="half", values=[
            PanelMetric(legend=name, metric="Reading", metric_labels={"name": name}) for name in names])

    return [
        panel(DRIFT_TAB, "Share of drifted columns", "features that moved and matter to the model",
              "share of drifted columns"),
        panel(DRIFT_TAB, "Prediction drift", "quantile PSI of the score against the release's reference",
              "prediction drift"),
        panel(DRIFT_TAB, "Missing values", "largest change of a column's missing share",
              "largest change of a missing share"),
        panel(PERFORMANCE_TAB, "AUC", "of the newest cohort with mature labels, by date of the check", "AUC"),
        panel(PERFORMANCE_TAB, "Brier", "of the same cohort; lower is better", "Brier"),
        panel(PERFORMANCE_TAB, "Value", "money the same cohort's top contacts realised a cut", "value"),
    ]
