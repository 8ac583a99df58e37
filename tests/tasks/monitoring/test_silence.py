"""The dead-man switch: who should have worked and did not is an alarm, once, in the name of the role that owns it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from flows.settings import REPO
from models.charter import Charter, load_charter
from models.decision import Decision
from models.errors import ConfigError
from models.gates.signals import Signal
from tasks.home import Home
from tasks.monitoring.alarms import open_alarms
from tasks.monitoring.awake import platform_started
from tasks.monitoring.heartbeats import PARTS, beat, last_beats, note_signals, noted_signals, silent_parts
from tasks.monitoring.silence import open_silences, watch_silence, watched_level
from tasks.release import releases, rollouts
from tasks.release.processes import start_program
from tasks.release.routing import access_log
from tasks.state import open_state, read_decisions, record_decision
from tasks.tables import AWAKE, DECISIONS
from tests.waiting import wait_for

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=30)


@pytest.fixture
def engine(state_url: str) -> sa.Engine:
    """A platform that was never down: it began to run long ago, and the stretch goes on."""
    engine = open_state(state_url)
    awake(engine, (LONG_AGO, NOW + timedelta(days=3650)))
    return engine


def hours_ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def awake(engine: sa.Engine, *stretches: tuple[datetime, datetime]) -> None:
    """The platform was awake in these, and in no other time."""
    with engine.begin() as connection:
        connection.execute(AWAKE.delete())
        for began, ended in stretches:
            connection.execute(AWAKE.insert().values(began=began.isoformat(), ended=ended.isoformat()))


def crown(engine: sa.Engine, name: str = "1") -> None:
    releases.register_release(engine, release_id=f"churn:{name}", model_version=name, run_id="r", fingerprint="f",
                              as_of="2025-01-01", auc=0.7, monthly_value=1.0)
    rollouts.close(engine, rollouts.open_new(engine, release_id=f"churn:{name}", strategy="basic", who="ada",
                                             why="test"), state="champion", reason="first")
    with engine.begin() as connection:
        connection.execute(rollouts.ROLLOUTS.update().values(closed_at=hours_ago(500).isoformat()))


def all_beat(engine: sa.Engine, at: datetime, *, but: str = "") -> None:
    for part in PARTS:
        if part != but:
            beat(engine, part, at=at)


def look(engine: sa.Engine, charter: Charter, tmp_path: Path, *, at: datetime = NOW, maturity: int = 3
         ) -> list[tuple[str, str, str]]:
    said = watch_silence(Home(tmp_path), engine, charter, maturity=maturity, at=at)
    return [(one.verdict, str(one.evidence["part"]), one.reason) for one in said]


def test_a_beat_is_kept_and_a_later_one_takes_its_place(engine: sa.Engine) -> None:
    beat(engine, "ingest", at=hours_ago(3), as_of=datetime(2025, 1, 1, tzinfo=UTC))
    beat(engine, "ingest", at=hours_ago(1), as_of=datetime(2025, 2, 1, tzinfo=UTC))
    seen = last_beats(engine)["ingest"]
    assert (seen.at, seen.as_of) == (hours_ago(1), datetime(2025, 2, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="no part 'ingets' is known"):
        beat(engine, "ingets")


def test_a_part_that_did_not_run_for_its_hours_is_silent_and_one_a_moment_earlier_is_not(
    engine: sa.Engine, charter: Charter
) -> None:
    crown(engine)
    all_beat(engine, hours_ago(26))
    beat(engine, "ship", at=hours_ago(26.1))
    silent = silent_parts(engine, charter, at=NOW)
    assert [(one.part, round(one.hours, 1), one.limit_hours) for one in silent] == [("ship", 26.1, 26)]


def test_the_charter_sets_the_hours_of_a_part_and_refuses_those_of_none(
    engine: sa.Engine, tmp_path: Path, charter: Charter
) -> None:
    text = (REPO / "charter.yaml").read_text()
    for given, problem in (("{ingest: 1}", None), ("{ingets: 1}", "alarms.silence_hours.ingets"),
                           ("{ingest: 0}", "must be above 0")):
        (tmp_path / "charter.yaml").write_text(f"{text}\nalarms:\n  silence_hours: {given}\n")
        if problem:
            with pytest.raises(ConfigError, match=problem):
                load_charter(tmp_path / "charter.yaml")
        else:
            charter = load_charter(tmp_path / "charter.yaml")
    all_beat(engine, hours_ago(2))
    assert [one.part for one in silent_parts(engine, charter, at=NOW)] == ["ingest"]


def test_an_alarm_is_raised_once_a_silence_and_answered_when_the_part_is_heard_again(
    engine: sa.Engine, charter: Charter, tmp_path: Path
) -> None:
    all_beat(engine, hours_ago(1), but="ingest")
    beat(engine, "ingest", at=hours_ago(40))
    [(verdict, part, reason)] = look(engine, charter, tmp_path)
    assert (verdict, part) == ("alarm", "ingest")
    assert "has not done its work since 2026-11-21 20:00 UTC: 40.0 hours of a running platform (limit 26)" in reason
    [opened] = open_alarms(engine, charter)
    assert (opened.gate, opened.subject, opened.owner) == ("silence", "ingest", "data engineer")
    assert opened.line.startswith("silence of ingest (since 2")
    assert look(engine, charter, tmp_path) == []  # no second one
    beat(engine, "ingest")
    later = datetime.now(UTC)
    all_beat(engine, later)
    [(verdict, part, reason)] = look(engine, charter, tmp_path, at=later)
    assert (verdict, part) == ("well", "ingest")
    assert open_alarms(engine, charter) == []
    assert [(row.decision.verdict, row.subject) for row in read_decisions(engine, gate="silence")] == [
        ("well", "ingest"), ("alarm", "ingest")]
    again = later + timedelta(hours=27)  # a second silence is an alarm of its own
    assert [one[:2] for one in look(engine, charter, tmp_path, at=again)] == [
        ("alarm", part) for part in ("ingest", "features", "ship")]


def test_while_the_platform_was_down_nothing_was_due_and_a_start_answers_no_alarm(
    engine: sa.Engine, charter: Charter, tmp_path: Path
) -> None:
    all_beat(engine, hours_ago(300))
    awake(engine, (hours_ago(25), NOW))
    assert look(engine, charter, tmp_path) == []
    awake(engine, (hours_ago(27), NOW))
    assert {one[1] for one in look(engine, charter, tmp_path)} == {"ingest", "features", "ship"}
    awake(engine, (hours_ago(1), NOW))
    assert look(engine, charter, tmp_path) == []  # they stay open
    assert {row.subject for row in open_silences(engine)} == {"ingest", "features", "ship"}


def test_on_a_machine_that_rests_every_night_the_hours_of_its_days_add_up(
    engine: sa.Engine, charter: Charter, tmp_path: Path
) -> None:
    days = [(hours_ago(24 * day), hours_ago(24 * day - 16)) for day in (3, 2, 1)]
    all_beat(engine, days[0][0])
    awake(engine, *days)
    said = [look(engine, charter, tmp_path, at=days[1][0] + timedelta(hours=hours)) for hours in (9, 11)]
    assert [len(one) for one in said] == [0, 3]  # 25 and 27 hours awake, 33 and 35 of wall time
    assert "27.0 hours of a running platform (limit 26)" in said[1][0][2]


def test_a_part_that_never_ran_is_silent_too_and_what_needs_a_champion_is_due_with_one(
    engine: sa.Engine, charter: Charter, tmp_path: Path
) -> None:
    said = look(engine, charter, tmp_path)
    assert {part for _, part, _ in said} == {"ingest", "features", "ship"}
    assert "has not done its work ever; it is due since" in said[0][2]
    crown(engine)
    assert {part for _, part, _ in look(engine, charter, tmp_path)} == {"score", "monitor", "labels"}


def test_at_the_manual_level_nothing_is_due_and_open_alarms_are_over(
    engine: sa.Engine, charter: Charter, tmp_path: Path
) -> None:
    assert look(engine, charter, tmp_path, maturity=1) == []
    assert len(look(engine, charter, tmp_path, maturity=2)) == 3
    assert [one[0] for one in look(engine, charter, tmp_path, maturity=1)] == ["well"] * 3


def test_the_level_is_that_of_the_running_platform_and_the_highest_where_it_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    monkeypatch.setenv("CHURN_MATURITY", "1")  # of the shell the program was started from, long ago
    assert watched_level(home) == 3
    for text, level in (("1\n", 1), ("2\n", 2), ("9\n", 3), ("", 3)):
        (home.root / "maturity").write_text(text)
        assert watched_level(home) == level


def test_a_beat_of_the_future_vouches_for_nothing(engine: sa.Engine, charter: Charter) -> None:
    all_beat(engine, NOW + timedelta(hours=5))
    assert {one.part for one in silent_parts(engine, charter, at=NOW)} == {
        "ingest", "features", "ship"}


def test_what_somebody_else_found_silent_is_shown_and_a_beat_answers_it(
    engine: sa.Engine, charter: Charter, tmp_path: Path
) -> None:
    """Prefect has a switch of its own."""
    record_decision(engine, Decision("silence", "alarm", "ingest did not complete"), as_of=None, subject="ingest")
    all_beat(engine, hours_ago(1))
    assert look(engine, charter, tmp_path) == []
    assert [alarm.subject for alarm in open_alarms(engine, charter)] == ["ingest"]
    beat(engine, "ingest", at=datetime.now(UTC) + timedelta(hours=5))  # of the future: it vouches for nothing
    assert look(engine, charter, tmp_path, at=datetime.now(UTC)) == []
    all_beat(engine, datetime.now(UTC))
    assert [one[:2] for one in look(engine, charter, tmp_path, at=datetime.now(UTC))] == [("well", "ingest")]


def line(minutes_ago: float, *, release: str = "churn:1", code: int = 200, by: str | None = "churn:1",
         arm: str = "stable", route: str = "customer") -> str:
    return json.dumps({"ts": (NOW - timedelta(minutes=minutes_ago)).strftime("%Y-%m-%dT%H:%M:%S.000Z"), "code": code,
                       "route": route, "cluster": f"{arm}/{release}/8101", "answered_by": by})


@pytest.mark.parametrize(("lines", "alarm"), [
    ([line(1, code=503, by=None)] * 3, True),
    ([line(1, by="churn:0")] * 3, True),  # the release before it stood in
    ([line(1, code=503, by=None)] * 2, False),  # too few to say
    ([line(9, code=503, by=None)] * 9, False),  # long ago
    ([line(1, code=503, by=None)] * 9 + [line(2)], False),
    ([line(1, code=503, by=None)] * 3 + [line(2, route="docs")], True),  # the watchdog's own question asks for no score
    ([line(1, code=404)] * 3, False),  # nobody knows the customer: an answer
    ([line(1, release="churn:0", by="churn:0")] * 9, False),  # asked of the champion before
    ([line(1, arm="canary_or_stable", release="churn:2", by="churn:2")] * 9, False),
    (["{torn", *[line(1, code=503, by=None)] * 3], True),
    ([], False),
])
def test_a_champion_that_is_asked_and_answers_nothing_is_an_alarm(
    engine: sa.Engine, charter: Charter, tmp_path: Path, lines: list[str], alarm: bool
) -> None:
    crown(engine)
    all_beat(engine, hours_ago(1))
    log = access_log(Home(tmp_path))
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"{one}\n" for one in lines))
    said = look(engine, charter, tmp_path)
    assert [one[:2] for one in said] == ([("alarm", "champion")] if alarm else [])
    if alarm:
        assert "the champion churn:1 was asked 3 times in 5 minutes and answered nothing" in said[0][2]
        assert look(engine, charter, tmp_path, at=NOW + timedelta(minutes=20)) == []  # silence of callers ends nothing
        with log.open("a") as file:
            file.write(line(0) + "\n")
        assert [one[0] for one in look(engine, charter, tmp_path)] == ["well"]


def test_a_check_of_an_earlier_date_moves_the_beat_and_neither_its_date_nor_what_a_later_one_saw(
    engine: sa.Engine
) -> None:
    january, march = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC)
    for as_of, hours, state in ((march, 3, "bad"), (january, 2, "good")):
        note_signals(engine, [Signal("labels", state, "as seen", {})], as_of=as_of)
        beat(engine, "labels", at=hours_ago(hours), as_of=as_of)
        [noted] = noted_signals(engine)
        assert (noted.signal.state, noted.as_of) == ("bad", march)
        seen = last_beats(engine)["labels"]
        assert (seen.at, seen.as_of) == (hours_ago(hours), march)
    note_signals(engine, [Signal("labels", "good", "they came", {})], as_of=march)
    assert noted_signals(engine)[0].signal.state == "good"  # the same date once more


def test_what_a_check_saw_is_kept_for_the_metrics(engine: sa.Engine) -> None:
    for share in (0.5, 0.97):
        note_signals(engine, [Signal("labels", "good", "enough", {"coverage": share, "cohort": "2025-01-01"})],
                     as_of=NOW)
    [noted] = noted_signals(engine)
    assert noted.signal == Signal("labels", "good", "enough", {"coverage": 0.97, "cohort": "2025-01-01"})


@pytest.mark.service
def test_the_watchdog_under_supervisor_raises_the_alarm_and_outlives_a_store_it_cannot_read(
    supervised_home: Home, tmp_path: Path
) -> None:
    assert timedelta(0) <= datetime.now(UTC) - platform_started(supervised_home) < timedelta(minutes=1)
    charter = tmp_path / "charter.yaml"
    charter.write_text(
        "name: tiny\nproblem: {horizon_days: 30}\nalarms: {silence_hours: {ingest: 0.001}}\nvalue: {customers: 10, "
        "monthly_churners: 2, share_found: 0.5, share_who_stay: 0.5, worth_of_saved: 5, contact_budget: 2}\n")
    engine = open_state(supervised_home.state_url)
    state = Path(supervised_home.state_url.removeprefix("sqlite:///"))
    aside = state.with_suffix(".aside")
    engine.dispose()
    state.rename(aside)
    state.write_text("no database")
    start_program(supervised_home, "watchdog", [
        sys.executable, "-m", "tasks.release.watchdog", "--home", str(supervised_home.root), "--charter", str(charter),
        "--first-port", "25240", "--api", "http://127.0.0.1:25241", "--every", "0.5"],
        environment={"PYTHONPATH": str(REPO)}, directory=supervised_home.root)
    log = supervised_home.run / "logs/watchdog.log"
    wait_for(lambda: log.exists() and "cannot use our state at" in log.read_text())
    aside.rename(state)
    wait_for(lambda: [row.subject for row in open_silences(engine)] == ["ingest"])
    wait_for(lambda: "silence: alarm: ingest has not done its work ever" in log.read_text())
    beat(engine, "ingest", at=datetime.now(UTC) + timedelta(seconds=30))  # so soon due again that it would fall silent
    wait_for(lambda: open_silences(engine) == [])
    assert datetime.now(UTC) - last_beats(engine)["watchdog"].at < timedelta(seconds=30)


def test_it_needs_neither_prefect_nor_pandas_nor_mlflow() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys, tasks.monitoring.exporter\nprint([name for name in ('prefect', 'pandas', "
         "'polars', 'mlflow', 'sklearn', 'scipy', 'bentoml', 'feast') if name in sys.modules])"],
        cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"


def ask(engine: sa.Engine, day: int, verdict: str = "retrain", *, hours: float = 2, release_id: str = "churn:1",
        **evidence: str) -> str:
    """A check of a day of January, made some hours before NOW; its id."""
    said = Decision("drift", verdict, "2 of 3 flagged", {"kind": "performance", **evidence})
    asked = record_decision(engine, said, as_of=datetime(2025, 1, day, tzinfo=UTC), subject=release_id)
    written(engine, asked, hours)
    return asked


def answer(engine: sa.Engine, verdict: str, decision_id: str, *, hours: float = 1.5, **evidence: str) -> None:
    said = Decision("retrain", verdict, "so", {"decision_id": decision_id, **evidence})
    written(engine, record_decision(engine, said, as_of=datetime(2025, 1, 28, tzinfo=UTC)), hours)


def written(engine: sa.Engine, decision_id: str, hours: float) -> None:
    with engine.begin() as connection:
        connection.execute(DECISIONS.update().where(DECISIONS.c.decision_id == decision_id).values(
            at=hours_ago(hours).isoformat(timespec="microseconds")))


@pytest.fixture
def asking(engine: sa.Engine) -> sa.Engine:
    """A champion, and every part beats."""
    crown(engine)
    all_beat(engine, NOW)
    return engine


def test_a_retraining_that_is_asked_for_on_three_dates_and_never_begins_is_an_alarm_told_once(
    asking: sa.Engine, charter: Charter, tmp_path: Path
) -> None:
    for day, hours in ((1, 9), (1, 8), (2, 7)):  # a date checked twice is one
        answer(asking, "refuse", ask(asking, day, hours=hours), hours=hours - 0.5)  # busy: neither failed nor promoted
        assert look(asking, charter, tmp_path) == []
    ask(asking, 3, hours=0.5)
    assert look(asking, charter, tmp_path) == []  # that one may yet begin
    last = ask(asking, 4, hours=2)
    ((verdict, part, reason),) = look(asking, charter, tmp_path)
    assert (verdict, part) == ("alarm", "retrain")
    assert "asked for on 3 dates since 2025-01-01, and none began" in reason
    assert look(asking, charter, tmp_path) == []
    assert [one.line.split("): ", 1)[0] for one in open_alarms(asking, charter) if one.gate == "silence"] == [
        f"silence of retrain (since {open_silences(asking)[0].at[:16]}; owner: ML engineer"]
    ask(asking, 5, "alarm", hours=1.9)  # bad data that night is another matter
    assert look(asking, charter, tmp_path) == []
    answer(asking, "accept", last, hours=0.1)
    assert [one[:2] for one in look(asking, charter, tmp_path)] == [("well", "retrain")]
    assert open_silences(asking) == []


@pytest.mark.parametrize("why", ["nothing is asked any more", "another champion", "one began", "manual"])
def test_orders_that_nobody_has_to_answer_are_no_alarm(
    asking: sa.Engine, charter: Charter, tmp_path: Path, why: str
) -> None:
    for day in (1, 2, 3):
        last = ask(asking, day, hours=9 - day)
    if why == "nothing is asked any more":
        ask(asking, 4, "harmless")
    elif why == "another champion":
        crown(asking, "2")
        with asking.begin() as connection:
            connection.execute(rollouts.ROLLOUTS.update().where(rollouts.ROLLOUTS.c.release_id == "churn:2").values(
                closed_at=hours_ago(1).isoformat()))
    elif why == "one began":
        answer(asking, "accept", last, hours=5.5)
    maturity = 1 if why == "manual" else 3
    assert [one for one in look(asking, charter, tmp_path, maturity=maturity) if one[1] == "retrain"] == []
    if why == "manual":
        assert look(asking, charter, tmp_path, maturity=2)[0][1] == "retrain"


def test_a_decision_that_waits_for_mature_cuts_is_answered_and_one_that_is_due_and_ignored_is_not(
    asking: sa.Engine, charter: Charter, tmp_path: Path
) -> None:
    change = {"kind": "concept", "changed_since": "2024-12-01"}
    first = ask(asking, 1, hours=20, **change)
    answer(asking, "wait", first, hours=19.5, changed_since="2024-12-01", waits_until="2025-01-10T00:00:00+00:00")
    for day in range(2, 10):
        ask(asking, day, hours=20 - day, **change)
    assert look(asking, charter, tmp_path) == []
    for number, day in enumerate((10, 11, 12)):
        ask(asking, day, hours=5 - number, **change)
    assert "on 3 dates since 2025-01-10" in look(asking, charter, tmp_path)[0][2]
