"""The memory behind a decision: what it counts, and that memory which cannot be read is an alarm, on each engine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.decision import Decision
from models.gates.quality import Measure, Score, Scorecard
from models.gates.signals import Signal
from tasks.data.quality import record_scorecard
from tasks.monitoring.alarms import open_alarms
from tasks.monitoring.decide import judge_quality
from tasks.release import rollouts
from tasks.state import now, open_state, read_decisions, record_decision
from tasks.tables import DECISIONS, LOADS
from tests.decision_world import CHARTER, MOVED, STILL, check, decided, model, month, retrained

pytestmark = pytest.mark.usefixtures("no_run_logger")


@pytest.fixture
def engine(state_url: str) -> Iterator[sa.Engine]:
    engine = open_state.__wrapped__(state_url)
    yield engine
    engine.dispose()


def test_the_verdict_stands_in_the_ledger_with_what_it_rests_on(engine: sa.Engine) -> None:
    check(engine, STILL, month(1))
    check(engine, MOVED, month(2))
    row = read_decisions(engine, gate="drift")[0]
    assert (row.decision.verdict, row.subject, row.as_of) == ("harmless", "churn:1", month(2).isoformat())
    evidence = row.decision.evidence
    assert evidence["flagged_columns"] == evidence["mattering_columns"] == "weight"
    assert {"flags": 1, "checks": 2, "flagged": 1, "rows": 900, "budget_left": 2, "release_id": "churn:1",
            "performance": "good", "quality_reason": "fine"}.items() <= evidence.items()


def corrupt(column: str, value: str | None) -> Any:
    def do(engine: sa.Engine) -> None:
        with engine.begin() as connection:
            connection.execute(DECISIONS.update().where(DECISIONS.c.gate == "drift").values({column: value}))
    return do


def drop(table: str) -> Any:
    def do(engine: sa.Engine) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(f"DROP TABLE {table}"))
    return do


def corrupt_retraining(engine: sa.Engine) -> None:
    retrained(engine, month(1), "a")
    with engine.begin() as connection:
        connection.execute(DECISIONS.update().where(DECISIONS.c.gate == "retrain").values(evidence="{"))


@pytest.mark.parametrize(("harm", "said"), [
    (corrupt("evidence", "{broken"), "cannot read decision"), (corrupt("evidence", "[]"), "not an object"),
    (corrupt("evidence", "null"), "not an object"), (corrupt("as_of", "someday"), "someday"),
    (corrupt("as_of", None), "it has no as_of"), (corrupt("verdict", "perhaps"), "cannot say 'perhaps'"),
    (corrupt_retraining, "cannot read decision"), (drop("rollouts"), "rollouts"),
], ids=["no JSON", "a list", "null", "no date", "without a date", "no verdict", "a retraining", "no rollouts"])
def test_memory_that_cannot_be_read_is_an_alarm_that_is_written_down(engine: sa.Engine, harm: Any, said: str) -> None:
    check(engine, MOVED, month(1))
    harm(engine)
    decision, unwritten = decided(engine, MOVED, month(2))
    assert (decision.verdict, decision.evidence["owner"], unwritten) == ("alarm", "ML engineer", None)
    assert "the memory cannot be read" in decision.reason
    assert said in decision.reason
    with engine.connect() as connection:
        written = connection.execute(sa.select(DECISIONS.c.verdict).order_by(DECISIONS.c.at.desc())).scalars().first()
    assert written == "alarm"


def test_truth_that_cannot_be_read_is_an_alarm(engine: sa.Engine) -> None:
    decision = check(engine, STILL, month(1), labelled=OSError("no space"))
    assert (decision.verdict, "OSError: no space" in decision.reason) == ("alarm", True)


def test_a_ledger_that_is_gone_is_an_alarm_though_the_store_makes_a_new_one(state_url: str) -> None:
    """Opening makes the tables that lack; the champion that nobody promoted gives it away."""
    engine = open_state.__wrapped__(state_url)
    assert rollouts.close(engine, model(engine, "1"), state="champion", reason="t")
    assert check(engine, STILL, month(1)).verdict == "nothing"
    drop("decisions")(engine)
    engine.dispose()
    engine = open_state.__wrapped__(state_url)
    decision = check(engine, STILL, month(2))
    assert (decision.verdict, decision.evidence["owner"]) == ("alarm", "ML engineer")
    assert "churn:1 is live, and no verdict stands there that made it so" in decision.reason
    engine.dispose()


def test_a_ledger_that_is_away_is_an_alarm_and_says_that_it_stands_nowhere(engine: sa.Engine) -> None:
    check(engine, MOVED, month(1))
    drop("decisions")(engine)
    decision, fault = decided(engine, MOVED, month(2))
    assert decision.verdict == "alarm"
    assert fault is not None
    assert fault.startswith("the verdict cannot be written to the ledger: ")
    assert "What it found: alarm: the memory cannot be read" in decision.reason


def test_a_sqlite_store_that_another_process_has_locked_is_an_alarm(tmp_path: Path) -> None:
    engine = open_state.__wrapped__(f"sqlite:///{tmp_path}/state.db")
    check(engine, MOVED, month(1))
    sa.event.listen(engine, "checkout", lambda connection, *_: connection.execute("PRAGMA busy_timeout=50"))
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    decision, fault = decided(engine, MOVED, month(2))
    other.close()
    assert (decision.verdict, "database is locked" in (fault or "")) == ("alarm", True)
    assert "What it found: retrain: 2 of the last 3" in decision.reason
    assert [row.decision.verdict for row in read_decisions(engine, gate="drift")] == ["harmless"]


@pytest.mark.service
def test_a_database_server_that_is_away_is_an_alarm(postgres_url: str) -> None:
    from tasks.state_store import state_place

    engine = open_state.__wrapped__(state_place(postgres_url))
    check(engine, MOVED, month(1))
    server = sa.create_engine(state_place(postgres_url).rpartition("/")[0] + "/postgres", isolation_level="AUTOCOMMIT")
    name = postgres_url.rpartition("/")[2]
    with server.connect() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n"),
                           {"n": name})
    decision, fault = decided(engine, MOVED, month(2))
    server.dispose()
    assert (decision.verdict, decision.evidence["owner"]) == ("alarm", "ML engineer")
    assert "not currently accepting connections" in (fault or "")
    assert "the memory cannot be read" in decision.reason


def load(engine: sa.Engine, as_of: datetime, *, bad: int = 0, scorecard: bool = True, rows: int = 100) -> None:
    with engine.begin() as connection:
        connection.execute(LOADS.insert().values(as_of=as_of.isoformat(), at=now(), counts="{}", dataset_version="d"))
        if scorecard:
            measure = Measure("accuracy", "bad rows", bad / rows if rows else 0, "share", f"{bad} bad", 0.5)
            reasons = (("a reason", bad),) if bad else ()
            record_scorecard(connection, Scorecard(as_of, (
                Score("orders", "accuracy", rows, bad, reasons, (measure,)),)))


def quality(engine: sa.Engine, as_of: datetime, since: datetime | None = None) -> Signal:
    return judge_quality(engine, CHARTER.drift, since=since, as_of=as_of)


def test_quality_is_that_of_the_worst_load_since_the_check_before(engine: sa.Engine) -> None:
    load(engine, month(1), bad=20)
    load(engine, month(2), bad=5)
    load(engine, month(3))
    assert quality(engine, month(3)).state == "good"
    assert quality(engine, month(3), month(2)).state == "good"
    found = quality(engine, month(3), month(1) - timedelta(days=1))
    assert (found.state, found.evidence["overall"], found.evidence["loads"]) == ("bad", 0.8, 3)
    assert "0.800 overall: weakest accuracy of orders" in found.reason
    assert "at least 0.9 (least_quality)" in found.reason
    assert quality(engine, month(1)).state == "bad"  # what came later is not known then


def test_a_refused_batch_is_bad_quality_until_one_is_accepted(engine: sa.Engine) -> None:
    """Also for a check at the date of the last load, as the schedule makes it: the refusal carries a later one."""
    load(engine, month(1))
    record_decision(engine, Decision("data", "refuse", "60 % of the rows are bad"), as_of=month(2))
    for checked in (month(1), month(2)):
        found = quality(engine, checked)
        assert (found.state, found.reason) == ("bad", "the last batch was refused: 60 % of the rows are bad")
    record_decision(engine, Decision("data", "accept", "mended"), as_of=month(2))
    assert quality(engine, month(1)).state == quality(engine, month(2)).state == "good"


def test_a_refused_batch_is_bad_quality_as_long_as_it_is_an_open_alarm(engine: sa.Engine) -> None:
    """A re-drive, or a load of an earlier date, says nothing of it."""
    load(engine, month(1))
    record_decision(engine, Decision("data", "accept", "as it should be"), as_of=month(3))
    for refused in (2, 3):
        record_decision(engine, Decision("data", "refuse", f"month {refused}"), as_of=month(refused))
    for accepted, said in ((1, "month 3"), (2, "month 3"), (3, None)):
        record_decision(engine, Decision("data", "accept", "re-drove 0 quarantined rows"), as_of=month(accepted))
        found = quality(engine, month(1))
        assert (found.state, found.reason.removeprefix("the last batch was refused: ")) == (
            ("bad", said) if said else ("good", found.reason))
        assert [one.reason for one in open_alarms(engine, CHARTER)] == ([said] if said else [])


def test_no_load_and_a_load_without_its_scorecard_are_broken_and_no_new_rows_wait(engine: sa.Engine) -> None:
    assert quality(engine, month(1)).state == "broken"
    load(engine, month(1), rows=0)
    assert quality(engine, month(1)).state == "waiting"
    load(engine, month(2), scorecard=False)
    assert quality(engine, month(2)).reason == "the load of 2025-02-01 has no scorecard"


