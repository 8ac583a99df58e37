"""Transitions on a real store."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from models.errors import ReleaseError
from tasks import rollouts
from tasks.rollouts import RolloutRow
from tasks.state import open_state


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return open_state(f"sqlite:///{tmp_path}/state.db")


def build(engine: sa.Engine, name: str) -> str:
    return rollouts.register_release(
        engine, release_id=f"churn:{name}", model_version=name, run_id="run", fingerprint="f", as_of="2025-01-01",
        auc=0.7, monthly_value=1.0).release_id


def begin(engine: sa.Engine, name: str, *, strategy: rollouts.Strategy = "canary") -> RolloutRow:
    return rollouts.open_new(engine, release_id=build(engine, name), strategy=strategy, who="ada", why="test")


def crown(engine: sa.Engine, name: str) -> RolloutRow:
    rollout = begin(engine, name)
    assert rollouts.close(engine, rollout, state="champion", reason="good")
    return rollouts.read_rollout(engine, rollout.rollout_id)


def test_the_first_release_is_basic_whatever_was_asked_for(engine: sa.Engine) -> None:
    assert begin(engine, "1").strategy == "basic"


def test_only_one_rollout_is_open_at_a_time(engine: sa.Engine) -> None:
    begin(engine, "1")
    with pytest.raises(ReleaseError, match=r"cannot open a rollout of churn:2: that of churn:1 is open .* by ada"):
        begin(engine, "2")


def test_of_many_who_open_at_once_one_wins(engine: sa.Engine) -> None:
    names = [build(engine, str(number)) for number in range(6)]
    opened: list[str] = []

    def go(name: str) -> None:
        with contextlib.suppress(ReleaseError):
            opened.append(rollouts.open_new(engine, release_id=name, strategy="canary", who="x", why="y").release_id)

    race([lambda name=name: go(name) for name in names])
    assert len(opened) == 1


def test_of_two_who_advance_at_once_one_wins(engine: sa.Engine) -> None:
    seen = begin(engine, "1")
    won: list[bool] = []
    race([lambda: won.append(rollouts.advance(engine, seen, state="smoke-tested"))] * 4)
    assert sorted(won) == [False, False, False, True]


def test_advancing_from_a_stage_that_is_over_changes_nothing(engine: sa.Engine) -> None:
    crown(engine, "1")
    begin(engine, "2")
    seen = rollouts.open_rollout(engine)
    assert seen
    assert rollouts.advance(engine, seen, state="canary", stage=0, evidence={"log_byte": 7})
    first = rollouts.open_rollout(engine)
    assert first
    assert rollouts.advance(engine, first, state="canary", stage=1)
    assert not rollouts.advance(engine, first, state="canary", stage=1)
    assert not rollouts.close(engine, first, state="champion", reason="late")
    now = rollouts.open_rollout(engine)
    assert now
    assert (now.stage, now.evidence) == (1, {"log_byte": 7})


def test_the_champion_is_the_last_one_that_was_not_rolled_back(engine: sa.Engine) -> None:
    assert rollouts.champion(engine) is None
    crown(engine, "1")
    second = crown(engine, "2")
    assert (rollouts.champion(engine) or second).release_id == "churn:2"
    assert (rollouts.previous_champion(engine) or second).release_id == "churn:1"
    rollouts.close(engine, second, state="rolled back", reason="by ada")
    assert (rollouts.champion(engine) or second).release_id == "churn:1"
    assert rollouts.previous_champion(engine) is None


def test_a_release_that_is_champion_cannot_be_released_again(engine: sa.Engine) -> None:
    crown(engine, "1")
    with pytest.raises(ReleaseError, match="it is the champion since"):
        rollouts.open_new(engine, release_id="churn:1", strategy="canary", who="x", why="y")


def test_a_release_that_was_rolled_back_can_be_released_again(engine: sa.Engine) -> None:
    crown(engine, "1")
    rollouts.close(engine, begin(engine, "2"), state="rolled back", reason="errors")
    assert begin(engine, "2").state == "packaged"


def test_registering_the_same_release_twice_is_one_row(engine: sa.Engine) -> None:
    build(engine, "1")
    build(engine, "1")
    assert len(rollouts.releases(engine)) == 1


def test_two_releases_never_hold_the_same_port(engine: sa.Engine) -> None:
    build(engine, "1")
    build(engine, "2")
    assert rollouts.claim_port(engine, "churn:1", [24290, 24291]) == 24290
    assert rollouts.claim_port(engine, "churn:2", [24290, 24291]) == 24291
    assert rollouts.claim_port(engine, "churn:1", [24290, 24291]) == 24290
    with pytest.raises(ReleaseError, match="no free port among"):
        rollouts.claim_port(engine, "churn:2", [24290])
    rollouts.free_port(engine, "churn:1")
    assert rollouts.claim_port(engine, "churn:2", [24290]) == 24290


def test_an_unknown_release_is_named_with_the_known_ones(engine: sa.Engine) -> None:
    build(engine, "1")
    with pytest.raises(ReleaseError, match="cannot find the release 'churn:9'; known: churn:1"):
        rollouts.read_release(engine, "churn:9")


def race(calls: list) -> None:  # type: ignore[type-arg]
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
