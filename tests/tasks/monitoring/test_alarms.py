"""Which alarms are open: what a person has to hear of, until a verdict that knows as much says that it is well."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from flows.settings import REPO
from models.charter import load_charter
from models.decision import Decision
from tasks.monitoring.alarms import open_alarms
from tasks.monitoring.outbox import event_of, open_rows
from tasks.release import releases, rollouts
from tasks.state import open_state, read_decisions, record_decision

CHARTER = load_charter(REPO / "charter.yaml")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> sa.Engine:
    if request.param == "sqlite":
        return open_state(f"sqlite:///{tmp_path}/state.db")
    return open_state(request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://"))


def write(engine: sa.Engine, gate: str, verdict: str, month: int | None = 1, reason: str = "because",
          **evidence: str | int) -> None:
    record_decision(engine, Decision(gate, verdict, reason, evidence), subject="x",
                    as_of=datetime(2025, month, 1, tzinfo=UTC) if month else None)


def opened(engine: sa.Engine) -> list[tuple[str, str, str | None]]:
    return [(one.gate, one.verdict, one.as_of and one.as_of[:7]) for one in open_alarms(engine, CHARTER)]


def test_a_check_of_an_earlier_date_clears_no_alarm_and_one_of_the_same_date_does(engine: sa.Engine) -> None:
    write(engine, "drift", "alarm", 3)
    write(engine, "drift", "nothing", 2)  # somebody looks at February once more
    assert opened(engine) == [("drift", "alarm", "2025-03")]
    write(engine, "drift", "alarm", 2)
    assert opened(engine) == [("drift", "alarm", "2025-03")]
    write(engine, "drift", "harmless", 3)
    assert opened(engine) == []
    write(engine, "drift", "alarm", 2)
    assert opened(engine) == [("drift", "alarm", "2025-02")]
    write(engine, "drift", "nothing", 4)
    assert opened(engine) == []


def test_a_verdict_without_a_date_is_answered_by_the_next_one(engine: sa.Engine) -> None:
    write(engine, "release", "rolled back", None)
    assert opened(engine) == [("release", "rolled back", None)]
    write(engine, "release", "release", 1)
    assert opened(engine) == []
    write(engine, "release", "rolled back", 2)
    write(engine, "release", "release", None)
    assert opened(engine) == []


def test_a_verdict_without_a_date_is_of_when_it_was_written_and_hides_behind_no_older_one(engine: sa.Engine) -> None:
    """A rollback by the watchdog of a live source was not shown while any refusal of before was open."""
    write(engine, "release", "refuse", 1)
    write(engine, "release", "rolled back", None)
    assert opened(engine) == [("release", "rolled back", None)]


@pytest.mark.parametrize(("evidence", "alarm"), [
    ({"failed": 1}, True), ({"promotion": "promote", "model_version": "4"}, True), ({}, False),
    ({"promotion": "keep"}, False)])
def test_a_retraining_that_failed_or_whose_model_was_not_released_is_an_alarm_and_a_forged_one_is_none(
    engine: sa.Engine, evidence: dict[str, str | int], alarm: bool
) -> None:
    write(engine, "retrain", "refuse", decision_id="d", **evidence)
    [row] = read_decisions(engine)
    assert event_of(row) == ("churn.alarm.raised" if alarm else None)
    assert [one.decision_id for one in open_rows(engine, "event")] == [row.decision_id] * alarm
    assert opened(engine) == [("retrain", "refuse", "2025-01")] * alarm
    write(engine, "retrain", "refuse", 2, "the ledger does not know it", decision_id="forged")
    write(engine, "retrain", "wait", 2)
    assert opened(engine) == [("retrain", "refuse", "2025-01")] * alarm  # neither of them answers it
    write(engine, "retrain", "accept", 2)
    assert opened(engine) == []


def roll_out(engine: sa.Engine, version: str) -> rollouts.RolloutRow:
    """A rollout of a new release of a version."""
    releases.register_release(engine, release_id=f"churn:{version}", model_version=version, run_id="r", fingerprint="f",
                              as_of="2025-01-01", auc=0.7, monthly_value=1.0)
    return rollouts.open_new(engine, release_id=f"churn:{version}", strategy="canary", who="ada", why="by hand")


def test_a_retrained_version_that_waits_is_an_alarm_until_it_has_a_rollout(engine: sa.Engine) -> None:
    assert rollouts.close(engine, roll_out(engine, "1"), state="champion", reason="before it")
    write(engine, "retrain", "refuse", promotion="promote", model_version="2")
    assert opened(engine) == [("retrain", "refuse", "2025-01")]
    another = roll_out(engine, "3")
    assert rollouts.close(engine, another, state="rolled back", reason="no better")
    assert opened(engine) == [("retrain", "refuse", "2025-01")]
    rollout = roll_out(engine, "2")
    assert opened(engine) == []
    assert rollouts.close(engine, rollout, state="rolled back", reason="no better")
    assert opened(engine) == []  # how its rollout ended is another alarm


def test_a_retrained_version_that_waits_is_no_alarm_once_there_is_a_newer_champion(engine: sa.Engine) -> None:
    write(engine, "retrain", "refuse", reason="it failed", failed=1)
    write(engine, "retrain", "refuse", reason="version 2 waits", promotion="promote", model_version="2")
    rollout = roll_out(engine, "3")
    assert [one.reason for one in open_alarms(engine, CHARTER)] == ["version 2 waits"]
    assert rollouts.close(engine, rollout, state="champion", reason="by hand")
    assert [one.reason for one in open_alarms(engine, CHARTER)] == ["it failed"]  # a retraining answers that
    write(engine, "retrain", "done")
    write(engine, "retrain", "refuse", promotion="promote", model_version="4")
    assert opened(engine) == [("retrain", "refuse", "2025-01")]


def test_a_bake_that_recommends_to_roll_back_is_an_alarm_while_that_champion_bakes(engine: sa.Engine) -> None:
    for name in ("1", "2"):
        releases.register_release(engine, release_id=f"churn:{name}", model_version=name, run_id="r", fingerprint="f",
                                  as_of="2025-01-01", auc=0.7, monthly_value=1.0)
        rollout = rollouts.open_new(engine, release_id=f"churn:{name}", strategy="basic", who="ada", why="test")
        rollouts.close(engine, rollout, state="champion", reason="first")
    serving = rollouts.champion(engine)
    assert serving is not None
    write(engine, "bake", "roll back", rollout_id="another")
    assert opened(engine) == []
    write(engine, "bake", "roll back", rollout_id=serving.rollout_id)
    assert opened(engine) == [("bake", "roll back", "2025-01")]
    assert rollouts.bake(engine, serving, "kept by ada")
    assert opened(engine) == []
