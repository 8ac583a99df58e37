"""Who owns what stands where people look: beside an alarm, beside a verdict."""

from __future__ import annotations

from datetime import UTC, datetime

from deploy.local.status import _owner
from deploy.local.why import _designs, _line
from flows.settings import REPO
from models.charter import load_charter
from models.decision import Decision
from tasks.state import LedgerRow, open_state, read_decisions, record_decision

CHARTER = load_charter(REPO / "charter.yaml")


def test_a_flow_of_ours_has_an_owner_and_another_one_has_none():
    assert _owner(CHARTER, "train") == "data scientist"
    assert _owner(CHARTER, "somebody-elses") == "nobody named"


def test_a_verdict_is_shown_with_its_owner_and_the_run_that_reproduce_takes():
    found = _line(LedgerRow("d", "2025-01-02T03:04:05", "2025-01-01T00:00:00", Decision(
        "promotion", "promote", "better", {"run_id": "4cda7b"}), "1", None), CHARTER)
    assert found.endswith("as of 2025-01-01  promotion: promote (data scientist): better (run 4cda7b)")


def test_the_design_shown_is_that_of_the_run_though_another_training_of_the_day_went_on_beside_it(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    january = datetime(2025, 1, 1, tzinfo=UTC)
    runs = ("a" * 32, "b" * 32)
    for run in runs:
        record_decision(engine, Decision("go", "go", f"design: {run[0]}", {"stage": "design"}), as_of=january,
                        subject=f"as_of=2025-01-01,cuts=2024-05-01..2024-11-01,run={run[:12]}.parquet")
    for version, run in enumerate(runs, 1):
        record_decision(engine, Decision("promotion", "promote", "better", {"run_id": run}), as_of=january,
                        subject=str(version))
    for version, run in enumerate(runs, 1):
        (design,) = _designs(engine, read_decisions(engine, subject=str(version)))
        assert design.decision.reason == f"design: {run[0]}"
