"""The exporter: each source is told as it is now, and one that cannot be read is missing, counted and named."""

from __future__ import annotations

import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.settings import REPO
from models.charter import load_charter
from models.gates.signals import Signal
from tasks.home import Home
from tasks.maturity import note_level
from tasks.monitoring import metrics_programs
from tasks.monitoring.exporter import Exporter, serve
from tasks.monitoring.heartbeats import PARTS, beat, note_signals
from tasks.monitoring.metrics_programs import Restarts
from tasks.monitoring.queue import prediction_log
from tasks.monitoring.ship_log import ship
from tasks.release import releases, rollouts
from tasks.release.processes import ProgramInfo
from tasks.state import open_state, set_clock
from tasks.tables import AWAKE

AS_OF = datetime(2025, 3, 1, tzinfo=UTC)
NEEDS_STATE = {"stores", "parts", "releases", "alarms", "signals"}


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    home = Home(tmp_path / "home")
    set_clock(open_state(home.state_url), AS_OF)
    return Exporter(home, load_charter(REPO / "charter.yaml"))


def told(exporter: Exporter) -> dict[str, float]:
    """Series -> value, with the first label's value where there is one."""
    return {f"{one.name}/{next(iter(one.labels.values()))}" if one.labels else one.name: one.value
            for family in text_string_to_metric_families(exporter.text().decode()) for one in family.samples}


def by_part(exporter: Exporter, metric: str) -> dict[str, float]:
    return {one.labels["part"]: one.value for family in text_string_to_metric_families(exporter.text().decode())
            for one in family.samples if one.name == metric}


def up(seen: dict[str, float]) -> set[str]:
    return {name.partition("/")[2] for name, value in seen.items()
            if name.startswith("churn_exporter_source_up/") and value == 1}


def test_without_a_platform_what_can_be_told_is_told_and_the_rest_is_down(exporter: Exporter) -> None:
    seen = told(exporter)
    assert up(seen) == {"disk", "folders", "charter", "prediction log", *NEEDS_STATE}
    assert (seen["churn_exporter_errors_total/programs"], seen["churn_exporter_errors_total/router"]) == (1, 1)
    assert not any(name.startswith(("churn_program", "envoy_")) for name in seen)
    assert seen["churn_charter_limit/requirements.max_feature_age_days"] == 35
    assert seen["churn_champion"] == 0


def test_an_unreadable_state_leaves_nothing_of_before_and_is_told_again_once_it_is_back(exporter: Exporter) -> None:
    engine, state = open_state(exporter.home.state_url), exporter.home.root / "state.db"
    beat(engine, "online", as_of=AS_OF - timedelta(days=2))
    assert told(exporter)["churn_store_age_seconds/online"] == 2 * 86_400
    engine.dispose()
    kept = {path: path.read_bytes() for path in state.parent.glob("state.db*")}
    for path in kept:
        path.unlink()
    state.write_text("no database")
    seen = told(exporter)
    assert not up(seen) & NEEDS_STATE
    assert not any(name.startswith(("churn_store_age", "churn_champion", "churn_alarms_open")) for name in seen)
    assert seen["churn_exporter_errors_total/stores"] == 1
    engine.dispose()
    for path, content in kept.items():
        path.write_bytes(content)
    assert told(exporter)["churn_store_age_seconds/online"] == 2 * 86_400


def test_the_age_of_the_lake_and_of_scores_comes_from_names_of_partitions(exporter: Exporter) -> None:
    for path in ("snapshots/old/cut=2025-02-28.parquet", "snapshots/f/cut=2025-01-31T000001Z.parquet",
                 "snapshots/f/cut=2025-01-31.parquet", "scores/as_of=2025-02-27T120000.500000Z.parquet"):
        (exporter.home.lake / path).parent.mkdir(parents=True, exist_ok=True)
        (exporter.home.lake / path).touch()
    seen = told(exporter)
    assert seen["churn_store_age_seconds/snapshot"] == 86_400
    assert seen["churn_store_age_seconds/scores"] == 1.5 * 86_400 - 0.5
    engine = open_state(exporter.home.state_url)  # the champion's own snapshots are those that count
    releases.register_release(engine, release_id="churn:1", model_version="1", run_id="r", fingerprint="f",
                              as_of="2025-01-01", auc=0.7, monthly_value=1.0)
    rollouts.close(engine, rollouts.open_new(engine, release_id="churn:1", strategy="basic", who="ada", why="test"),
                   state="champion", reason="first")
    assert told(exporter)["churn_store_age_seconds/snapshot"] == 29 * 86_400 - 1


def test_the_queue_is_what_the_shipper_has_not_taken_and_its_age_that_of_the_oldest_line(exporter: Exporter) -> None:
    log = prediction_log(exporter.home)
    log.parent.mkdir(parents=True)

    def predict(minutes_ago: float) -> int:
        at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        line = json.dumps({"at": at.isoformat(), "request_id": f"r{minutes_ago}", "probability": 0.5,
                           "release_id": "churn:1", "model_version": "1"}).replace('": ', '":') + "\n"
        with log.open("a") as file:
            return file.write(line)

    assert told(exporter)["churn_unshipped_bytes"] == 0
    size = predict(30) + predict(20)
    seen = told(exporter)
    assert seen["churn_unshipped_bytes"] == size
    assert seen["churn_unshipped_oldest_seconds"] == pytest.approx(1800, abs=30)
    assert ship(exporter.home, open_state(exporter.home.state_url)).rows == 2
    assert [told(exporter)[f"churn_unshipped_{name}"] for name in ("bytes", "oldest_seconds")] == [0, 0]
    size = predict(10)
    seen = told(exporter)
    assert seen["churn_unshipped_bytes"] == size
    assert seen["churn_unshipped_oldest_seconds"] == pytest.approx(600, abs=30)


