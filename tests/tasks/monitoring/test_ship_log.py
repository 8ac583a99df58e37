"""Shipping the prediction log: roles, twice the same, killed in the middle, and what may be removed when."""

import json
import os
import random
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from models.serving.prediction_log import PredictionLog
from tasks.home import Home
from tasks.monitoring import ship_log
from tasks.monitoring.predictions import read_predictions
from tasks.monitoring.ship_log import SCHEMA, prediction_log, predictions_folder, ship
from tasks.release.routing import access_log
from tasks.state import open_state
from tasks.tables import ROLLOUTS
from tests.tasks.monitoring.serving_logs import (
    BEFORE,
    NEW,
    OLD,
    ROLLOUT,
    START,
    prediction,
    routed,
    write_predictions,
    write_router,
)

EVERY = ("served", "shadow", "superseded", "unrouted")


@pytest.fixture
def place(tmp_path):
    home = Home(tmp_path)
    return home, open_state(home.state_url)


def rollout(engine, *, state="shadow", opened=START, rollout_id=ROLLOUT):
    with engine.begin() as connection:
        connection.execute(ROLLOUTS.insert().values(
            rollout_id=rollout_id, release_id=NEW, champion_id=OLD, strategy="shadow", state=state, stage=0, who="t",
            why="t", opened_at=opened.isoformat(), stage_since=opened.isoformat(), evidence="{}"))


def roles(home):
    frame = read_predictions(home, roles=EVERY)
    return {(row["request_id"], row["release_id"], row["attempt"]): row["role"] for row in frame.to_dicts()}


def test_a_prediction_becomes_a_row_with_every_column(place):
    home, engine = place
    write_predictions(home, prediction("a", degraded=["stale_features"]), prediction("a", row=1, entity=None))
    write_router(home, routed("a"))
    done = ship(home, engine)
    assert done.line == "2 predictions shipped: 2 served"
    frame = read_predictions(home)
    assert frame.schema == pl.Schema(SCHEMA)
    assert frame.row(0, named=True) | {"features": None} == {
        "at": START, "request_id": "a", "row": 0, "attempt": 1, "release_id": OLD, "model_version": "1",
        "entity": "c1", "features_as_of": START.replace(day=19, hour=0), "probability": 0.25, "action": "contact",
        "why": "value", "expected_value": 3.5, "degraded": ["stale_features"], "features": None, "route": "get",
        "role": "served"}
    assert json.loads(frame["features"][0]) == {"visits": 3, "spend": 1.5, "tier": None}
    assert [path.name for path in predictions_folder(home).iterdir()] == ["date=2026-11-20"]


def test_the_role_of_each_answer_follows_from_the_routers_log(place):
    home, engine = place
    rollout(engine)
    write_predictions(
        home, prediction("plain"), prediction("golden"),
        prediction("retried", release=NEW), prediction("retried", attempt=2),
        prediction("slow", attempt=1), prediction("slow", attempt=2, release=BEFORE),
        prediction("mirrored"), prediction("mirrored", release=NEW),
        prediction("left"), prediction("again", attempt=1), prediction("again", attempt=3))
    write_router(
        home, routed("plain"), routed("retried", attempts=2), routed("slow", by=BEFORE, attempts=2),
        routed("mirrored", rollout=ROLLOUT, shadow="1"), routed("left", code=0), routed("again", attempts=3))
    ship(home, engine)
    assert roles(home) == {
        ("plain", OLD, 1): "served", ("golden", OLD, 1): "unrouted",
        ("retried", NEW, 1): "superseded", ("retried", OLD, 2): "served",
        ("slow", OLD, 1): "superseded", ("slow", BEFORE, 2): "served",
        ("mirrored", OLD, 1): "served", ("mirrored", NEW, 1): "shadow",
        ("left", OLD, 1): "superseded", ("again", OLD, 1): "superseded", ("again", OLD, 3): "served"}
    assert read_predictions(home)["request_id"].to_list() == ["again", "mirrored", "plain", "retried", "slow"]
    assert set(read_predictions(home, roles=("shadow",))["release_id"]) == {NEW}


@pytest.mark.parametrize("wrong", [{"probability": None}, {"row": "x"}, {"attempt": "x"}, {"decision": "contact"}])
def test_a_line_that_is_no_prediction_stops_none_after_it(place, wrong):
    home, engine = place
    write_predictions(home, prediction("a"), prediction("b", **wrong), prediction("c"))
    write_router(home, routed("a"), routed("b"), routed("c"))
    assert ship(home, engine).line == "2 predictions shipped: 2 served; 1 lines could not be read"
    assert read_predictions(home)["request_id"].to_list() == ["a", "c"]


