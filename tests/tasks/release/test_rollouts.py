"""Transitions on real stores, SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import datetime

import pytest
import sqlalchemy as sa

from models.decision import Decision
from models.errors import ReleaseError
from tasks.release import looks, releases, rollouts
from tasks.release.rollouts import RolloutRow
from tasks.state import open_state


@pytest.fixture
def engine(state_url: str) -> sa.Engine:
    return open_state(state_url)


def build(engine: sa.Engine, name: str) -> str:
    return releases.register_release(
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
    assert len(releases.read_releases(engine)) == 1


def test_two_releases_never_hold_the_same_port(engine: sa.Engine) -> None:
    build(engine, "1")
    build(engine, "2")
    assert releases.claim_port(engine, "churn:1", [24290, 24291]) == 24290
    assert releases.claim_port(engine, "churn:2", [24290, 24291]) == 24291
    assert releases.claim_port(engine, "churn:1", [24290, 24291]) == 24290
    with pytest.raises(ReleaseError, match="no free port among"):
        releases.claim_port(engine, "churn:2", [24290])
    releases.free_port(engine, "churn:1")
    assert releases.claim_port(engine, "churn:2", [24290]) == 24290


def test_an_unknown_release_is_named_with_the_known_ones(engine: sa.Engine) -> None:
    build(engine, "1")
    with pytest.raises(ReleaseError, match="cannot find the release 'churn:9'; known: churn:1"):
        releases.read_release(engine, "churn:9")


def test_a_champion_is_baked_once_and_stays_champion(engine: sa.Engine) -> None:
    crown(engine, "1")
    second = crown(engine, "2")
    assert (rollouts.warm_champion(engine) or second).release_id == "churn:1"
    assert rollouts.bake(engine, second, "no harm in 30 days")
    assert not rollouts.bake(engine, second, "no harm in 30 days")
    baked = rollouts.champion(engine)
    assert baked
    assert (baked.release_id, baked.state, baked.reason) == ("churn:2", "baked", "no harm in 30 days")
    assert baked.baked_at
    assert rollouts.warm_champion(engine) is None
    assert rollouts.close(engine, baked, state="rolled back", reason="by ada")
    assert (rollouts.champion(engine) or second).release_id == "churn:1"


def test_an_open_rollout_is_not_baked(engine: sa.Engine) -> None:
    with pytest.raises(ValueError, match="a champion is baked, not a rollout that is 'packaged'"):
        rollouts.bake(engine, begin(engine, "1"), "no harm")


def test_a_paused_rollout_stays_where_it_is_and_its_time_stands_still(engine: sa.Engine) -> None:
    crown(engine, "1")
    seen = begin(engine, "2")
    assert rollouts.pause(engine, seen, who="ada", why="holiday")
    assert not rollouts.pause(engine, seen, who="bob", why="me too")
    paused = rollouts.open_rollout(engine)
    assert paused
    assert (paused.paused_by, paused.paused_why) == ("ada", "holiday")
    assert not rollouts.advance(engine, paused, state="smoke-tested")
    assert paused.minutes_in_stage == paused.minutes_in_stage
    assert rollouts.resume(engine, paused)
    assert not rollouts.resume(engine, paused)
    going = rollouts.open_rollout(engine)
    assert going
    assert going.paused_seconds is not None
    stood_still = datetime.fromisoformat(paused.paused_at or "") - datetime.fromisoformat(seen.stage_since)
    assert going.minutes_in_stage * 60 >= stood_still.total_seconds()
    assert rollouts.advance(engine, going, state="smoke-tested")
    assert (rollouts.open_rollout(engine) or seen).paused_seconds is None  # the next stage begins without a pause


def test_a_paused_rollout_can_still_be_rolled_back(engine: sa.Engine) -> None:
    crown(engine, "1")
    seen = begin(engine, "2")
    rollouts.pause(engine, seen, who="ada", why="holiday")
    assert rollouts.close(engine, seen, state="rolled back", reason="errors")
    assert not rollouts.pause(engine, seen, who="ada", why="too late")


def test_a_look_counts_from_when_it_was_and_without_one_from_when_the_state_began(engine: sa.Engine) -> None:
    seen = begin(engine, "1")
    assert seen.last_look_at is None
    assert seen.minutes_without_look == pytest.approx(seen.minutes_in_stage, abs=0.01)
    rollouts.touch_look(engine, seen.rollout_id)
    looked = rollouts.open_rollout(engine)
    assert looked
    assert looked.minutes_without_look <= seen.minutes_without_look
    assert looked.last_look_at
    rollouts.close(engine, looked, state="rolled back", reason="errors")
    rollouts.touch_look(engine, seen.rollout_id)
    assert rollouts.read_rollout(engine, seen.rollout_id).last_look_at == looked.last_look_at


def test_the_model_that_was_rolled_back_is_known_again_by_version_or_by_its_figures(engine: sa.Engine) -> None:
    crown(engine, "1")
    rollouts.close(engine, begin(engine, "2"), state="rolled back", reason="errors")
    twin = releases.read_release(engine, build(engine, "3"))  # other name, same data, same figures
    assert (rollouts.rolled_back_twin(engine, twin) or crown(engine, "9")).release_id == "churn:2"
    other = releases.register_release(engine, release_id="churn:4", model_version="4", run_id="run", fingerprint="f",
                                      as_of="2025-01-01", auc=0.71, monthly_value=1.0)
    assert rollouts.rolled_back_twin(engine, other) is None
    assert rollouts.close(engine, begin(engine, "2"), state="champion", reason="by hand, better luck")
    assert rollouts.rolled_back_twin(engine, twin) is None


def test_a_rollout_that_was_paused_since_the_judge_read_it_does_not_become_champion(engine: sa.Engine) -> None:
    crown(engine, "1")
    seen = begin(engine, "2")
    assert rollouts.pause(engine, seen, who="ada", why="wait")
    assert not rollouts.close(engine, seen, state="champion", reason="the judge was looking")
    paused = rollouts.read_rollout(engine, seen.rollout_id)
    assert rollouts.close(engine, paused, state="champion", reason="by ada, who knows that it is paused")


def test_a_pause_keeps_nobody_from_rolling_back(engine: sa.Engine) -> None:
    crown(engine, "1")
    seen = begin(engine, "2")
    assert rollouts.pause(engine, seen, who="ada", why="wait")
    assert rollouts.close(engine, seen, state="rolled back", reason="harmful")


def test_who_is_promoted_after_the_clock_went_back_is_champion(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    crown(engine, "1")
    monkeypatch.setattr(rollouts, "now", lambda: "2020-01-01T00:00:00.000000+00:00")
    crown(engine, "2")
    champion, previous = rollouts.champion(engine), rollouts.previous_champion(engine)
    assert champion
    assert previous
    assert (champion.release_id, previous.release_id) == ("churn:2", "churn:1")


def test_a_look_is_kept_where_the_rollout_has_not_moved_on(engine: sa.Engine) -> None:
    crown(engine, "1")
    seen = begin(engine, "2")
    decision = Decision("canary", "hold", "too few customers", {"skew_e_value": 1.5, "share": 0.05})
    looks._write(engine, seen, decision)
    assert rollouts.advance(engine, seen, state="canary")
    looks._write(engine, seen, decision)
    (kept,) = looks.read_looks(engine, seen.rollout_id)
    assert (kept.state, kept.stage, kept.verdict, kept.e_values) == ("packaged", 0, "hold", {"skew": 1.5})
