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

from models.charter import DriftPolicy
from models.decision import Decision
from tasks.events import emit_retrain_event, last_retrain, open_retrain_decisions, refusal
from tasks.state import open_state, read_decision, record_decision, use_decision

POLICY = DriftPolicy()
MARCH = datetime(2025, 3, 1, tzinfo=UTC)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    yield engine
    engine.dispose()


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
    use_decision(engine, decision_id, flow_run_id=None)
    assert open_retrain_decisions(engine, POLICY, in_time) == []


def test_the_newest_open_decision_comes_first(engine: sa.Engine) -> None:
    record(engine, "retrain")
    newest = record(engine, "retrain", MARCH + timedelta(days=5))
    assert open_retrain_decisions(engine, POLICY, MARCH + timedelta(days=5))[0].decision_id == newest


def test_an_expired_decision_is_refused_with_its_age(engine: sa.Engine) -> None:
    assert refused(engine, record(engine, "retrain"), MARCH + timedelta(days=32)) == (
        "it is 32 days old, valid for 31: wait for the next monitor run"
    )


@pytest.mark.parametrize("verdict", ["flag", "ignore", "alarm", "accept"])
def test_any_other_verdict_orders_no_retraining(engine: sa.Engine, verdict: str) -> None:
    assert "not drift: retrain" in str(refused(engine, record(engine, verdict)))


def test_a_decision_without_a_date_is_refused(engine: sa.Engine) -> None:
    assert "age is unknown" in str(refused(engine, record(engine, "retrain", None)))


def test_a_later_check_of_the_same_date_withdraws_the_order(engine: sa.Engine) -> None:
    decision_id = record(engine, "retrain")
    assert refused(engine, decision_id) is None
    record(engine, "alarm")
    assert refused(engine, decision_id) == "a later check of the same date says alarm"


def test_a_retraining_since_then_withdraws_the_order_unless_it_failed(engine: sa.Engine) -> None:
    first, second = record(engine, "retrain"), record(engine, "retrain")
    record(engine, "accept", decision_id=first)
    assert last_retrain(engine) == MARCH
    assert refused(engine, second) == "a retraining at 2025-03-01 came after it"
    record(engine, "refuse", decision_id=first, failed=1)
    assert last_retrain(engine) is None
    assert refused(engine, second) is None


def test_refusing_a_used_decision_again_does_not_end_the_cooldown(engine: sa.Engine) -> None:
    first = record(engine, "retrain")
    record(engine, "accept", decision_id=first)
    record(engine, "refuse", decision_id=first)
    assert last_retrain(engine) == MARCH


def test_without_a_server_no_event_is_emitted_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings({PREFECT_API_URL: None}), caplog.at_level(logging.WARNING), disable_run_logger():
        assert emit_retrain_event.fn("abc", charter_name="shop") is False
