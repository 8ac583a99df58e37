"""What waits for a person's word, by the ledger and the words alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from models.decision import Decision
from tasks.release import approval
from tasks.state import open_state, record_decision
from tasks.tables import APPROVALS

JANUARY = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return open_state(f"sqlite:///{tmp_path}/state.db")


def wait(engine: sa.Engine, release_id: str) -> dict[str, str | None]:
    """A release of version 1 waits; returns the evidence."""
    seen: dict[str, str | None] = {"model_version": "1", "release_id": release_id, "promotion_id": "p"}
    record_decision(engine, Decision("release", "wait", "nobody approved it", seen), as_of=JANUARY, subject=release_id)
    return seen


def test_a_rejected_release_waits_no_more_whatever_the_clock_said_when_it_was_rejected(engine: sa.Engine) -> None:
    approval.write(engine, "reject", who="ada", why="no", seen=wait(engine, "churn:a"))
    with engine.begin() as connection:
        connection.execute(APPROVALS.update().values(at=(datetime.now(UTC) - timedelta(hours=1)).isoformat()))
    assert approval.waiting(engine) == []


def test_a_no_to_one_release_of_a_version_is_none_to_another_built_of_it(engine: sa.Engine) -> None:
    seen = wait(engine, "churn:a")
    wait(engine, "churn:b")
    approval.write(engine, "reject", who="ada", why="no", seen=seen)
    assert [row.subject for row in approval.waiting(engine)] == ["churn:b"]
    approval.write(engine, "approve", who="ada", why="yes", seen=seen)
    assert {row.subject for row in approval.waiting(engine)} == {"churn:a", "churn:b"}
