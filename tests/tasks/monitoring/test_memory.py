"""What a check remembers: flags by date, cool-down and budget, and how retrainings ended, on each engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.decision import Decision
from models.gates.drift import DriftReport
from models.gates.retraining_check import Past
from models.gates.signals import Signal
from tasks.home import Home
from tasks.locks import hold
from tasks.monitoring.alarms import open_alarms
from tasks.monitoring.memory import Labelled, flags_by_day, previous_check, recall
from tasks.monitoring.outbox import open_rows
from tasks.release import rollouts
from tasks.state import now, open_state, read_decisions, record_decision, set_clock
from tasks.tables import DECISIONS
from tests.decision_world import BAD, CHARTER, GOOD, MOVED, STILL, check, model, month, register, retrained

pytestmark = pytest.mark.usefixtures("no_run_logger")


@pytest.fixture
def engine(state_url: str) -> Iterator[sa.Engine]:
    engine = open_state.__wrapped__(state_url)
    yield engine
    engine.dispose()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Where nobody trains until a test does."""
    return Home(tmp_path / "home", "shop")


def test_two_of_three_dates_retrain_however_often_each_is_checked(engine: sa.Engine) -> None:
    assert [check(engine, MOVED, month(1)).verdict for _ in range(3)] == ["harmless"] * 3
    assert [check(engine, MOVED, month(1).replace(hour=hour)).verdict for hour in (1, 2)] == ["harmless"] * 2
    assert check(engine, MOVED, month(2)).verdict == "retrain"


def test_nights_that_follow_each_other_are_one_check_for_persistence(engine: sa.Engine, home: Home) -> None:
    """Nearly the same customers are seen again; a week later a flag says more."""
    nights = [month(1) + timedelta(days=number) for number in range(8)]
    assert [check(engine, MOVED, night).verdict for night in nights] == ["harmless"] * 7 + ["retrain"]
    decision = read_decisions(engine, gate="drift", limit=1)[0].decision
    assert (decision.evidence["flags"], decision.evidence["checks"]) == (2, 2)
    found = recall(engine, home, CHARTER, "churn:1", Labelled(), flag=True, now=month(1) + timedelta(days=10))
    assert found.past.drift_since == month(1) + timedelta(days=3)


def test_the_last_check_of_a_date_counts_and_older_ledgers_are_understood(engine: sa.Engine) -> None:
    check(engine, MOVED, month(1))
    check(engine, STILL, month(1))
    assert flags_by_day(engine, "churn:1", before=month(2)) == [(month(1), False)]
    with engine.begin() as connection:  # as an older version wrote it
        connection.execute(DECISIONS.insert().values(
            decision_id="old", at=now(), gate="drift", as_of=month(2).isoformat(), verdict="flag", reason="moved",
            evidence=json.dumps({"mattering_columns": "weight"}), subject="churn:1"))
    assert flags_by_day(engine, "churn:1", before=month(3)) == [(month(2), True), (month(1), False)]
    assert read_decisions(engine, gate="drift")[0].decision.verdict == "harmless"


def test_a_check_in_bad_data_takes_no_flag_from_the_check_of_the_same_date_before_it(engine: sa.Engine) -> None:
    """A batch that was refused is not what was checked: the rows of that date are those of before."""
    refused = (*(one for one in GOOD if one.name != "quality"), Signal("quality", "bad", "the last batch was refused"))
    check(engine, MOVED, month(1))
    assert check(engine, MOVED, month(1), signals=refused).verdict == "alarm"
    assert flags_by_day(engine, "churn:1", before=month(2)) == [(month(1), True)]
    check(engine, MOVED, month(2), signals=refused)
    assert flags_by_day(engine, "churn:1", before=month(3))[0] == (month(2), False)


def test_checks_of_another_release_and_later_dates_count_for_nothing(engine: sa.Engine) -> None:
    check(engine, MOVED, month(1), release_id="churn:0")
    check(engine, MOVED, month(4))
    assert flags_by_day(engine, "churn:1", before=month(3)) == []


def test_an_accepted_retraining_starts_the_cooldown_and_one_that_failed_only_costs_budget(engine: sa.Engine) -> None:
    check(engine, MOVED, month(1))
    retrained(engine, month(2).replace(day=20), "a", promotion="keep")
    decision = check(engine, MOVED, month(3))
    assert (decision.verdict, decision.evidence["budget_left"]) == ("harmless", 1)
    assert "retrained 9 days ago, cool-down 25 days" in decision.reason
    retrained(engine, month(3) + timedelta(days=20), "b", failed=1)
    retrained(engine, month(3) + timedelta(days=21), "c", failed=1)
    decision = check(engine, MOVED, month(4))
    assert decision.verdict == "alarm"
    assert "2 retrainings were begun in the last month, 2 of them failed" in decision.reason
    assert check(engine, MOVED, month(5)).verdict == "retrain"  # a month later the budget is whole again


def test_flags_before_a_retraining_by_another_champion_and_drift_that_did_no_harm(engine: sa.Engine) -> None:
    check(engine, MOVED, month(1))
    assert check(engine, MOVED, month(2), labelled=Labelled(month(1))).verdict == "harmless"
    assert check(engine, MOVED, month(2), labelled=Labelled(month(1) - timedelta(days=1))).verdict == "retrain"


