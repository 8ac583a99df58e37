"""The parts of the demo that need no platform; the demo itself is run in tests/loop/test_demo.py."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from deploy.local.demo import MARKER, main, refuse_foreign
from deploy.local.demo_lines import decided, done, draw, line, seen, shortened, value_lines, version_of
from deploy.local.demo_months import Month, asked_for
from deploy.local.demo_value import Earned, MonthValue, earned, totals
from deploy.local.demo_world import FULL, SHORT, Story, deliver, write_files
from examples.shop.law import World
from flows.settings import REPO
from models.charter import load_charter
from models.decision import Decision
from tasks.home import Home
from tasks.state import LedgerRow, now, open_state, record_decision

TINY = Story(first=4, last=7, broken=5, bad_candidate=7, world=World(customers=60, months=8))
JUNE = datetime(2025, 6, 1, tzinfo=UTC)


def row(decision: Decision, subject: str | None = None) -> LedgerRow:
    return LedgerRow("1", "2026-11-23T00:00:00", JUNE.isoformat(), decision, subject, None)


def month(*ledger: LedgerRow, **changes: object) -> Month:
    plain = Month(17, JUNE, JUNE, (), tuple(ledger), (), False, None, 4.2)
    return replace(plain, **changes)


def test_each_month_gets_what_had_arrived_by_its_first_day_and_no_file_of_later(tmp_path: Path):
    home = Home(tmp_path)
    write_files(home, TINY)
    assert not list(home.landing.glob("*/*"))
    for number in TINY.months:
        deliver(home, TINY, number)
        newest = max(path.stem for path in home.landing.glob("*/*.csv"))
        assert newest == f"{TINY.as_of(number - 1):%Y-%m}"
    assert not list(home.landing.glob("truth/*"))


def test_the_broken_delivery_is_broken_for_one_month_and_healed_in_the_next(tmp_path: Path):
    home = Home(tmp_path)
    write_files(home, TINY)
    file = f"orders/{TINY.as_of(TINY.broken - 1):%Y-%m}.csv"
    clean = (tmp_path / "world" / file).read_bytes()
    deliver(home, TINY, TINY.broken)
    words = pl.read_csv(home.landing / file, infer_schema=False)["amount"].str.ends_with(" EUR")
    assert 0.15 < words.mean() < 0.5
    assert deliver(home, TINY, TINY.broken + 1) > 0
    assert (home.landing / file).read_bytes() == clean
    assert deliver(home, TINY, TINY.broken + 1) == 0


@pytest.mark.parametrize("story", [FULL, SHORT], ids=["full", "short"])
def test_a_story_has_every_event_and_a_world_that_holds_its_last_months_outcomes(story: Story):
    happened = [event for number in story.months for event in story.events(number)]
    assert set(happened) == {"broken delivery", "healed delivery", "data drift begins", "bad candidate",
                             "concept drift begins"}
    assert story.broken > story.first  # there is a list that can stand
    assert story.world.months > story.last


@pytest.mark.parametrize("story", [FULL, SHORT], ids=["full", "short"])
def test_two_cuts_after_the_concepts_change_are_mature_before_the_bad_candidate_and_the_end(story: Story):
    charter = load_charter(REPO / "charter.yaml")
    second = story.world.concept_drift_month + 1
    learnt = next(month for month in story.months
                  if story.as_of(second) + charter.problem.maturity <= story.as_of(month))
    assert learnt < story.bad_candidate <= story.last  # by then there is a second version to release
    assert story.world.concept_drift_month != story.broken  # its cohort is scored
    changed, before = (story.as_of(story.world.concept_drift_month - back) for back in (0, 1))
    assert before + charter.problem.horizon <= changed  # else whoever was in the cohort before is passed over


def test_value_is_churners_found_times_stay_times_worth_less_contacts_times_cost():
    value = load_charter(REPO / "charter.yaml")
    scores = pl.DataFrame({"customer_id": ["a", "b", "c", "d", "e"], "within_budget": [True, True, True, False, False],
                           "churn_probability": [0.9, 0.8, 0.7, 0.2, 0.1]})
    happened = pl.DataFrame({"cut": [JUNE] * 4, "customer_id": ["a", "b", "d", "e"], "p": [0.5] * 4,
                             "churned": [True, False, True, False]})
    got = earned(scores, happened, value)
    # a left; b stayed; c could not leave any more: a contact for nothing. 1 x 0.5 x 60 - 3 x 4
    assert (got.value, got.contacted, got.found) == (18.0, 3, 1)
    assert got.auc == pytest.approx(3 / 4)  # of a, d against b, e: a above both, d above e only


def test_the_gain_is_the_difference_of_both_policies_and_the_sum_is_over_all_months():
    months = [MonthValue(JUNE, JUNE, "churn:v2-a", Earned(100.0, 5, 3, 0.8), Earned(40.0, 5, 2, 0.7)),
              MonthValue(JUNE, JUNE, "churn:v2-a", Earned(10.0, 5, 1, 0.8), Earned(30.0, 5, 2, 0.7))]
    assert [one.gain for one in months] == [60.0, -20.0]
    assert totals(months) == (110.0, 70.0)
    assert value_lines(months)[-1] == "earned 110; never retrained 70; retraining brought +40 in 2 months"


def test_a_month_waits_for_the_event_of_its_own_check_alone_and_only_where_one_is_sent(tmp_path: Path):
    engine, july = open_state(f"sqlite:///{tmp_path}/state.db"), JUNE.replace(month=7)

    def check(verdict: str, as_of: datetime) -> str | None:
        since = now()
        concept = {"kind": "concept", "changed_since": "2025-04-01"}
        decision_id = record_decision(engine, Decision("drift", verdict, "so", concept), as_of=as_of)
        asked = asked_for(engine, since, as_of)
        assert asked is None or asked.decision_id == decision_id
        return asked and asked.decision_id

    first = check("retrain", JUNE)
    assert first
    waits = {"decision_id": first, "changed_since": "2025-04-01", "waits_until": july.isoformat()}
    record_decision(engine, Decision("retrain", "wait", "two mature cuts are needed", waits), as_of=JUNE)
    assert check("retrain", JUNE.replace(day=20)) is None
    assert check("alarm", july) is None
    assert check("retrain", july)
    assert asked_for(engine, now(), july) is None


def test_a_month_is_one_line_of_what_was_seen_decided_and_done():
    drift = Decision("drift", "retrain", "2 of the last 3 checks flagged\nand more",
                     {"mattering_columns": "age,score", "max_psi": 0.31, "flags": 2, "checks": 3})
    lived = month(row(drift), row(Decision("retrain", "accept", "retraining")),
                  row(Decision("promotion", "promote", "better")), trained=True, event_seconds=8.0,
                  planted=("healed delivery",))
    told = line(lived)
    assert "\n" not in told
    assert seen(lived) == "moved: age, score"
    assert decided(lived) == "drift: retrain (2 of 3 checks), retrain: accept, promotion: promote"
    assert done(lived) == "trained, 8 s after the event; listed"
    assert "4.2 s  [healed delivery] moved" in told


def test_the_one_column_that_moved_is_told_with_its_numbers():
    reason = "1 of the last 3 checks flagged, 2 needed; moved: age (PSI 0.111, 9.6% of the importance); harmless: x"
    lived = month(row(Decision("drift", "retrain", reason, {"mattering_columns": "age"})))
    assert seen(lived) == "moved: age (PSI 0.111, 9.6% of the importance)"


@pytest.mark.parametrize(("verdict", "said"), [("nothing", "quiet"), ("harmless", "nothing moved that matters")])
def test_a_quiet_month_says_so(verdict: str, said: str):
    lived = month(row(Decision("drift", verdict, "no column that matters moved", {"kind": "data"})))
    assert (seen(lived), decided(lived)) == (said, f"drift: {verdict}")


def test_a_refused_delivery_is_what_was_seen_and_the_list_before_stands():
    refused = Decision("data", "refuse", "cannot accept orders as of 2025-06-01: 30 of 100 new rows are bad")
    lived = month(row(refused), listed_as_of=JUNE.replace(month=5))
    assert seen(lived) == "orders: 30 of 100 new rows are bad"
    assert decided(lived) == "data: refuse"
    assert done(lived) == "the list of 2025-05 stands"


def test_a_change_of_the_concept_is_told_by_its_own_reason_not_by_columns():
    seen_in = {"kind": "concept", "mattering_columns": "age"}
    concept = row(Decision("drift", "retrain", "the Brier loss rose by 0.03", seen_in))
    assert seen(month(concept)) == "concept: the Brier loss rose by 0.03"


def test_long_reasons_are_shortened_and_releases_called_by_their_version():
    assert len(shortened("word " * 100)) <= 72
    assert version_of("churn:v12-0a1b2c3d") == "v12"


def test_the_picture_is_drawn_with_a_refused_month_and_without_any_gain(tmp_path: Path):
    value = MonthValue(JUNE, JUNE, "churn:v1-a", Earned(100.0, 5, 3, 0.8), Earned(100.0, 5, 3, 0.8))
    drawn = draw([value, value], [month(planted=("broken delivery",)), month()], tmp_path / "reports" / "demo.png")
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_home_that_the_demo_did_not_make_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    mine = tmp_path / "demo" / "lake" / "raw.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    assert main([]) == 1
    said = capsys.readouterr().err
    assert said == (f"error: cannot use {tmp_path / 'demo'} for the demo: it holds files that are not the demo's. Move "
                    "them, or set CHURN_HOME to another folder\n")
    assert mine.read_text() == "mine"
    (tmp_path / "demo" / MARKER).touch()
    refuse_foreign(tmp_path / "demo")


def test_a_second_demo_at_once_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "demo" / "run"
    run.mkdir(parents=True)
    charter = tmp_path / "demo" / "charter.yaml"
    charter.write_text("of the other one")
    (tmp_path / "demo" / MARKER).touch()
    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    with (run / "run.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["--short"]) == 1
    assert "a `make demo` at work there" in capsys.readouterr().err
    assert charter.read_text() == "of the other one"


def test_help_and_an_unknown_option_start_nothing(tmp_path: Path):
    for option, code in (("--help", 0), ("--months", 2)):
        ran = subprocess.run([sys.executable, "-m", "deploy.local.demo", option], cwd=REPO, capture_output=True,
                             text=True, check=False, env={**os.environ, "CHURN_HOME": str(tmp_path)})
        assert ran.returncode == code, ran.stderr
    assert not list(tmp_path.iterdir())


def test_a_port_so_high_that_the_demo_has_none_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    monkeypatch.setenv("CHURN_MLFLOW_PORT", "65500")
    assert main([]) == 1
    assert capsys.readouterr().err.startswith("error: cannot use port 65620 for the demo: ")


