"""Hours awake add up over nights and restarts, and what two watchdogs wrote counts once."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.home import Home
from tasks.monitoring import awake
from tasks.monitoring.awake import Awake, Stretch, hours_awake, stretches
from tasks.state import open_state

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def engine(state_url: str) -> sa.Engine:
    return open_state(state_url)


class Clock:
    """Wall and monotonic time, moved by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.passed = NOON.timestamp(), 0.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.passed)

    def run(self, hours: float) -> None:
        self.wall += hours * 3600
        self.passed += hours * 3600

    def sleep(self, hours: float) -> None:
        self.wall += hours * 3600

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.wall, UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[datetime]:
    """When supervisord was started: the last one of these."""
    moments = [clock.at]
    monkeypatch.setattr(awake, "platform_started", lambda _: moments[-1])
    return moments


def hours(engine: sa.Engine, clock: Clock, since: datetime = NOON) -> float:
    return round(hours_awake(stretches(engine), since, clock.at), 3)


def test_hours_between_two_moments_are_those_of_the_stretches_and_none_counts_twice() -> None:
    def stretch(began: float, ended: float) -> Stretch:
        return Stretch(NOON + timedelta(hours=began), NOON + timedelta(hours=ended))

    found = [stretch(0, 4), stretch(3, 6), stretch(3.5, 4), stretch(10, 9), stretch(20, 30)]
    at = NOON + timedelta(hours=25)
    assert hours_awake(found, None, at) == 6 + 5
    assert hours_awake(found, NOON + timedelta(hours=5), at) == 1 + 5
    assert hours_awake(found, NOON + timedelta(hours=21), at) == 4
    assert hours_awake(found, at + timedelta(hours=1), at) == 0
    assert hours_awake([], None, at) == 0


@pytest.mark.usefixtures("started")
def test_a_night_asleep_counts_for_nothing_and_the_day_before_it_still_does(
    engine: sa.Engine, tmp_path: Path, clock: Clock
) -> None:
    marks = Awake(Home(tmp_path))
    for _ in range(3):
        marks.mark(engine)
        clock.run(16)
        marks.mark(engine)
        clock.sleep(8)
    assert hours(engine, clock) == 48
    assert len(stretches(engine)) == 3


def test_a_new_watchdog_goes_on_where_the_one_before_it_died_and_not_before_the_platform_began(
    engine: sa.Engine, tmp_path: Path, clock: Clock, started: list[datetime]
) -> None:
    clock.run(2)  # supervisord runs before its watchdog does
    Awake(Home(tmp_path)).mark(engine)
    assert hours(engine, clock) == 2
    clock.run(5)  # nobody watches, but the platform runs
    Awake(Home(tmp_path)).mark(engine)
    assert hours(engine, clock) == 7
    clock.run(9)  # `make down`
    started.append(clock.at)
    Awake(Home(tmp_path)).mark(engine)
    assert hours(engine, clock) == 7


@pytest.mark.usefixtures("started")
def test_where_nothing_is_scheduled_no_hour_counts_now_or_after_a_restart(
    engine: sa.Engine, tmp_path: Path, clock: Clock
) -> None:
    marks = Awake(Home(tmp_path))
    marks.mark(engine)
    clock.run(3)
    marks.mark(engine)
    for _ in range(4):
        marks.mark(engine, due=False)
        clock.run(10)
    marks.mark(engine, due=False)
    assert (hours(engine, clock), len(stretches(engine))) == (3, 2)
    Awake(Home(tmp_path)).mark(engine)
    assert hours(engine, clock) == 3
    marks.mark(engine)
    clock.run(1)
    marks.mark(engine)
    assert hours(engine, clock) == 4


@pytest.mark.usefixtures("started")
def test_a_clock_that_is_set_back_loses_no_hour(
    engine: sa.Engine, tmp_path: Path, clock: Clock
) -> None:
    marks = Awake(Home(tmp_path))
    marks.mark(engine)
    clock.run(10)
    marks.mark(engine)
    clock.sleep(-4)
    marks.mark(engine)
    clock.run(5)
    marks.mark(engine)
    assert hours(engine, clock) == 11  # of the wall


def test_a_platform_without_supervisord_runs_from_the_first_mark_on(
    engine: sa.Engine, tmp_path: Path, clock: Clock
) -> None:
    marks = Awake(Home(tmp_path))
    marks.mark(engine)
    clock.run(0.5)
    marks.mark(engine)
    assert hours(engine, clock, NOON - timedelta(days=1)) == 0.5
