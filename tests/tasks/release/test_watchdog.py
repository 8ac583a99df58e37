"""The watchdog: where nobody looks at a candidate any more, everybody goes back to the champion."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from deploy.local.parts import watchdog_environment
from flows.settings import REPO, load_place, load_settings
from models.limits import Rollout
from tasks.home import Home
from tasks.release import releases, rollouts, watchdog
from tasks.release.package import store_variables
from tasks.release.processes import programs, start_program
from tasks.release.release_process import ReleasePlace
from tasks.release.routing import Routes, Upstream, read_routes, set_routes
from tasks.release.settle import apply_routes
from tasks.release.watchdog import follow_state, watch_once, watched_home
from tasks.state import open_state, read_decisions
from tasks.tables import ROLLOUTS

LIMITS = Rollout(judge_silence_minutes=15)


def build(engine: sa.Engine, name: str) -> str:
    return releases.register_release(
        engine, release_id=f"churn:{name}", model_version=name, run_id="run", fingerprint="f", as_of="2025-01-01",
        auc=0.7, monthly_value=1.0).release_id


def with_canary(home: Home, *, minutes_ago: float, looked_minutes_ago: float | None = None) -> ReleasePlace:
    """A champion and a canary as our state and the route file know them; no process runs."""
    engine = open_state(home.state_url)
    for name in ("1", "2"):
        rollout = rollouts.open_new(engine, release_id=build(engine, name), strategy="canary", who="ada", why="test")
        releases.claim_port(engine, f"churn:{name}", [25240 + int(name)])
        if name == "1":
            rollouts.close(engine, rollout, state="champion", reason="first")
    assert rollouts.advance(engine, rollout, state="canary")
    ago = {"stage_since": minutes_ago} | ({"last_look_at": looked_minutes_ago} if looked_minutes_ago else {})
    with engine.begin() as connection:
        connection.execute(ROLLOUTS.update().where(ROLLOUTS.c.rollout_id == rollout.rollout_id).values(
            {name: (datetime.now(UTC) - timedelta(minutes=value)).isoformat(timespec="microseconds")
             for name, value in ago.items()}))
    set_routes(home, Routes(Upstream("churn:1", 25241), Upstream("churn:2", 25242), 0.3, rollout.rollout_id))
    return ReleasePlace(home=home, engine=engine, limits=LIMITS, repo=home.root, first_port=25240, ready_seconds=1)


def test_a_canary_nobody_looked_at_for_too_long_is_rolled_back_and_the_ledger_says_why(tmp_path: Path) -> None:
    place = with_canary(Home(tmp_path), minutes_ago=16)
    decision = watch_once(place)
    assert decision is not None
    assert (decision.gate, decision.verdict) == ("release", "rolled back")
    assert "the judge was silent for 16.0 minutes (limit 15), its last look was never" in decision.reason
    assert rollouts.open_rollout(place.engine) is None
    assert read_routes(place.home).canary is None
    assert [row.decision.verdict for row in read_decisions(place.engine, subject="churn:2")] == ["no go", "rolled back"]
    assert watch_once(place) is None


def test_a_canary_is_taken_off_its_customers_though_the_route_file_cannot_be_read(tmp_path: Path) -> None:
    """It was rolled back in our state alone: Envoy goes on by what it read, so it kept its customers for good."""
    place = with_canary(Home(tmp_path), minutes_ago=16)
    file = place.home.run / "envoy" / "xds" / "rds.json"
    file.write_text(file.read_text(encoding="utf-8")[:300], encoding="utf-8")
    decision = watch_once(place)
    assert decision is not None
    assert (decision.gate, decision.verdict) == ("release", "rolled back")
    routes = read_routes(place.home)
    assert (routes.champion, routes.canary) == (Upstream("churn:1", 25241), None)
    assert [row.decision.verdict for row in read_decisions(place.engine, subject="churn:2")] == ["no go", "rolled back"]


def test_a_route_file_that_cannot_be_read_is_written_anew_where_nobody_else_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = with_canary(Home(tmp_path), minutes_ago=16)
    monkeypatch.setattr(watchdog, "settle", apply_routes)  # no process runs here
    assert watch_once(place) is not None
    assert not follow_state(place)
    (place.home.run / "envoy" / "xds" / "rds.json").write_text("{}", encoding="utf-8")
    assert follow_state(place)
    assert read_routes(place.home) == Routes(Upstream("churn:1", 25241))


@pytest.mark.parametrize(("minutes_ago", "looked_minutes_ago"), [(14, None), (200, 14)])
def test_a_canary_that_is_looked_at_stays(tmp_path: Path, minutes_ago: float, looked_minutes_ago: float | None) -> None:
    assert watch_once(with_canary(Home(tmp_path), minutes_ago=minutes_ago, looked_minutes_ago=looked_minutes_ago)
                      ) is None


def test_the_time_the_platform_was_down_is_no_silence_of_the_judge(tmp_path: Path) -> None:
    place = with_canary(Home(tmp_path), minutes_ago=600, looked_minutes_ago=500)
    assert watch_once(place, minutes_watched=14) is None
    assert watch_once(place, minutes_watched=15) is not None


def test_after_the_clock_went_back_a_canary_nobody_looks_at_is_rolled_back_and_one_that_is_looked_at_stays(
    tmp_path: Path
) -> None:
    place = with_canary(Home(tmp_path), minutes_ago=-300, looked_minutes_ago=-299)
    assert watch_once(place, minutes_watched=14) is None
    seen = rollouts.open_rollout(place.engine)
    assert seen
    rollouts.touch_look(place.engine, seen.rollout_id)  # by the clock as it is now
    assert watch_once(place, minutes_watched=600) is None
    ahead = (datetime.now(UTC) + timedelta(minutes=299)).isoformat(timespec="microseconds")
    with place.engine.begin() as connection:
        connection.execute(ROLLOUTS.update().where(ROLLOUTS.c.state == "canary").values(last_look_at=ahead))
    decision = watch_once(place, minutes_watched=15)
    assert decision is not None
    assert f"silent for 15.0 minutes (limit 15), its last look was {ahead}, ahead of the clock" in decision.reason


def test_a_clock_that_is_set_right_by_seconds_is_no_silence_of_the_judge(tmp_path: Path) -> None:
    assert watch_once(with_canary(Home(tmp_path), minutes_ago=-0.1, looked_minutes_ago=-0.1)) is None


def test_a_paused_canary_must_be_looked_at_too(tmp_path: Path) -> None:
    place = with_canary(Home(tmp_path), minutes_ago=200, looked_minutes_ago=100)
    seen = rollouts.open_rollout(place.engine)
    assert seen
    assert rollouts.pause(place.engine, seen, who="ada", why="holiday")
    assert watch_once(place) is not None


def test_a_rollout_without_traffic_may_wait(tmp_path: Path) -> None:
    place = with_canary(Home(tmp_path), minutes_ago=200)
    with place.engine.begin() as connection:
        connection.execute(ROLLOUTS.update().where(ROLLOUTS.c.state == "canary").values(state="smoke-tested"))
    assert watch_once(place) is None


def test_it_needs_neither_prefect_nor_pandas_nor_mlflow() -> None:
    """It runs beside everything, all the time; and it must run where they do not. So must a rollback by hand."""
    for module in ("tasks.release.watchdog", "deploy.local.release_by_hand"):
        said = subprocess.run(
            [sys.executable, "-c", f"import sys, {module}\nprint([name for name in ('prefect', 'pandas', 'polars', "
             "'mlflow', 'sklearn', 'scipy', 'bentoml') if name in sys.modules])"],
            cwd=REPO, capture_output=True, text=True, check=True).stdout
        assert said == "[]\n", module


def test_what_it_starts_again_is_started_as_the_platform_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a rollback by the watchdog would start the champion anew, on another store or open to everybody."""
    for name, value in {"CHURN_HOME": tmp_path / "home", "CHURN_API_KEYS": tmp_path / "keys",
                        "CHURN_ONLINE_STORE": "redis://127.0.0.1:6379/3",
                        "CHURN_FEATURE_REGISTRY": "postgresql://a:b@127.0.0.1/features"}.items():
        monkeypatch.setenv(name, str(value))
    settings = load_settings()
    _charter, home = load_place(settings)
    watched = watched_home(home.root, home.name, watchdog_environment(settings, home))
    assert store_variables(watched) == store_variables(home)
    assert store_variables(watched)["CHURN_API_KEYS"] == str(tmp_path / "keys")


