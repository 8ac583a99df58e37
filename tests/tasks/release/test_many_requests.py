"""What a look holds of a busy day: it grows with the customers and not with their requests."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest

from models.limits import Rollout
from tasks.release import looks, prediction_lines
from tasks.release.looks import look
from tasks.release.prediction_lines import RequestSample
from tests.tasks.release.judged_world import CANARY, CHAMPION, JudgedWorld

MEMBERS = [f"m{at}" for at in range(90)]
MOST = 300


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgedWorld:
    monkeypatch.setattr(prediction_lines, "MOST_SAMPLED", MOST)
    monkeypatch.setattr(looks, "draw_rollout", lambda *_: None)
    return JudgedWorld(tmp_path, monkeypatch, Rollout(stages=(0.3, 0.6), least_customers=20, max_error_excess=0.3,
                                                      max_slow_excess=0.5))


def ask_canary(world: JudgedWorld, times: int) -> None:
    for _ in range(times):
        for at, member in enumerate(MEMBERS):
            world.ask(member, CANARY if at < 30 else CHAMPION)


def ask_shadow(world: JudgedWorld, times: int) -> None:
    for _ in range(times):
        for member in MEMBERS:
            world.write(member, CANARY, world.ask(member, CHAMPION, shadow=True))


def peak_of_a_look(world: JudgedWorld) -> int:
    tracemalloc.start()
    try:
        assert look(world.place, world.rollout).verdict == "advance"
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("strategy", ["canary", "shadow"])
def test_four_times_the_requests_of_the_same_customers_take_a_look_no_more_memory(
    world: JudgedWorld, strategy: str
) -> None:
    ask = ask_canary if strategy == "canary" else ask_shadow
    world.open(strategy, strategy)
    ask(world, 15)
    peak_of_a_look(world)  # imports, and batch scores that are kept
    before = peak_of_a_look(world)
    ask(world, 45)
    assert peak_of_a_look(world) < before * 1.1 + 50_000


def test_an_even_sample_of_the_requests_shows_that_lines_are_missing(world: JudgedWorld) -> None:
    world.open()
    ask_canary(world, 1)
    for at in range(2000):
        world.ask(MEMBERS[at % 30], CANARY, logged=at % 10 > 0)
    decision = look(world.place, world.rollout)
    assert decision.verdict == "hold"
    counted = re.search(r"(\d+) of (\d+) requests churn:b answered have no line", decision.reason)
    assert counted is not None, decision.reason
    missing, of = map(int, counted.groups())
    assert of <= MOST
    assert 0.05 < missing / of < 0.15


def test_a_sample_is_all_requests_until_they_are_many_and_then_an_even_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_lines, "MOST_SAMPLED", MOST)
    few, many, again = RequestSample(), RequestSample(), RequestSample()
    for at in range(MOST):
        few.add(f"q{at}")
    for at in range(10_000):
        many.add(f"q{at}")
        again.add(f"q{9_999 - at}")
    assert len(few.ids) == MOST
    assert many.ids == again.ids
    assert MOST / 3 < len(many.ids) <= MOST
    assert 0.35 < sum(int(one[1:]) < 5_000 for one in many.ids) / len(many.ids) < 0.65
