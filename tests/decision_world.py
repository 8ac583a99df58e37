"""Checks, retrainings and models for the tests of a decision and of what it remembers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa

from flows.settings import REPO
from models.charter import load_charter
from models.decision import Decision
from models.gates.drift import ColumnDrift, DriftReport
from models.gates.retraining import NAMES
from models.gates.signals import Signal
from tasks.home import Home
from tasks.monitoring.decide import decide_and_record
from tasks.monitoring.memory import Labelled
from tasks.release import rollouts
from tasks.state import now, record_decision
from tasks.tables import METADATA

CHARTER = load_charter(REPO / "charter.yaml")
MOVED = DriftReport((ColumnDrift("weight", "KS", 0.0, 0.31, 0.0, 0.0, 0.24, flagged=True, matters=True),), 900, 900)
STILL = DriftReport((ColumnDrift("weight", "KS", 0.4, 0.001, 0.0, 0.0, 0.24),), 900, 900)
GOOD = tuple(Signal(name, "good", "fine") for name in NAMES)
BAD = (*(one for one in GOOD if one.name != "performance"), Signal("performance", "bad", "AUC 0.6 under 0.65"))


def month(number: int) -> datetime:
    return datetime(2025, number, 1, tzinfo=UTC)


def decided(engine: sa.Engine, report: DriftReport, as_of: datetime, *, fault: str | None = None,
            release_id: str = "churn:1", labelled: Labelled | Exception = Labelled(),  # noqa: B008  # frozen
            signals: Any = GOOD, home: Home | None = None) -> tuple[Decision, str | None]:
    """The verdict of one check, and why it is not written down; without `home` in a home where nobody trains."""
    with TemporaryDirectory() as folder:
        return decide_and_record.fn(report, signals, fault, engine=engine, home=home or Home(Path(folder), "shop"),
                                    charter=CHARTER, release_id=release_id, labelled=labelled, as_of=as_of)


def check(engine: sa.Engine, report: DriftReport, as_of: datetime, **given: Any) -> Decision:
    """The verdict of one check."""
    return decided(engine, report, as_of, **given)[0]


def retrained(engine: sa.Engine, as_of: datetime, decision_id: str, **end: Any) -> None:
    record_decision(engine, Decision("retrain", "accept", "go", {"decision_id": decision_id}), as_of=as_of)
    if end:
        verdict = "refuse" if end.get("failed") else "done"
        record_decision(engine, Decision("retrain", verdict, "ended", {"decision_id": decision_id, **end}), as_of=as_of)


def register(engine: sa.Engine, version: str) -> None:
    """A release of a version that won its gate; no rollout of it was opened."""
    with engine.begin() as connection:
        connection.execute(METADATA.tables["releases"].insert().values(
            release_id=f"churn:{version}", model_version=version, run_id="r", fingerprint="f", as_of="2025-01-01",
            auc=0.8, monthly_value=1.0, created_at=now()))
    record_decision(engine, Decision("promotion", "promote", "wins"), as_of=month(1), subject=version)


def model(engine: sa.Engine, version: str, why: str = "t") -> rollouts.RolloutRow:
    """A rollout of a new release of a version; the ledger knows of its promotion."""
    register(engine, version)
    return rollouts.open_new(engine, release_id=f"churn:{version}", strategy="basic", who="t", why=why)