def test_what_the_last_retraining_gave_decides_what_bad_performance_means(engine: sa.Engine) -> None:
    """On trial, then champion and not yet judged: answered. Judged and still bad: a person."""
    retrained(engine, month(3), "a", promotion="promote", model_version="7")
    assert "cool-down" in check(engine, STILL, month(3), signals=BAD).reason  # it was not released
    rollout = model(engine, "7")
    assert "made a model that is on trial" in check(engine, STILL, month(4), signals=BAD).reason
    assert rollouts.close(engine, rollout, state="champion", reason="t")
    decision = check(engine, STILL, month(4), signals=BAD)
    assert (decision.verdict, "not mature yet" in decision.reason) == ("harmless", True)
    judged = Labelled(month(4), champion=True)
    decision = check(engine, STILL, month(5), signals=BAD, labelled=judged)
    assert (decision.verdict, "and that after the retraining of 2025-03-01" in decision.reason) == ("alarm", True)
    check(engine, STILL, month(6), labelled=judged)  # good
    assert check(engine, STILL, month(7), signals=BAD, labelled=judged).verdict == "retrain"


def test_only_good_checks_of_the_champion_of_now_on_its_own_labels_say_that_it_recovered(engine: sa.Engine) -> None:
    set_clock(engine, month(4))
    retrained(engine, month(3), "a", promotion="promote", model_version="7")
    assert rollouts.close(engine, model(engine, "7"), state="champion", reason="t")
    judged = Labelled(month(4), champion=True)
    for release_id, labelled in (("churn:1", judged), ("churn:7", Labelled(month(4)))):  # the old one; the old one's
        check(engine, STILL, month(3) + timedelta(days=1), release_id=release_id, labelled=labelled)
        decision = check(engine, STILL, month(4), signals=BAD, release_id="churn:7", labelled=judged)
        assert (decision.verdict, "whose model is champion" in decision.reason) == ("alarm", True)
    check(engine, STILL, month(3) + timedelta(days=1), release_id="churn:7", labelled=judged)
    assert check(engine, STILL, month(4), signals=BAD, release_id="churn:7", labelled=judged).verdict == "retrain"


def test_a_retraining_that_runs_is_under_way_however_many_days_and_after_the_cool_down_a_person_is_asked(
    engine: sa.Engine, home: Home
) -> None:
    retrained(engine, month(3), "a")
    with hold(home, "retrain"):
        for days in (0, 1, 24):
            decision = check(engine, STILL, month(3) + timedelta(days=days), signals=BAD, home=home)
            assert (decision.verdict, "is under way" in decision.reason) == ("harmless", True)
        decision = check(engine, STILL, month(3) + timedelta(days=26), signals=BAD, home=home)
    assert (decision.verdict, "has been under way for 26 days" in decision.reason) == ("alarm", True)
    assert len(read_decisions(engine, gate="retrain")) == 1


@pytest.mark.parametrize(("report", "signals"), [(MOVED, GOOD), (STILL, BAD)], ids=["drift", "performance"])
def test_a_retraining_that_was_killed_has_failed_and_the_next_check_asks_again(
    engine: sa.Engine, report: DriftReport, signals: Any
) -> None:
    check(engine, MOVED, month(2))
    retrained(engine, month(3), "a")
    decision = check(engine, report, month(3) + timedelta(days=1), signals=signals)
    assert (decision.verdict, decision.evidence["budget_left"]) == ("retrain", 1)
    ended = read_decisions(engine, gate="retrain")[0]
    assert (ended.decision.verdict, ended.decision.reason) == (
        "refuse", "the retraining failed: its process ended before it did")
    assert ended.decision.evidence == {"decision_id": "a", "failed": 1}
    check(engine, report, month(3) + timedelta(days=2), signals=signals)
    assert len(read_decisions(engine, gate="retrain")) == 2  # once


def test_a_retraining_that_was_killed_while_its_model_was_released_has_made_a_model(engine: sa.Engine) -> None:
    retrained(engine, month(3), "a")
    model(engine, "7", why="drift decision a")
    decision = check(engine, STILL, month(3) + timedelta(days=1), signals=BAD)
    assert (decision.verdict, "made a model that is on trial" in decision.reason) == ("harmless", True)
    ended = read_decisions(engine, gate="retrain")[0].decision
    assert (ended.verdict, ended.evidence["model_version"], "failed" in ended.evidence) == ("done", "7", False)
    assert [alarm for alarm in open_alarms(engine, CHARTER) if alarm.gate == "retrain"] == []  # its rollout goes on
    assert [row for row in open_rows(engine, "event") if row.decision.gate == "retrain"] == []


def test_a_lock_that_cannot_be_asked_is_an_alarm(engine: sa.Engine, home: Home) -> None:
    home.root.mkdir(parents=True)
    home.run.write_text("a file where the folder should be")
    decision = check(engine, STILL, month(3), home=home)
    assert (decision.verdict, "the memory cannot be read: FileExistsError" in decision.reason) == ("alarm", True)


