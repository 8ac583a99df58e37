"""The monitor flow: from scored rows to a verdict, artifacts in the UI and a retrain event."""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from flows import monitor
from models.contract import Column, Contract
from models.decision import Decision
from models.errors import ConfigError, DataError, PlatformError
from models.gates.drift import PREDICTION
from models.gates.quality import Score, Scorecard
from models.gates.signals import Signal
from tasks.data.quality import record_scorecard
from tasks.monitoring import parts as monitoring_parts
from tasks.release import rollouts
from tasks.state import now, open_state, read_decisions, record_decision
from tasks.tables import DECISIONS, LOADS

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]
CONTRACT = Contract("id", "label", (), (Column("weight", "float64", "numeric", "kg", "a number"),), {})


def month(number: int) -> datetime:
    return datetime(2025, number, 1, tzinfo=UTC)


def rows(shift: float, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({"weight": random.normal(shift, size=500), PREDICTION: random.beta(2, 5, 500)})


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))
    engine = open_state(f"sqlite:///{(tmp_path / 'home').resolve()}/state.db")
    record_decision(engine, Decision("promotion", "promote", "wins"), as_of=month(1), subject="1")
    rollout = rollouts.open_new(engine, release_id="churn:1", strategy="basic", who="t", why="t")
    assert rollouts.close(engine, rollout, state="champion", reason="t")
    yield engine
    engine.dispose()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What truth, concept and report say; each has tests of its own. A value that is an error is raised."""
    said: dict[str, Any] = {
        "labels": Signal("labels", "waiting", "nothing is mature"),
        "performance": Signal("performance", "waiting", "nothing is mature"),
        "concept": Signal("concept", "waiting", "nothing is mature"), "page": None,
        "truth": (),
    }

    def say(name: str) -> Any:
        if isinstance(said[name], Exception):
            raise said[name]
        return said[name]

    def draw_report(*given: Any, **_: Any) -> Any:
        given[-1].parent.mkdir(parents=True, exist_ok=True)
        given[-1].write_text("a page")
        return say("page")

    def follow_truth(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(cohorts=(), labels=say("labels"), performance=say("performance"))

    monkeypatch.setattr(monitoring_parts, "follow_truth", follow_truth)
    monkeypatch.setattr(monitoring_parts, "cohorts_until", lambda *_, **__: say("truth"))
    monkeypatch.setattr(monitoring_parts, "watch_concept", lambda *_, **__: say("concept"))
    monkeypatch.setattr(monitor, "draw_report", draw_report)
    return said


def record_load(engine: sa.Engine, as_of: datetime, bad: int = 0) -> None:
    """A load of a hundred rows with its scorecard, once a date."""
    with engine.begin() as connection:
        connection.execute(LOADS.delete().where(LOADS.c.as_of == as_of.isoformat()))
        connection.execute(LOADS.insert().values(as_of=as_of.isoformat(), at=now(), counts="{}", dataset_version="d"))
        record_scorecard(connection, Scorecard(as_of, (Score("orders", "accuracy", 100, bad, (("why", bad),)),)))


@pytest.fixture
def check(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]  # noqa: ARG001  # set up
) -> Callable[..., Decision]:
    """Run the flow on rows whose only feature is shifted; scoring has tests of its own."""
    payload = tmp_path / "release"
    payload.mkdir()
    rows(0, 1).to_parquet(payload / "reference.parquet")
    (payload / "contract.json").write_text(CONTRACT.to_json())
    (payload / "release.json").write_text(json.dumps({"importance": {"weight": 1.0}}))

    def run(shift: float, as_of: datetime, bad: int = 0) -> Decision:
        record_load(engine, as_of, bad)
        scored = SimpleNamespace(release_id="churn:1", payload=payload, current=rows(shift, 2))
        monkeypatch.setattr(monitor, "read_scored", lambda *_: scored)
        return monitor.monitor(as_of)

    return run


def events_named(name: str) -> list[dict[str, object]]:
    """Payloads of the events the server has received."""
    from prefect.settings import PREFECT_API_URL

    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    answer = httpx.post(
        f"{PREFECT_API_URL.value()}/events/filter",
        json={"filter": {"event": {"name": [name]}, "occurred": {"since": since}}},
    ).raise_for_status()
    return [event["payload"] for event in answer.json()["events"]]


def shown(key: str) -> str:
    from prefect.artifacts import Artifact

    found = Artifact.get(key)
    return f"{found.description} {found.data}" if found else ""


def test_drift_on_two_dates_emits_the_decision_and_the_next_check_that_says_so_asks_again(
    check: Callable[..., Decision], engine: sa.Engine, tmp_path: Path
) -> None:
    assert [check(0.0, month(1)).verdict, check(1.0, month(2)).verdict] == ["nothing", "harmless"]
    asked = []
    for number in (3, 4):
        assert check(1.0, month(number)).verdict == "retrain"
        asked.append({"decision_id": read_decisions(engine, gate="drift")[0].decision_id})
    assert check(0.0, month(2)).verdict == "nothing"  # of an earlier date: the order of April still stands
    asked.append(asked[-1])
    end = time.monotonic() + 30  # events are sent in the background
    while len(events_named("churn.drift.detected")) < 3 and time.monotonic() < end:
        time.sleep(0.5)
    found = events_named("churn.drift.detected")
    assert sorted(map(str, found)) == sorted(map(str, asked))
    decision_id = asked[-1]["decision_id"]
    assert "**nothing**" in shown("drift")
    assert "| kind |" not in shown("retraining-decision")
    assert "| quality | good |" in shown("retraining-decision")
    page = tmp_path / "home" / "reports" / "why-retrain.html"
    assert page.as_uri() in shown("why-retrain")
    text = page.read_text(encoding="utf-8")
    assert (stat.S_IMODE(page.stat().st_mode), decision_id in text) == (0o600, True)
    assert "open: nobody has acted on it yet; every check asks again" in text
    assert not re.search(r"(src|href)=.https?:", text)  # opens offline
    assert len(list((tmp_path / "home" / "reports").glob("drift-2025-0[1-4]-01.html"))) == 4


@pytest.mark.parametrize(("shift", "bad", "verdict"), [(1.0, 30, "alarm"), (0.0, 0, "nothing")])
@pytest.mark.parametrize("after", [0, 1], ids=["the same day", "the next month"])
def test_a_check_that_says_something_else_asks_for_nothing_and_withdraws_what_was_asked_for(
    check: Callable[..., Decision], engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, shift: float, bad: int,
    verdict: str, after: int
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(monitor, "emit_retrain_event", lambda decision_id, **_: sent.append(decision_id))
    check(1.0, month(2))
    assert check(1.0, month(3)).verdict == "retrain"
    asked = read_decisions(engine, gate="drift")[0].decision_id
    assert check(shift, month(3 + after), bad).verdict == verdict
    assert sent == [asked]


def test_an_alarm_about_an_earlier_date_asks_for_nothing_either(
    check: Callable[..., Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(monitor, "emit_retrain_event", lambda decision_id, **_: sent.append(decision_id))
    check(1.0, month(2))
    assert check(1.0, month(3)).verdict == "retrain"
    assert check(1.0, month(2), bad=30).verdict == "alarm"
    assert len(sent) == 1


@pytest.mark.parametrize("part", ["labels", "performance", "concept", "truth"])
def test_a_part_that_crashes_is_an_alarm_and_the_other_parts_still_look(
    check: Callable[..., Decision], parts: dict[str, Any], part: str
) -> None:
    parts[part] = RuntimeError("could not convert string to float: 'anna@example.org'")
    decision = check(1.0, month(1))
    assert decision.verdict == "alarm"
    assert "RuntimeError at test_monitor.py:" in decision.reason
    assert "anna@example.org" not in decision.reason
    assert decision.evidence["mattering_columns"] == "weight"
    assert decision.evidence["quality"] == "good"
    if part != "concept":
        assert decision.evidence["concept"] == "waiting"


def test_a_check_without_its_page_is_an_alarm(check: Callable[..., Decision], parts: dict[str, Any]) -> None:
    """That drawing which crashes says so is held by tests/tasks/monitoring/test_report.py."""
    parts["page"] = "the report failed: RuntimeError: out of luck"
    decision = check(1.0, month(1))
    assert decision.verdict == "alarm"
    assert "the report failed: RuntimeError: out of luck" in decision.reason


def test_bad_data_and_bad_performance_reach_the_right_person(
    check: Callable[..., Decision], parts: dict[str, Any]
) -> None:
    decision = check(1.0, month(1), bad=30)
    assert (decision.verdict, decision.evidence["owner"], decision.evidence["flagged"]) == ("alarm", "data engineer", 0)
    parts["performance"] = Signal("performance", "bad", "AUC 0.61 [0.59, 0.63] under 0.65")
    decision = check(0.0, month(2))
    assert (decision.verdict, decision.evidence["kind"]) == ("retrain", "performance")


def test_while_the_concept_waits_for_cuts_no_event_is_sent_and_then_it_is(
    check: Callable[..., Decision], engine: sa.Engine, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(monitor, "emit_retrain_event", lambda decision_id, **_: sent.append(decision_id))
    parts["concept"] = Signal("concept", "bad", "e-value 900", {"changed_since": "2025-01-01"})
    assert check(0.0, month(2)).evidence["window"] == "new"
    first = read_decisions(engine, gate="drift")[0]
    assert sent == [first.decision_id]
    waits = {"decision_id": first.decision_id, "waits_until": month(4).isoformat(), "changed_since": "2025-01-01"}
    record_decision(engine, Decision("retrain", "wait", "two mature cuts are needed", waits), as_of=month(2))
    assert check(0.0, month(3)).verdict == "retrain"
    assert len(sent) == 1
    check(0.0, month(4))
    assert sent[1:] == [read_decisions(engine, gate="drift")[0].decision_id]


def test_without_a_champion_or_scores_the_verdict_is_an_alarm(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]
) -> None:
    def nothing(*_: object) -> None:
        raise DataError("no champion serves: release a model first")

    monkeypatch.setattr(monitor, "read_scored", nothing)
    record_load(engine, month(1))
    decision = monitor.monitor(month(1))
    assert decision.verdict == "alarm"
    assert decision.reason.startswith("cannot judge drift: no champion serves: release a model first")
    assert "For the data scientist: " in decision.reason
    assert parts["page"] is None
    assert read_decisions(engine, gate="drift")[0].decision.verdict == "alarm"


@pytest.fixture
def young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]) -> sa.Engine:  # noqa: ARG001  # set up
    """A home where data were loaded and nothing was ever champion."""
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "young"))
    engine = open_state(f"sqlite:///{(tmp_path / 'young').resolve()}/state.db")
    record_load(engine, month(1))
    return engine


def test_before_the_first_champion_there_is_nothing_to_check_and_nobody_is_called(young: sa.Engine) -> None:
    from flows.score import score

    rollouts.open_new(young, release_id="churn:1", strategy="basic", who="t", why="t")  # on its way
    record_decision(young, Decision("release", "wait", "nobody approved it"), as_of=month(1), subject="churn:1")
    assert score(month(1)) is None
    decision = monitor.monitor(month(1))
    assert (decision.verdict, decision.reason) == ("nothing", "no release is champion yet: nothing is checked")
    assert read_decisions(young, gate="drift")[0].decision == decision


@pytest.mark.usefixtures("young")
def test_make_score_before_the_first_champion_is_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deploy.local import command
    from deploy.local.score import main

    for name, value in command.QUIET.items():  # else they would outlive this test
        monkeypatch.setenv(name, value)
    (tmp_path / "young" / "charter-name").write_text("shop\n")
    assert main({"AS_OF": "2025-01-01"}) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "error: cannot score: no release is champion. Run `make run` first; `make "
                                        "status` says whether one waits\n")
    assert not (tmp_path / "young" / "lake" / "scores").exists()


@pytest.mark.parametrize("was", ["rolled back", "in the lake", "unreadable"])
def test_where_one_was_champion_and_none_is_or_nobody_can_tell_the_check_is_an_alarm(
    young: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: str
) -> None:
    if was == "rolled back":
        record_decision(young, Decision("release", "release", "churn:1 is champion"), as_of=month(1), subject="churn:1")
    elif was == "in the lake":
        folder = tmp_path / "young" / "lake" / "scores"
        folder.mkdir(parents=True)
        (folder / "as_of=2025-01-01.parquet").touch()
    else:
        def locked(*_: object) -> bool:
            raise PlatformError("locked")

        monkeypatch.setattr(monitor, "awaits_first_champion", locked)
    decision = monitor.monitor(month(1))
    assert (decision.verdict, "no release is champion. Run" in decision.reason) == ("alarm", True)


def test_an_alarm_that_the_ledger_cannot_hold_fails_the_run_and_stands_in_prefect(
    check: Callable[..., Decision], engine: sa.Engine
) -> None:
    check(1.0, month(1))
    with engine.begin() as connection:  # read, yes; written, no
        connection.execute(sa.text("CREATE TRIGGER full BEFORE INSERT ON decisions BEGIN SELECT RAISE(ABORT, "
                                   "'disk full'); END"))
    with pytest.raises(PlatformError, match=r"the verdict cannot be written to the ledger: .*disk full"):
        check(1.0, month(2))
    assert "What it found: retrain: 2 of the last 3" in shown("monitor-alarm")


def test_state_that_cannot_be_opened_fails_the_run_and_is_an_alarm_in_prefect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "other"
    monkeypatch.setenv("CHURN_HOME", str(home))
    home.mkdir()
    (home / "state.db").write_bytes(b"no database at all, but long enough to be taken for the head of one" * 10)
    with pytest.raises(PlatformError, match="cannot use our state"):
        monitor.monitor(month(1))
    assert "cannot check anything: cannot use our state" in shown("monitor-alarm")


def test_a_date_after_the_last_load_is_refused_in_one_line(check: Callable[..., Decision], engine: sa.Engine) -> None:
    check(0.0, month(1))
    with pytest.raises(ConfigError, match=r"^cannot check as of 2035-01-01: the last load is of 2025-01-01\. .*$"):
        monitor.monitor(datetime(2035, 1, 1, tzinfo=UTC))
    assert len(read_decisions(engine, gate="drift")) == 1


def test_a_ledger_that_cannot_be_read_is_an_alarm_and_no_older_page_passes_for_this_one(
    check: Callable[..., Decision], engine: sa.Engine, tmp_path: Path
) -> None:
    check(1.0, month(1))
    page = tmp_path / "home" / "reports" / "why-retrain.html"
    assert page.exists()
    with engine.begin() as connection:
        connection.execute(DECISIONS.update().values(evidence="{"))
    decision = check(1.0, month(2))
    assert (decision.verdict, decision.evidence["why"], page.exists()) == ("alarm", "memory", False)
    assert "There is no page: PlatformError: cannot read decision" in shown("why-retrain")