def test_a_restart_is_a_program_with_another_process_than_before() -> None:
    restarts = Restarts()
    for pid in (10, 10, None, 11, 11, 12):
        restarts.see({"worker": ProgramInfo("RUNNING" if pid else "BACKOFF", pid, None)})
    assert restarts.counts == {"worker": 2}


def test_folders_are_walked_seldom(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    (exporter.home.lake / "raw").mkdir(parents=True)
    (exporter.home.lake / "raw/a").write_bytes(b"x" * 1000)
    assert told(exporter)["churn_folder_bytes/lake"] == 1000
    monkeypatch.setattr(metrics_programs.os, "scandir", lambda _: pytest.fail("walked again"))
    assert told(exporter)["churn_folder_bytes/lake"] == 1000


def test_a_part_is_silent_by_the_hours_the_platform_ran_also_where_it_never_worked(exporter: Exporter) -> None:
    engine, here = open_state(exporter.home.state_url), datetime.now(UTC)
    with engine.begin() as connection:
        for began, ended in ((50, 30), (10, 0)):  # hours ago; down for 20 hours
            connection.execute(AWAKE.insert().values(began=(here - timedelta(hours=began)).isoformat(),
                                                     ended=(here - timedelta(hours=ended)).isoformat()))
    beat(engine, "ingest", at=here - timedelta(hours=35))
    beat(engine, "ship", at=here + timedelta(hours=5))
    silent = by_part(exporter, "churn_part_silent_seconds")
    assert {part: round(silent[part] / 3600, 3) for part in ("ingest", "features", "ship")} == {
        "ingest": 15, "features": 30, "ship": 30}  # a beat of the future vouches for nothing
    limits = by_part(exporter, "churn_part_limit_seconds")
    assert (limits["ship"], limits["score"]) == (26 * 3600, math.inf)  # without a champion there is nothing to score


def test_nothing_is_due_at_the_manual_level_and_each_series_is_there(exporter: Exporter) -> None:
    note_level(exporter.home, 1)
    assert by_part(exporter, "churn_part_limit_seconds") == dict.fromkeys(PARTS, math.inf)
    assert by_part(exporter, "churn_part_silent_seconds") == dict.fromkeys(PARTS, 0)


@pytest.mark.parametrize(("hours_ago", "silent"), [(None, math.inf), (2, 7200), (-2, math.inf)])
def test_a_watchdog_is_silent_by_wall_time_and_for_ever_where_its_beat_is_missing_or_of_the_future(
    exporter: Exporter, hours_ago: float | None, silent: float
) -> None:
    if hours_ago is not None:
        beat(open_state(exporter.home.state_url), "watchdog", at=datetime.now(UTC) - timedelta(hours=hours_ago))
    assert told(exporter)["churn_watchdog_silent_seconds"] == pytest.approx(silent, abs=30)


def test_what_was_never_compared_or_in_the_future_is_infinitely_old(exporter: Exporter) -> None:
    engine = open_state(exporter.home.state_url)
    found = [told(exporter)["churn_store_age_seconds/parity"]]
    for as_of, at in ((AS_OF + timedelta(days=1), None), (AS_OF, datetime.now(UTC) + timedelta(hours=5)),
                      (AS_OF - timedelta(days=1), None)):
        beat(engine, "parity", as_of=as_of, at=at)
        found.append(told(exporter)["churn_store_age_seconds/parity"])
    assert found == [math.inf, math.inf, math.inf, 86_400]


def test_a_signal_that_no_check_has_seen_is_told_in_no_state(exporter: Exporter) -> None:
    note_signals(open_state(exporter.home.state_url), [Signal("concept", "bad", "moved", {})], as_of=AS_OF)
    states = {(one.labels["signal"], one.labels["state"]): one.value
              for family in text_string_to_metric_families(exporter.text().decode()) for one in family.samples
              if one.name == "churn_signal_state"}
    assert len(states) == 16
    assert [key for key, value in states.items() if value] == [("concept", "bad")]


@pytest.fixture
def url(exporter: Exporter) -> Iterator[str]:
    server = serve(exporter, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_it_answers_on_loopback_and_nothing_but_metrics_and_targets(url: str) -> None:
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b"# TYPE churn_champion gauge" in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/", timeout=20)


def test_the_targets_are_the_releases_that_have_a_port_and_an_error_where_nobody_knows(
    url: str, exporter: Exporter
) -> None:
    engine = open_state(exporter.home.state_url)
    for name in ("1", "2"):
        releases.register_release(engine, release_id=f"churn:{name}", model_version=name, run_id="r", fingerprint="f",
                                  as_of="2025-01-01", auc=0.7, monthly_value=1.0)
    releases.claim_port(engine, "churn:2", [8105])

    def targets() -> object:
        with urllib.request.urlopen(f"{url}/targets", timeout=20) as answer:
            return json.loads(answer.read())

    assert targets() == [{"targets": ["127.0.0.1:8105"], "labels": {"release": "churn:2", "model_version": "2"}}]
    engine.dispose()
    for path in exporter.home.root.glob("state.db*"):
        path.unlink()
    (exporter.home.root / "state.db").write_text("no database")
    with pytest.raises(urllib.error.HTTPError) as caught:
        targets()
    assert caught.value.code == 503
    assert caught.value.read() == b"cannot read our state\n"