def test_retrainings_in_vain_count_until_somebody_makes_another_champion(engine: sa.Engine) -> None:
    for number, decision_id in ((1, "a"), (2, "b")):
        retrained(engine, month(number), decision_id, promotion="keep")
    decision = check(engine, STILL, month(4), signals=BAD)
    assert (decision.verdict, "the last 2 retrainings gave no better model" in decision.reason) == ("alarm", True)
    assert rollouts.close(engine, model(engine, "7"), state="champion", reason="by hand")
    assert check(engine, STILL, month(4), signals=BAD).evidence["why"] == "answered"  # its own labels are to come
    assert check(engine, STILL, month(4), signals=BAD, labelled=Labelled(month(4), champion=True)).verdict == "retrain"


def test_a_retrained_champion_that_was_replaced_answers_for_nothing(engine: sa.Engine) -> None:
    retrained(engine, month(1), "a", promotion="promote", model_version="7")
    assert rollouts.close(engine, model(engine, "7"), state="champion", reason="t")
    judged = Labelled(month(3), champion=True)
    assert check(engine, STILL, month(3), signals=BAD, labelled=judged).verdict == "alarm"
    assert rollouts.close(engine, model(engine, "8"), state="champion", reason="by hand")
    assert check(engine, STILL, month(3), signals=BAD, labelled=judged).verdict == "retrain"


def test_going_back_to_an_old_champion_leaves_the_retrainings_in_vain(engine: sa.Engine) -> None:
    assert rollouts.close(engine, model(engine, "1"), state="champion", reason="t")
    retrained(engine, month(1), "a", promotion="keep")
    retrained(engine, month(2), "b", promotion="promote", model_version="7")
    rollout = model(engine, "7")
    assert rollouts.close(engine, rollout, state="champion", reason="t")
    assert rollouts.close(engine, rollouts.read_rollout(engine, rollout.rollout_id), state="rolled back", reason="t")
    decision = check(engine, STILL, month(4), signals=BAD)
    assert "the last 2 retrainings gave no better model (that of 2025-02-01: rolled back)" in decision.reason


def test_a_version_that_waits_for_approval_is_not_in_vain_and_calls_who_approves(engine: sa.Engine) -> None:
    set_clock(engine, month(5))
    retrained(engine, month(1), "a", promotion="keep")
    register(engine, "7")
    asked = Decision("release", "wait", "nobody approved it", {"model_version": "7"})
    record_decision(engine, asked, as_of=month(3), subject="churn:7")
    retrained(engine, month(3), "b", promotion="promote", model_version="7")
    decision = check(engine, STILL, month(3) + timedelta(days=29), signals=BAD)
    assert (decision.verdict, decision.evidence["why"]) == ("alarm", "approval")
    assert "made a version that waits for a person" in decision.reason
    assert "`make approve`" in decision.reason
    decision = check(engine, STILL, month(3) + timedelta(days=32), signals=BAD)  # too old to be approved
    assert "the last 2 retrainings gave no better model (that of 2025-03-01: not released)" in decision.reason
    record_decision(engine, Decision("release", "refuse", "rejected"), as_of=month(3), subject="churn:7")
    assert "not released" in check(engine, STILL, month(3) + timedelta(days=29), signals=BAD).reason


def test_a_repeated_check_looks_back_to_the_day_before_it(engine: sa.Engine) -> None:
    assert previous_check(engine, before=month(1)) is None
    for number in (1, 2):
        check(engine, STILL, month(number))
    assert previous_check(engine, before=month(2)) == month(1)


@pytest.mark.parametrize(("gate", "verdict"), [("drift", "nothing"), ("retrain", "accept"), ("retrain", "wait")])
def test_a_row_of_the_ledger_that_is_dated_after_now_is_a_fault_of_memory(
    engine: sa.Engine, gate: str, verdict: str
) -> None:
    set_clock(engine, month(3))
    record_decision(engine, Decision(gate, verdict, "forged", {"decision_id": "a"}), as_of=month(3) + timedelta(days=1))
    for subject_of_check in ("churn:1", "churn:2"):
        decision = check(engine, MOVED, month(3), release_id=subject_of_check)
        assert (decision.verdict, decision.evidence["owner"]) == ("alarm", "ML engineer")
        assert "it is dated 2025-03-02, after now (2025-03-01)" in decision.reason


def test_a_check_of_an_earlier_date_remembers_nothing_of_later_ones(engine: sa.Engine) -> None:
    set_clock(engine, month(4))
    check(engine, MOVED, month(1))
    retrained(engine, month(3), "a", promotion="keep")
    decision = check(engine, MOVED, month(2))
    assert (decision.verdict, decision.evidence["days_since_retrain"]) == ("retrain", None)


def test_recall_says_why_it_cannot(engine: sa.Engine, home: Home) -> None:
    def past(labelled: Labelled | Exception) -> Past:
        return recall(engine, home, CHARTER, "churn:1", labelled, flag=True, now=month(1)).past

    assert past(Labelled()).drift_since == month(1)
    assert str(past(ValueError("x")).fault).startswith("ValueError at memory.py:")