def test_shipping_twice_ships_what_is_new_once(place):
    home, engine = place
    write_predictions(home, prediction("a"))
    write_router(home, routed("a"))
    assert (ship(home, engine).rows, ship(home, engine).rows) == (1, 0)
    write_predictions(home, prediction("b", seconds=5))
    write_router(home, routed("b", seconds=5))
    assert ship(home, engine).rows == 1
    assert read_predictions(home)["request_id"].to_list() == ["a", "b"]


def test_a_run_that_is_killed_between_lake_and_state_is_made_good_by_the_next(place, monkeypatch):
    home, engine = place
    monkeypatch.setattr(ship_log, "CHUNK_LINES", 2)
    write_predictions(home, *[prediction(f"r{number}", seconds=number) for number in range(5)])
    write_router(home, *[routed(f"r{number}", seconds=number) for number in range(5)])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ship_log, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            ship(home, engine)
    first = sorted(path.name for path in predictions_folder(home).rglob("*.parquet"))
    assert len(first) == 1
    assert ship(home, engine).rows == 5
    assert read_predictions(home)["request_id"].to_list() == [f"r{number}" for number in range(5)]
    assert pl.read_parquet(list(predictions_folder(home).rglob("*.parquet"))).height == 5  # no row lies there twice
    assert ship(home, engine).rows == 0


def test_what_is_young_waits_for_the_routers_line(place):
    home, engine = place
    just_now = datetime.now(UTC).isoformat()
    write_predictions(home, prediction("old"), {**prediction("young"), "at": just_now})
    write_router(home, routed("old"))
    assert ship(home, engine).rows == 1
    assert ship(home, engine, settle_seconds=-2).rows == 1


@pytest.mark.parametrize("wrong", ["2099-01-01T00:00:00Z", "9999-12-31T23:59:59-10:00"])
def test_a_line_dated_in_the_future_is_counted_and_stops_none_after_it(place, wrong):
    home, engine = place
    write_predictions(home, prediction("a"), {**prediction("b"), "at": wrong}, prediction("c"))
    write_router(home, routed("a"), routed("c"))
    assert ship(home, engine).line == "2 predictions shipped: 2 served; 1 lines could not be read"
    assert read_predictions(home)["request_id"].to_list() == ["a", "c"]
    assert [path.name for path in predictions_folder(home).iterdir()] == ["date=2026-11-20"]


