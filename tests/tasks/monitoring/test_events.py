"""The retrain event: what it carries, when it is emitted, and which recorded decisions still order a retraining."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from models.decision import Decision
from models.limits import DriftPolicy
from tasks.monitoring.events import emit_retrain_event, open_retrain_decisions, refusal
from tasks.monitoring.retrainings import last_retrain
from tasks.release import rollouts
from tasks.state import accept_decision, now, open_state, read_decision, record_decision
from tasks.tables import DECISIONS

POLICY = DriftPolicy()
MARCH = datetime(2025, 3, 1, tzinfo=UTC)
LATER = MARCH + timedelta(days=3)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    make_champion(engine, "churn:1")
    yield engine
    engine.dispose()


def make_champion(engine: sa.Engine, release_id: str) -> None:
    rollout = rollouts.open_new(engine, release_id=release_id, strategy="basic", who="t", why="t")
    assert rollouts.close(engine, rollout, state="champion", reason="t")


def record(engine: sa.Engine, verdict: str, as_of: datetime | None = MARCH, **evidence: str | int) -> str:
    gate = "retrain" if verdict in ("accept", "refuse") else "drift"
    return record_decision(engine, Decision(gate, verdict, "said so", evidence), as_of=as_of, subject="churn:1")


def refused(engine: sa.Engine, decision_id: str, now: datetime = MARCH) -> str | None:
    row = read_decision(engine, decision_id)
    assert row
    return refusal(row, engine, POLICY, now)


def test_a_retrain_decision_stays_open_until_it_is_used_or_expires(engine: sa.Engine) -> None:
    decision_id = record(engine, "retrain")
    in_time = MARCH + timedelta(days=POLICY.decision_valid_days)
    assert [row.decision_id for row in open_retrain_decisions(engine, POLICY, in_time)] == [decision_id]
    assert open_retrain_decisions(engine, POLICY, in_time + timedelta(days=1)) == []
    accept_decision(engine, decision_id, Decision("retrain", "accept", "go"), as_of=MARCH)
    assert open_retrain_decisions(engine, POLICY, in_time) == []


def test_the_newest_open_decision_comes_first(engine: sa.Engine) -> None:
    record(engine, "retrain")
    newest = record(engine, "retrain", MARCH + timedelta(days=5))
    assert open_retrain_decisions(engine, POLICY, MARCH + timedelta(days=5))[0].decision_id == newest


def test_an_expired_decision_is_refused_with_its_age(engine: sa.Engine) -> None:
    assert refused(engine, record(engine, "retrain"), MARCH + timedelta(days=32)) == (
        "it is 32 days old, valid for 31: wait for the next monitor run"
    )


@pytest.mark.parametrize("verdict", ["harmless", "nothing", "alarm", "accept"])
def test_any_other_verdict_orders_no_retraining(engine: sa.Engine, verdict: str) -> None:
    assert "not drift: retrain" in str(refused(engine, record(engine, verdict)))


def test_a_decision_without_a_date_is_refused(engine: sa.Engine) -> None:
    assert "age is unknown" in str(refused(engine, record(engine, "retrain", None)))


def test_a_decision_of_a_date_that_is_yet_to_come_is_refused(engine: sa.Engine) -> None:
    decision_id = record(engine, "retrain", MARCH + timedelta(days=3_650))
    assert refused(engine, decision_id) == "it is dated 2035-02-27, after now (2025-03-01)"
    assert open_retrain_decisions(engine, POLICY, MARCH) == []


@pytest.mark.parametrize("days", [0, 1, 20])
@pytest.mark.parametrize("verdict", ["nothing", "harmless", "alarm"])
def test_a_later_check_that_says_something_else_withdraws_the_order(
    engine: sa.Engine, verdict: str, days: int
) -> None:
    decision_id, later = record(engine, "retrain"), MARCH + timedelta(days=days)
    assert refused(engine, decision_id) is None
    record(engine, verdict, later)
    assert refused(engine, decision_id, later) == f"a later check (of {later:%Y-%m-%d}) says {verdict}"
    record(engine, "retrain", later)
    assert refused(engine, decision_id, later) is not None
    assert len(open_retrain_decisions(engine, POLICY, later)) == 1  # the new one


def test_later_checks_that_say_the_same_and_a_check_of_an_earlier_date_leave_the_order(engine: sa.Engine) -> None:
    decision_id = record(engine, "retrain")
    record(engine, "alarm", MARCH - timedelta(days=1))
    record(engine, "retrain", MARCH + timedelta(days=1))
    assert refused(engine, decision_id, MARCH + timedelta(days=1)) is None


def test_a_later_check_without_a_date_withdraws_the_order(engine: sa.Engine) -> None:
    decision_id = record(engine, "retrain")
    record(engine, "nothing", None)
    assert "says nothing" in str(refused(engine, decision_id))


def test_an_order_about_another_release_than_the_champion_is_refused(engine: sa.Engine) -> None:
    decision_id = record(engine, "retrain")
    make_champion(engine, "churn:2")
    assert refused(engine, decision_id) == "it is about churn:1, and champion is churn:2"


def test_a_retraining_answers_every_order_there_was_whatever_came_of_it(engine: sa.Engine) -> None:
    first, second = record(engine, "retrain"), record(engine, "retrain")
    record(engine, "accept", decision_id=first)
    assert last_retrain(engine) == MARCH
    assert refused(engine, second) == "a retraining was begun after it (at 2025-03-01)"
    record(engine, "refuse", decision_id=first, failed=1)
    assert last_retrain(engine) is None
    assert refused(engine, second) == "a retraining was begun after it (at 2025-03-01)"
    assert refused(engine, record(engine, "retrain")) is None


def test_an_order_of_a_date_before_the_last_retraining_is_refused(engine: sa.Engine) -> None:
    record(engine, "accept", MARCH, decision_id="other")
    late = record(engine, "retrain", MARCH - timedelta(days=3))
    assert refused(engine, late) == "a retraining was begun after it (at 2025-03-01)"


@pytest.mark.parametrize(("days", "said"), [
    (24, "retrained 24 days ago, cool-down 25 days"), (25, None)])
def test_the_cool_down_holds_for_whoever_asks(engine: sa.Engine, days: int, said: str | None) -> None:
    record(engine, "accept", decision_id="other")
    now = MARCH + timedelta(days=days)
    assert refused(engine, record(engine, "retrain", now), now) == said


@pytest.mark.parametrize(("days", "said"), [
    (28, "2 retrainings were begun in the last month, at most 2 (retrainings_a_month)"), (30, None)])
def test_the_budget_binds_though_each_retraining_failed(engine: sa.Engine, days: int, said: str | None) -> None:
    for day in (0, 1):
        tried = record(engine, "retrain", MARCH + timedelta(days=day))
        record(engine, "accept", MARCH + timedelta(days=day), decision_id=tried)
        record(engine, "refuse", MARCH + timedelta(days=day), decision_id=tried, failed=1)
    now = MARCH + timedelta(days=days)
    assert refused(engine, record(engine, "retrain", now), now) == said


def test_refusals_of_forged_events_do_not_push_a_retraining_out_of_sight(engine: sa.Engine) -> None:
    record(engine, "accept", decision_id="other")
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), [
            {"decision_id": str(number), "at": now(), "gate": "retrain", "as_of": MARCH.isoformat(),
             "reason": "unknown", "verdict": "refuse", "evidence": "{}"} for number in range(1_001)])
    assert "cool-down" in str(refused(engine, record(engine, "retrain", LATER), LATER))


def test_a_budget_of_none_begins_none(engine: sa.Engine) -> None:
    row = read_decision(engine, record(engine, "retrain"))
    assert row
    assert "at most 0" in str(refusal(row, engine, DriftPolicy(retrainings_a_month=0), MARCH))


def test_refusing_a_used_decision_again_does_not_end_the_cooldown(engine: sa.Engine) -> None:
    first = record(engine, "retrain")
    record(engine, "accept", decision_id=first)
    record(engine, "refuse", decision_id=first)
    assert last_retrain(engine) == MARCH


def test_without_a_server_no_event_is_emitted_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings({PREFECT_API_URL: None}), caplog.at_level(logging.WARNING), disable_run_logger():
        assert emit_retrain_event.fn("abc", charter_name="shop") is False