def test_a_shell_that_names_no_api_keys_opens_no_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CHURN_API_KEYS=keys make run` in one, `make rollback` in another: what that starts must ask for a key too."""
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CHURN_API_KEYS", str(tmp_path / "keys"))
    load_place(load_settings())
    monkeypatch.delenv("CHURN_API_KEYS")
    settings = load_settings()
    _charter, home = load_place(settings)
    assert home.api_keys == tmp_path / "keys"
    assert watchdog_environment(settings, home)["CHURN_API_KEYS"] == str(tmp_path / "keys")
    (home.run / "api-keys").unlink()
    assert load_place(settings)[1].api_keys is None


@pytest.mark.service
def test_under_supervisor_it_rolls_back_when_the_schedule_is_dead(supervised_home: Home, tmp_path: Path) -> None:
    charter = tmp_path / "charter.yaml"
    charter.write_text(
        "name: tiny\nproblem: {horizon_days: 30}\nrollout: {judge_silence_minutes: 0.1}\nvalue: {customers: 10, "
        "monthly_churners: 2, share_found: 0.5, share_who_stay: 0.5, worth_of_saved: 5, contact_budget: 2}\n")
    place = with_canary(supervised_home, minutes_ago=0)
    start_program(supervised_home, "watchdog", [
        sys.executable, "-m", "tasks.release.watchdog", "--home", str(supervised_home.root), "--charter", str(charter),
        "--first-port", "25240", "--api", "http://127.0.0.1:25241", "--every", "0.5"],
        environment={"PYTHONPATH": str(REPO)}, directory=supervised_home.root)
    for _ in range(4):  # a schedule that lives: each look keeps the canary
        seen = rollouts.open_rollout(place.engine)
        assert seen, "rolled back although the judge looked"
        rollouts.touch_look(place.engine, seen.rollout_id)
        time.sleep(2)
    deadline = time.monotonic() + 60  # and is dead from here on
    while rollouts.open_rollout(place.engine) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    while read_routes(supervised_home).canary is not None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert programs(supervised_home)["watchdog"].state == "RUNNING"
    last = rollouts.last_rollout(place.engine)
    assert last
    assert "the judge was silent for 0.1 minutes (limit 0.1)" in str(last.reason)