@pytest.mark.parametrize("runs", [1, 2], ids=["in one run", "between two runs"])
def test_a_clock_that_was_set_back_costs_no_row_its_role(place, monkeypatch, runs):
    home, engine = place
    monkeypatch.setattr(ship_log, "CHUNK_LINES", 50)
    for run, begin in enumerate((0, -7_200), 1):
        seconds = {f"r{run}-{number}": begin + number for number in range(50)}
        write_predictions(home, *[prediction(one, seconds=at) for one, at in seconds.items()])
        write_router(home, *[routed(one, seconds=at) for one, at in seconds.items()])
        if run >= 3 - runs:
            assert ship(home, engine).roles == {"served": 100 // runs}


def test_a_days_border_makes_two_folders(place):
    home, engine = place
    write_predictions(home, prediction("a"), prediction("b", seconds=43_200))
    ship(home, engine)
    assert sorted(path.name for path in predictions_folder(home).iterdir()) == ["date=2026-11-20", "date=2026-11-21"]
    since = START + timedelta(hours=1)
    assert read_predictions(home, since=since, roles=EVERY)["request_id"].to_list() == ["b"]
    assert read_predictions(home, until=since, roles=EVERY)["request_id"].to_list() == ["a"]


def test_torn_and_foreign_lines_are_counted_and_cost_no_other(place):
    home, engine = place
    whole = json.dumps(prediction("after"), separators=(",", ":")).encode() + b"\n"
    write_predictions(home, prediction("a"), b'{"at":"2026-11-20T12:00:0' + whole, b"\n", b"rubbish\n",
                      b'{"forgotten":true}      \n', b'{"at":"never","request_id":"x","probability":1}\n',
                      prediction("b"), b'{"at":"2026')
    done = ship(home, engine)
    assert (done.rows, done.unreadable) == (3, 2)
    assert "2 lines could not be read" in done.line
    assert set(roles(home)) == {("a", OLD, 1), ("after", OLD, 1), ("b", OLD, 1)}
    write_predictions(home, b'\n', prediction("c"))
    assert ship(home, engine).rows == 1


def test_the_routers_lines_are_found_however_long_its_log_is(place, monkeypatch):
    home, engine = place
    monkeypatch.setattr(ship_log, "CHUNK_LINES", 500)
    numbers = range(5_000)
    shaken = sorted(numbers, key=lambda number: number + random.Random(number).uniform(-4, 4))
    write_router(home, *[routed(f"r{number}", seconds=number) for number in shaken])
    write_predictions(home, *[prediction(f"r{number}", seconds=number + 0.5) for number in numbers if number > 2_000])
    held = []
    real = ship_log.RouterWindow.move
    monkeypatch.setattr(ship_log.RouterWindow, "move",
                        lambda self, *moments: (real(self, *moments), held.append(len(self._held))))
    assert ship(home, engine).roles == {"served": 2_999}
    assert max(held) < 700  # and not the 5,000 of the log


def test_pieces_that_were_rotated_are_shipped_in_order_and_removed_when_nobody_needs_them(place):
    home, engine = place
    home.serving.mkdir()
    log = PredictionLog(prediction_log(home), rotate_bytes=1_000)
    for number in range(6):
        log.append_many([prediction(f"r{number}", seconds=number)])
    log.close()
    rotated = list(home.serving.glob("predictions-*.jsonl"))
    assert len(rotated) > 1
    assert ship(home, engine).rows == 6
    assert sorted(home.serving.glob("predictions-*.jsonl")) == sorted(rotated)  # they stay a week
    for piece in rotated:
        old(piece)
    assert ship(home, engine, keep_days=0).removed == len(rotated)
    assert list(home.serving.glob("predictions-*.jsonl")) == []
    assert prediction_log(home).exists()
    assert ship(home, engine, keep_days=0).rows == 0


def old(path, seconds=3_600):
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_a_piece_somebody_has_open_or_that_is_not_shipped_whole_stays(place):
    home, engine = place
    home.serving.mkdir()
    writer = PredictionLog(prediction_log(home))
    writer.append_many([prediction("a")])
    prediction_log(home).rename(home.serving / "predictions-20261120T120000Z-0.jsonl")
    (piece,) = home.serving.glob("predictions-*.jsonl")
    old(piece)
    assert ship(home, engine, keep_days=0).removed == 0
    writer.close()
    write_predictions(home, {**prediction("young"), "at": datetime.now(UTC).isoformat()}, piece=piece.name)
    old(piece)
    assert ship(home, engine, keep_days=0).removed == 0


def test_a_piece_nobody_writes_any_more_is_removed_though_its_last_line_is_torn(place):
    home, engine = place
    write_predictions(home, prediction("a"), b'{"at":"2026', piece="predictions-20261120T120000Z-0.jsonl")
    old(home.serving / "predictions-20261120T120000Z-0.jsonl")
    done = ship(home, engine, keep_days=0)
    assert (done.rows, done.removed) == (1, 1)


def test_while_a_rollout_is_open_what_it_is_judged_by_stays(place):
    home, engine = place
    write_predictions(home, prediction("before"), piece="predictions-20261120T110000Z-0.jsonl")
    write_predictions(home, prediction("during"), piece="predictions-20261120T120000Z-0.jsonl")
    for name, seconds in (("predictions-20261120T110000Z-0", 7_200), ("predictions-20261120T120000Z-0", 600)):
        old(home.serving / f"{name}.jsonl", seconds)
    for name, seconds in (("access-20261120T110000Z-0", 7_200), ("access-20261120T120000Z-0", 600)):
        (home.serving / f"{name}.jsonl").write_bytes(b"{}\n")
        old(home.serving / f"{name}.jsonl", seconds)
    rollout(engine, state="canary", opened=datetime.now(UTC) - timedelta(hours=1))
    assert ship(home, engine, keep_days=0).removed == 2
    assert sorted(path.name for path in home.serving.iterdir()) == [
        "access-20261120T120000Z-0.jsonl", "predictions-20261120T120000Z-0.jsonl"]
    with engine.begin() as connection:
        connection.execute(ROLLOUTS.update().values(state="rolled back"))
    assert ship(home, engine, keep_days=0).removed == 2


def test_the_routers_log_is_moved_on_only_while_no_rollout_is_open(place, monkeypatch):
    home, engine = place
    asked = []
    monkeypatch.setattr(ship_log, "ROTATE_ACCESS_BYTES", 100)
    monkeypatch.setattr(ship_log, "rotate_access_log", asked.append)
    write_router(home, routed("a"))
    rollout(engine, state="canary")
    ship(home, engine)
    assert asked == []
    with engine.begin() as connection:
        connection.execute(ROLLOUTS.update().values(state="rolled back"))
    ship(home, engine)
    assert asked == [home]


def test_two_pieces_whose_first_person_was_forgotten_are_not_taken_for_one(place):
    home, engine = place
    for name in ("a", "b"):
        write_predictions(home, b'{"forgotten":true}     \n', prediction(name),
                          piece=f"predictions-2026112{'0' if name == 'a' else '1'}T120000Z-0.jsonl")
    assert ship(home, engine).rows == 2


def test_without_logs_there_is_nothing_to_ship(place):
    home, engine = place
    assert ship(home, engine).line == "0 predictions shipped: nothing new"
    assert read_predictions(home).schema == pl.Schema(SCHEMA)
    assert not access_log(home).exists()
