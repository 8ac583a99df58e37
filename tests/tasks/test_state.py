from __future__ import annotations

import pytest

from models.decision import Decision
from models.errors import PlatformError
from tasks.state import open_state, read_decisions, record_decision, use_decision


def test_a_state_that_cannot_be_read_is_refused_and_never_taken_for_an_empty_one(tmp_path):
    (tmp_path / "state.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(PlatformError, match=r"cannot use our state at .*state\.db: file is not a database"):
        open_state(f"sqlite:///{tmp_path}/state.db")


def test_a_decision_is_found_by_gate_and_subject_newest_first(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    for reason in ("first", "second"):
        record_decision(engine, Decision("data", "accept", reason, {"rows": 1}), as_of=None, subject="batch")
    record_decision(engine, Decision("drift", "ignore", "third"), as_of=None)
    assert [row.decision.reason for row in read_decisions(engine, gate="data", subject="batch")] == ["second", "first"]


def test_a_decision_is_used_once(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    assert use_decision(engine, "one", flow_run_id=None)
    assert not use_decision(engine, "one", flow_run_id=None)


@pytest.mark.parametrize(("gate", "verdict", "reason"), [
    ("data", "promote", "why"), ("nonsense", "accept", "why"), ("data", "accept", " ")])
def test_a_gate_cannot_say_what_is_not_its_verdict_nor_stay_silent_on_why(gate, verdict, reason):
    with pytest.raises(ValueError, match=gate):
        Decision(gate, verdict, reason)
