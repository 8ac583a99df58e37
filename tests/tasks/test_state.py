from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from models.decision import Decision
from models.errors import ConfigError, PlatformError, ReleaseError
from tasks.home import Home
from tasks.release import rollouts
from tasks.state import accept_decision, acted_on, open_state, read_decisions, record_decision
from tasks.state_store import claim_state, state_place

MARCH = datetime(2025, 3, 1, tzinfo=UTC)


def test_a_state_that_cannot_be_read_is_refused_and_never_taken_for_an_empty_one(tmp_path):
    (tmp_path / "state.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(PlatformError, match=r"cannot use our state at .*state\.db: file is not a database"):
        open_state(f"sqlite:///{tmp_path}/state.db")


def test_a_server_that_is_away_is_named_without_its_password():
    url = state_place("postgresql://ada:secret@127.0.0.1:9/churn")
    with pytest.raises(PlatformError, match=r"our state at postgresql\+psycopg://127.0.0.1:9/churn: ") as error:
        open_state(url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", ["mysql://ada:secret@host/churn", "postgresql://ada:secret@host", "state.db"])
def test_what_is_no_database_of_postgresql_is_refused_without_its_password(given):
    with pytest.raises(ConfigError, match=r"cannot use the state store .*CHURN_STATE_URL") as error:
        state_place(given)
    assert "secret" not in str(error.value)


@pytest.mark.service
def test_a_database_belongs_to_the_home_that_came_first(tmp_path, postgres_url):
    first, other = (Home(tmp_path / name, "shop", state_store=state_place(postgres_url)) for name in ("a", "b"))
    engine = open_state(first.state_url)
    claim_state(first, engine)
    claim_state(first, engine)
    with pytest.raises(PlatformError, match=rf"it belongs to the home {tmp_path}/a \(charter 'shop'\). Name another"):
        claim_state(other, engine)


def test_a_ledger_of_before_is_kept_and_the_last_verdict_of_a_gate_is_found_without_reading_all_of_it(state_url):
    """100,000 rows: 130 ms without the index (SQLite), 0.3 ms with it, for each gate `make status` asks about."""
    first = open_state.__wrapped__(state_url)
    record_decision(first, Decision("data", "accept", "fine"), as_of=None)
    with first.begin() as connection:
        connection.execute(sa.text("DROP INDEX IF EXISTS verdicts_of_a_gate"))
    first.dispose()
    engine = open_state.__wrapped__(state_url)
    assert [row.decision.reason for row in read_decisions(engine, gate="data", limit=1)] == ["fine"]
    assert [one["column_names"] for one in sa.inspect(engine).get_indexes("decisions")] == [["gate", "at"]]
    engine.dispose()


def test_a_store_of_before_gets_the_columns_and_indexes_it_lacks(state_url):
    engine = sa.create_engine(state_url)
    with engine.begin() as connection:
        connection.execute(sa.text(
            "CREATE TABLE rollouts (rollout_id VARCHAR PRIMARY KEY, release_id VARCHAR NOT NULL, champion_id VARCHAR, "
            "strategy VARCHAR NOT NULL, state VARCHAR NOT NULL, stage INTEGER NOT NULL, who VARCHAR NOT NULL, why "
            "VARCHAR NOT NULL, opened_at VARCHAR NOT NULL, stage_since VARCHAR NOT NULL, closed_at VARCHAR, reason "
            "VARCHAR, evidence VARCHAR NOT NULL)"))
        connection.execute(sa.text(
            "INSERT INTO rollouts VALUES ('r', 'churn:1', NULL, 'basic', 'packaged', 0, 'ada', 'why', "
            "'2026-11-23T00:00:00.000000+00:00', '2026-11-23T00:00:00.000000+00:00', NULL, NULL, '{}')"))
    engine.dispose()
    engine = open_state(state_url)
    seen = rollouts.open_rollout(engine)
    assert seen.paused_at is None
    assert rollouts.pause(engine, seen, who="ada", why="holiday")
    with pytest.raises(ReleaseError, match="that of churn:1 is open"):
        rollouts.open_new(engine, release_id="churn:2", strategy="basic", who="ada", why="why")
    open_state.__wrapped__(state_url)  # a second time there is nothing to do


def test_a_decision_with_a_name_of_its_own_is_written_once(state_url):
    engine = open_state(state_url)
    for reason in ("first", "second"):
        record_decision(engine, Decision("data", "accept", reason), as_of=None, decision_id="one")
    assert [row.decision.reason for row in read_decisions(engine)] == ["first"]


def test_a_decision_is_found_by_gate_and_subject_newest_first(state_url):
    engine = open_state(state_url)
    for reason in ("first", "second"):
        record_decision(engine, Decision("data", "accept", reason, {"rows": 1}), as_of=None, subject="batch")
    record_decision(engine, Decision("drift", "nothing", "third"), as_of=None)
    assert [row.decision.reason for row in read_decisions(engine, gate="data", subject="batch")] == ["second", "first"]


YES = Decision("retrain", "accept", "go", {"decision_id": "one"})


def test_a_decision_is_accepted_once(state_url):
    engine = open_state(state_url)
    assert accept_decision(engine, "one", YES, as_of=MARCH, subject="churn:1")
    assert not accept_decision(engine, "one", YES, as_of=MARCH)
    assert [(row.decision, row.subject) for row in read_decisions(engine, gate="retrain")] == [(YES, "churn:1")]


def test_a_decision_whose_acceptance_cannot_be_written_is_not_used_up(state_url):
    engine = open_state.__wrapped__(state_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE decisions"))
    with pytest.raises(sa.exc.DatabaseError):
        accept_decision(engine, "one", YES, as_of=MARCH)
    engine = open_state.__wrapped__(state_url)  # makes the table anew
    assert not acted_on(engine, "one")


@pytest.mark.parametrize(("gate", "verdict", "reason"), [
    ("data", "promote", "why"), ("nonsense", "accept", "why"), ("data", "accept", " ")])
def test_a_gate_cannot_say_what_is_not_its_verdict_nor_stay_silent_on_why(gate, verdict, reason):
    with pytest.raises(ValueError, match=gate):
        Decision(gate, verdict, reason)
