"""Who owns what stands where people look: beside an alarm, beside a verdict."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from deploy.local.release_by_hand import exit_code
from deploy.local.status import _last_decisions, _owner, _waits
from deploy.local.why import _designs, _line
from flows.settings import REPO
from models.charter import load_charter
from models.decision import Decision
from tasks.monitoring.alarms import open_alarms
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


def test_a_verdict_is_not_buried_under_a_day_of_the_judges_looks(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    record_decision(engine, Decision("drift", "alarm", "no labels", {}), as_of=None)
    for look in range(600):
        record_decision(engine, Decision("canary", "hold", f"look {look}", {}), as_of=None)
    assert [(row.decision.gate, row.decision.reason) for row in _last_decisions(engine)] == [
        ("canary", "look 599"), ("drift", "no labels")]


def test_who_waited_for_too_long_to_be_approved_waits_no_more(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    january = datetime(2025, 1, 1, tzinfo=UTC)
    for version, as_of in (("1", january), ("2", january + timedelta(days=20)), ("3", None)):
        record_decision(engine, Decision("release", "wait", "nobody approved it", {"model_version": version}),
                        as_of=as_of, subject=f"churn:{version}")
    shown = _waits(engine, january + timedelta(days=32))
    assert [(one["version"], one["command"]) for one in shown] == [("2", "make approve VERSION=2 WHO=name WHY=text")]


def test_an_alarm_of_a_check_names_who_is_called_until_a_later_check_is_well(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    january = datetime(2025, 1, 1, tzinfo=UTC)
    record_decision(engine, Decision("drift", "alarm", "the data is bad", {"owner": "data engineer"}), as_of=january)
    assert [one.line for one in open_alarms(engine, CHARTER)] == [
        "drift: alarm (as of 2025-01-01; owner: data engineer): the data is bad"]
    record_decision(engine, Decision("drift", "alarm", "of an older version", {}), as_of=january)
    assert "owner: data scientist" in open_alarms(engine, CHARTER)[0].line
    record_decision(engine, Decision("drift", "harmless", "1 of 3"), as_of=january)
    assert [one.line for one in open_alarms(engine, CHARTER)] == []


def test_a_command_by_hand_that_came_too_late_does_not_end_as_if_it_had_been_done():
    late = Decision("canary", "hold", "moved on by another call meanwhile", {})
    assert [exit_code(what, late) for what in ("rollback", "promote", "keep", "release")] == [1, 1, 1, 0]
    assert exit_code("release", Decision("release", "refuse", "golden rows differ", {})) == 1
    assert exit_code("rollback", Decision("release", "rolled back", "by ada", {})) == 0
