"""Releases under the real supervisor and the real Envoy. Only the Bento is small: a program of fifty lines.

`tasks.release.package` builds and serves real Bentos in tests of its own; here it would cost a minute a test.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from models.decision import Decision
from models.errors import ReleaseError
from models.limits import Rollout
from tasks.home import Home
from tasks.release import package, releases, rollouts
from tasks.release.looks import look
from tasks.release.processes import programs, start_program, start_supervisor, stop_program, stop_supervisor
from tasks.release.release_process import ReleasePlace, program_name, smoke_test, start_release
from tasks.release.rollouts import RolloutRow
from tasks.release.routing import (
    Routes,
    Upstream,
    envoy_answers,
    envoy_command,
    read_routes,
    set_routes,
    write_bootstrap,
)
from tasks.release.settle import release_state, settle
from tasks.release.steps import (
    pass_smoke_test,
    pause,
    promote,
    promote_by_hand,
    refuse,
    resume,
    roll_back,
    roll_back_canary,
    send_first_traffic,
    send_more_traffic,
)
from tasks.release.supervisord import owned
from tasks.release.watchdog import follow_state
from tasks.state import open_state, read_decisions
from tasks.tables import ROLLOUTS

pytestmark = pytest.mark.service

API, FIRST_PORT = 24210, 24220
BACKEND = Path(__file__).with_name("release_backend.py")
LIMITS = Rollout(stages=(0.3, 0.6), least_customers=20, max_error_excess=0.3, kill_least_requests=20)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleasePlace]:
    home = Home(tmp_path)
    monkeypatch.setattr(package, "bento_payload", lambda home, tag: home.root / "bento" / tag.replace(":", "-"))
    monkeypatch.setattr(package, "bento_venv", lambda _home, _tag: Path(sys.prefix))
    monkeypatch.setattr(package, "serve_command", lambda home, tag, _venv, *, port: (
        [sys.executable, str(BACKEND), str(port), tag, str(mode_file(home, tag))],
        package.store_variables(home)))
    start_platform(home)
    try:
        yield ReleasePlace(home=home, engine=open_state(home.state_url), limits=LIMITS, repo=tmp_path,
                           first_port=FIRST_PORT, ready_seconds=20)
    finally:
        stop_supervisor(home)


def start_platform(home: Home) -> None:
    start_supervisor(home)
    write_bootstrap(home, host="127.0.0.1", api_port=API)
    start_program(home, "envoy", envoy_command(home), environment={}, directory=home.root)
    deadline = time.monotonic() + 15
    while not envoy_answers(home):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def mode_file(home: Home, release_id: str) -> Path:
    return home.root / f"mode-{release_id.replace(':', '-')}"


def build(place: ReleasePlace, name: str) -> str:
    release_id = f"churn:{name}"
    folder = package.bento_payload(place.home, release_id)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"x": [0.1, 0.1 + 0.2, None], "expected_probability": [0.1, 0.1 + 0.2, 0.0]}).to_parquet(
        folder / "golden.parquet")
    releases.register_release(place.engine, release_id=release_id, model_version=name, run_id="run", fingerprint="f",
                              as_of="2025-01-01", auc=0.7, monthly_value=1.0)
    return release_id


def begin(place: ReleasePlace, name: str, *, strategy: rollouts.Strategy = "canary") -> RolloutRow:
    return rollouts.open_new(place.engine, release_id=build(place, name), strategy=strategy, who="ada", why="test")


def current(place: ReleasePlace) -> RolloutRow:
    rollout = rollouts.open_rollout(place.engine)
    assert rollout is not None
    return rollout


def to_first_traffic(place: ReleasePlace, name: str, *, strategy: rollouts.Strategy = "canary") -> RolloutRow:
    """Open a rollout and take it to its first requests (or to champion, where it is the first release)."""
    rollout = begin(place, name, strategy=strategy)
    assert smoke_test(place, rollout.release_id).verdict == "pass"
    assert pass_smoke_test(place, rollout)
    send_first_traffic(place, current(place))
    return rollouts.read_rollout(place.engine, rollout.rollout_id)


def ask(customers: range) -> list[tuple[int, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", API, timeout=10)
    seen = []
    for customer in customers:
        connection.request("GET", f"/v1/customers/{customer}/churn")
        answer = connection.getresponse()
        seen.append((answer.status, json.loads(answer.read()).get("release_id", "")))
    connection.close()
    return seen


def flushed() -> None:
    time.sleep(0.7)  # Envoy writes its log twice a second


def running(place: ReleasePlace) -> set[str]:
    states = ("STARTING", "RUNNING")  # supervisor calls it running after a second only
    return {name for name, info in programs(place.home).items() if name != "envoy" and info.state in states}


def test_the_first_release_becomes_champion_at_once(place: ReleasePlace) -> None:
    rollout = to_first_traffic(place, "1")
    assert (rollout.state, rollout.strategy) == ("champion", "basic")
    assert ask(range(3)) == [(200, "churn:1")] * 3
    state = release_state(place.home, place.engine)
    assert state["champion"]["version"] == "1"
    assert state["champion"]["since"] == rollout.closed_at
    assert state["canary"] is None
    assert state["settled"]
    with pytest.raises(ReleaseError, match="no rollout is open, and there is no champion before churn:1"):
        roll_back(place, who="ada", why="test")


def test_a_canary_is_promoted_stage_by_stage_and_the_old_champion_stays_warm_until_it_is_baked(
    place: ReleasePlace
) -> None:
    to_first_traffic(place, "1")
    to_first_traffic(place, "2")
    assert look(place, current(place)).verdict == "hold"
    shares = []
    for _ in LIMITS.stages:
        answers = ask(range(150))
        shares.append([release for _, release in answers].count("churn:2") / 150)
        flushed()
        decision = Decision("canary", "advance", "no worse than the champion")  # the judge has tests of its own
        assert running(place) == {"release-churn-1", "release-churn-2"}
        decision = send_more_traffic(place, current(place), decision)
    assert shares[0] == pytest.approx(0.3, abs=0.15)
    assert shares[1] == pytest.approx(0.6, abs=0.15)
    assert (decision.gate, decision.verdict) == ("release", "release")
    assert decision.reason.startswith("churn:2 is champion, in place of churn:1: no worse")
    assert set(ask(range(50))) == {(200, "churn:2")}
    assert running(place) == {"release-churn-1", "release-churn-2"}
    assert read_routes(place.home).canary is None
    assert read_routes(place.home).fallback == Upstream("churn:1", FIRST_PORT)
    promoted = rollouts.champion(place.engine)
    assert promoted is not None
    assert rollouts.bake(place.engine, promoted, "no harm in 30 days")
    settle(place)
    assert running(place) == {"release-churn-2"}
    assert read_routes(place.home) == Routes(Upstream("churn:2", FIRST_PORT + 1))
    assert set(ask(range(50))) == {(200, "churn:2")}


def test_a_canary_that_fails_is_rolled_back_and_no_customer_notices(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    to_first_traffic(place, "2")
    mode_file(place.home, "churn:2").write_text("500")
    assert set(ask(range(150))) == {(200, "churn:1")}
    flushed()
    decision = look(place, current(place))
    assert decision.verdict == "roll back"
    assert roll_back_canary(place, current(place), decision.reason).verdict == "rolled back"
    assert rollouts.open_rollout(place.engine) is None
    assert running(place) == {"release-churn-1"}
    assert releases.read_release(place.engine, "churn:2").port is None


def test_a_release_that_scores_its_golden_rows_otherwise_gets_no_customer(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    rollout = begin(place, "2")
    mode_file(place.home, "churn:2").write_text("wrong")
    decision = smoke_test(place, "churn:2")
    assert decision.verdict == "refuse"
    assert "churn:2 scores its 3 golden rows up to 0.1 away from training (limit 1e-09)" in decision.reason
    refuse(place, rollout, decision.reason)
    assert rollouts.open_rollout(place.engine) is None
    assert running(place) == {"release-churn-1"}
    assert read_routes(place.home).canary is None


def test_a_release_that_does_not_start_is_refused_with_its_last_line(place: ReleasePlace) -> None:
    begin(place, "1")
    mode_file(place.home, "churn:1").write_text("end")
    decision = smoke_test(place, "churn:1")
    assert decision.verdict == "refuse"
    assert "cannot start churn:1: " in decision.reason
    assert "Its last line: the golden rows differ" in decision.reason


def test_a_call_that_was_killed_between_two_steps_is_finished_by_the_next(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    begin(place, "2")
    start_release(place, "churn:2")  # killed before the smoke test: the next call tests what runs
    assert smoke_test(place, "churn:2").verdict == "pass"
    pass_smoke_test(place, current(place))  # killed before the first traffic
    rollouts.advance(place.engine, current(place), state="canary", evidence={"log_byte": 0})  # before the routes
    assert read_routes(place.home).canary is None
    assert not release_state(place.home, place.engine)["settled"]
    settle(place)
    assert read_routes(place.home).canary_share == 0.3
    rollouts.advance(place.engine, current(place), state="canary", stage=1)  # killed before the routes
    settle(place)
    assert read_routes(place.home).canary_share == 0.6
    rollouts.close(place.engine, current(place), state="champion", reason="good")  # and before the old one stopped
    settle(place)
    assert set(ask(range(20))) == {(200, "churn:2")}
    assert running(place) == {"release-churn-1", "release-churn-2"}
    assert release_state(place.home, place.engine)["settled"]


def test_of_two_calls_that_promote_at_once_one_wins(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    seen = to_first_traffic(place, "2")
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(promote(place, seen, "good").verdict)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["hold", "release"]


def test_a_shadow_answers_nobody_and_becomes_champion_when_its_judge_says_so(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    rollout = to_first_traffic(place, "2", strategy="shadow")
    assert rollout.state == "shadow"
    state = release_state(place.home, place.engine)
    assert (state["shadow"]["version"], state["canary"], state["settled"]) == ("2", None, True)
    assert set(ask(range(50))) == {(200, "churn:1")}
    decision = send_more_traffic(place, rollout, Decision("shadow", "advance", "scores agree"))
    assert (decision.gate, decision.verdict) == ("release", "release")
    assert set(ask(range(20))) == {(200, "churn:2")}


def test_a_canary_is_a_shadow_first_where_the_charter_says_so(place: ReleasePlace) -> None:
    place = replace(place, limits=LIMITS.model_copy(update={"shadow_first": True}))
    to_first_traffic(place, "1")
    rollout = to_first_traffic(place, "2")
    assert rollout.state == "shadow"
    assert send_more_traffic(place, rollout, Decision("shadow", "advance", "scores agree")).gate == "canary"
    assert (current(place).state, current(place).stage) == ("canary", 0)
    assert read_routes(place.home).canary_share == 0.3


def test_a_dead_shadow_is_rolled_back_and_its_first_step_says_so(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    rollout = begin(place, "2", strategy="shadow")
    assert smoke_test(place, rollout.release_id).verdict == "pass"
    pass_smoke_test(place, rollout)
    stop_program(place.home, "release-churn-2")
    mode_file(place.home, "churn:2").write_text("end")
    decision = send_first_traffic(place, current(place))
    assert (decision.gate, decision.verdict) == ("release", "rolled back")
    assert "the shadow does not come up again" in decision.reason
    assert rollouts.open_rollout(place.engine) is None


def test_a_paused_rollout_does_not_advance_can_be_promoted_by_name_and_its_old_champion_comes_back(
    place: ReleasePlace
) -> None:
    to_first_traffic(place, "1")
    with pytest.raises(ReleaseError, match="cannot pause: no rollout is open; churn:1 is champion since"):
        pause(place, who="ada", why="test")
    rollout = to_first_traffic(place, "2")
    assert pause(place, who="ada", why="holiday").reason == "churn:2 stays canary at stage 1, by ada: holiday"
    with pytest.raises(ReleaseError, match=r"it is paused since .* by ada: holiday"):
        pause(place, who="bob", why="me too")
    held = send_more_traffic(place, rollout, Decision("canary", "advance", "fine"))
    assert (held.verdict, current(place).stage) == ("hold", 0)
    assert resume(place, who="ada", why="back").verdict == "resumed"
    with pytest.raises(ReleaseError, match="it is not paused, it is canary at stage 1"):
        resume(place, who="ada", why="back")
    pause(place, who="ada", why="holiday")
    decision = promote_by_hand(place, current(place), who="ada", why="sure of it")
    assert "promoted from canary at stage 1 by ada: sure of it" in decision.reason
    begun = time.monotonic()
    roll_back(place, who="ada", why="was wrong")
    print(f"\nrolled back to a warm champion in {time.monotonic() - begun:.2f} s")
    assert set(ask(range(20))) == {(200, "churn:1")}


def test_a_rollback_that_was_killed_is_finished_and_goes_no_further(place: ReleasePlace) -> None:
    for name in ("1", "2", "3"):
        rollout = begin(place, name, strategy="basic")
        assert smoke_test(place, rollout.release_id).verdict == "pass"
        pass_smoke_test(place, rollout)
        send_first_traffic(place, current(place))
    serving = rollouts.champion(place.engine)
    assert serving is not None
    assert rollouts.close(place.engine, serving, state="rolled back", reason="by ada: complaints")  # and killed
    said = roll_back(place, who="ada", why="complaints").reason
    assert said == "churn:3 is rolled back, begun by a call that was killed: by ada: complaints"
    assert set(ask(range(20))) == {(200, "churn:2")}


def test_a_rollback_that_was_killed_before_its_routes_is_finished_by_the_watchdog(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    promote(place, to_first_traffic(place, "2"), "good")
    serving = rollouts.champion(place.engine)
    assert serving is not None
    assert rollouts.close(place.engine, serving, state="rolled back", reason="by ada: complaints")  # and killed
    assert set(ask(range(20))) == {(200, "churn:2")}
    assert follow_state(place)
    assert set(ask(range(20))) == {(200, "churn:1")}
    assert not follow_state(place)
    set_routes(place.home, Routes())  # where the file is gone it reads so, too
    assert read_routes(place.home).champion is None
    assert follow_state(place)
    assert set(ask(range(20))) == {(200, "churn:1")}
    promote(place, to_first_traffic(place, "3"), "good")
    for _ in range(2):  # typed twice it goes back once, killed in between or not
        assert roll_back(place, who="ada", why="odd scores").verdict == "rolled back"
        assert set(ask(range(20))) == {(200, "churn:1")}


def test_rolling_back_by_hand_ends_the_canary_then_brings_back_the_champion_before(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    rollout = to_first_traffic(place, "2")
    promote(place, rollout, "good")
    to_first_traffic(place, "3")
    assert "churn:3 is rolled back: by ada: odd scores" in roll_back(place, who="ada", why="odd scores").reason
    assert set(ask(range(20))) == {(200, "churn:2")}
    assert roll_back(place, who="ada", why="complaints", further=True).reason == (
        "churn:1 is champion again, churn:2 is rolled back by ada: complaints")
    assert set(ask(range(20))) == {(200, "churn:1")}
    assert running(place) == {"release-churn-1"}
    assert read_routes(place.home).fallback is None


def test_a_rollback_just_after_the_judge_rolled_back_leaves_the_champion_unless_it_says_further(
    place: ReleasePlace
) -> None:
    to_first_traffic(place, "1")
    promote(place, to_first_traffic(place, "2"), "good")
    roll_back_canary(place, to_first_traffic(place, "3"), "kill switch: 60 of 60")
    ended = rollouts.last_ended(place.engine)
    assert ended
    with pytest.raises(ReleaseError) as refused:
        roll_back(place, who="ada", why="odd scores")
    assert str(refused.value) == (
        f"cannot roll back churn:2, which serves now: churn:3 was rolled back already, at {ended.closed_at}, by the "
        "platform: kill switch: 60 of 60. To go one champion further back, to churn:1: `make rollback FURTHER=1 "
        "WHO=ada WHY=text`")
    assert set(ask(range(20))) == {(200, "churn:2")}
    assert roll_back(place, who="ada", why="odd scores", further=True).reason.startswith("churn:1 is champion again")
    with pytest.raises(ReleaseError, match="there is no champion before churn:1"):
        roll_back(place, who="bob", why="me too")


@pytest.mark.parametrize("since", ["promoted since", "long ago"])
def test_a_rollback_of_before_does_not_stand_in_the_way_of_the_next(place: ReleasePlace, since: str) -> None:
    to_first_traffic(place, "1")
    if since == "long ago":
        promote(place, to_first_traffic(place, "2"), "good")
    roll_back_canary(place, to_first_traffic(place, "3"), "kill switch: 60 of 60")
    if since == "promoted since":
        promote(place, to_first_traffic(place, "2"), "good")
    else:
        with place.engine.begin() as connection:
            for name, minutes in (("1", 18), ("2", 17), ("3", 16)):
                connection.execute(ROLLOUTS.update().where(ROLLOUTS.c.release_id == f"churn:{name}").values(
                    closed_at=(datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="microseconds")))
    assert roll_back(place, who="ada", why="complaints").reason.startswith("churn:1 is champion again")


def test_a_canary_goes_by_the_stages_it_opened_with_when_the_charter_changes(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    rollout = to_first_traffic(place, "2")
    assert rollout.evidence["stages"] == list(LIMITS.stages)
    changed = replace(place, limits=LIMITS.model_copy(update={"stages": (0.1,)}))
    assert settle(changed).canary_share == LIMITS.stages[0]
    assert send_more_traffic(changed, rollout, Decision("canary", "advance", "fine")).gate == "canary"
    assert read_routes(place.home).canary_share == LIMITS.stages[1]


def test_a_rollback_does_not_need_the_release_that_would_be_kept_warm_then(
    place: ReleasePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1", "2", "3"):
        rollout = begin(place, name, strategy="basic")
        assert smoke_test(place, rollout.release_id).verdict == "pass"
        pass_smoke_test(place, rollout)
        send_first_traffic(place, current(place))

    def venv(_home: Home, tag: str) -> Path:
        if tag == "churn:1":
            raise ReleaseError("cannot find the Bento churn:1")
        return Path(sys.prefix)

    monkeypatch.setattr(package, "bento_venv", venv)
    assert roll_back(place, who="ada", why="complaints").reason.startswith("churn:2 is champion again")
    assert set(ask(range(20))) == {(200, "churn:2")}
    assert running(place) == {"release-churn-2"}


def test_a_canary_can_be_rolled_back_while_supervisor_and_envoy_are_down(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    to_first_traffic(place, "2")
    stop_supervisor(place.home)
    decision = roll_back(place, who="ada", why="fire")
    assert decision.verdict == "rolled back"
    assert "its process may still run" in decision.reason
    champion = read_routes(place.home).champion
    assert read_routes(place.home) == Routes(champion)
    assert champion == Upstream("churn:1", FIRST_PORT)


def test_after_down_and_up_champion_and_canary_serve_as_before(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    rollout = to_first_traffic(place, "2")
    before = read_routes(place.home)
    stop_supervisor(place.home)
    start_platform(place.home)
    assert read_routes(place.home) == Routes(before.champion)
    assert settle(place) == before
    assert {release for _, release in ask(range(60))} == {"churn:1", "churn:2"}
    flushed()
    assert look(place, rollout).evidence["canary_errors"] == 0


def test_a_canary_that_does_not_come_up_again_is_rolled_back_and_recorded(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    to_first_traffic(place, "2")
    stop_supervisor(place.home)
    mode_file(place.home, "churn:2").write_text("end")
    start_platform(place.home)
    settle(place)
    assert rollouts.open_rollout(place.engine) is None
    row = read_decisions(place.engine, gate="release")[0]
    assert row.decision.verdict == "rolled back"
    assert "the canary does not come up again: cannot start churn:2" in row.decision.reason
    assert row.decision.evidence["rollout_id"]
    assert set(ask(range(20))) == {(200, "churn:1")}


def test_a_canary_that_hangs_is_not_waited_for_as_one_that_starts(
    place: ReleasePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.release.settle.ROUTED_SECONDS", 1)
    to_first_traffic(place, "1")
    to_first_traffic(place, "2")
    hung = owned(place.home, name=program_name("churn:2"))
    for process in hung:
        process.suspend()
    try:
        begun = time.monotonic()
        settle(place)
        assert time.monotonic() - begun < 15  # ready_seconds is 20 here, 120 on a platform
    finally:
        for process in hung:
            if process.is_running():
                process.resume()
    assert rollouts.open_rollout(place.engine) is None
    assert "the canary does not come up again" in read_decisions(place.engine, gate="release")[0].decision.reason


def test_a_release_is_started_again_only_where_it_should_read_another_store(place: ReleasePlace) -> None:
    to_first_traffic(place, "1")
    before = programs(place.home)["release-churn-1"].pid
    settle(place)
    assert programs(place.home)["release-churn-1"].pid == before
    settle(replace(place, home=replace(place.home, online_store="redis://127.0.0.1:6379/3")))
    assert programs(place.home)["release-churn-1"].pid != before
    script = place.home.run / "programs/release-churn-1.sh"
    assert "export CHURN_FEAST_ONLINE=redis://127.0.0.1:6379/3\n" in script.read_text()
    assert ask(range(3)) == [(200, "churn:1")] * 3


def test_a_taken_port_is_passed_over(place: ReleasePlace) -> None:
    build(place, "1")
    taken = http_server(FIRST_PORT)
    try:
        assert start_release(place, "churn:1") == Upstream("churn:1", FIRST_PORT + 1)
        assert program_name("churn:1") in programs(place.home)
    finally:
        taken.server_close()


def http_server(port: int) -> Any:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    return HTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)


def test_an_unfinished_store_is_no_champion(place: ReleasePlace) -> None:
    assert settle(place) == Routes()
    assert isinstance(place.engine, sa.Engine)
    assert ask(range(1)) == [(503, "")]
