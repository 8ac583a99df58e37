"""Looks at rollouts whose logs are written line by line; release, snapshot and state are real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from deploy.local.rollout_status import rollout_status
from models.decision import Decision
from models.limits import Rollout
from tasks.release import looks, releases
from tasks.release.looks import look, picture, read_looks
from tasks.release.prediction_lines import read_scored
from tasks.release.router_lines import opening_evidence
from tasks.release.routing import access_log
from tasks.release.settle import wanted_routes
from tasks.scoring import chunks
from tests.tasks.release.judged_world import CANARY, CHAMPION, JudgedWorld

LIMITS = Rollout(stages=(0.3, 0.6), least_customers=20, max_error_excess=0.3, max_slow_excess=0.5)
MEMBERS = [f"m{at}" for at in range(90)]
ON_CANARY, ON_CHAMPION = MEMBERS[:30], MEMBERS[30:]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgedWorld:
    return JudgedWorld(tmp_path, monkeypatch, LIMITS)


def canary_look(world: JudgedWorld, **canary: object) -> Decision:
    world.open()
    for member in ON_CANARY:
        world.ask(member, CANARY, **canary)  # type: ignore[arg-type]
    for member in ON_CHAMPION:
        world.ask(member, CHAMPION)
    return look(world.place, world.rollout)


@pytest.mark.parametrize("given", [False, True], ids=["features from the store", "features given"])
def test_a_canary_that_scores_as_in_batch_advances(world: JudgedWorld, given: bool) -> None:
    decision = canary_look(world, given=given)
    assert (decision.gate, decision.verdict) == ("canary", "advance"), decision.reason
    assert decision.evidence["scores_compared"] == 30
    assert decision.evidence["scores_apart"] == 0
    assert decision.evidence["online_mean"] == decision.evidence["batch_mean"]


def test_a_canary_whose_online_scores_are_not_its_batch_scores_is_rolled_back(world: JudgedWorld) -> None:
    decision = canary_look(world, skew=0.04)
    assert decision.verdict == "roll back"
    assert "30 of 30 canary customers were scored more than 0.05 (logit) away" in decision.reason


def test_given_features_are_scored_again_once_and_kept_without_a_name(world: JudgedWorld) -> None:
    canary_look(world, given=True)
    kept = (world.home.serving / "rollouts" / f"{world.rollout.rollout_id}.rescored.json")
    assert len(kept.read_text().split("q")) == 31
    assert "m1" not in kept.read_text()
    kept.write_text(kept.read_text().replace('"q1": [', '"q1": [0.5, '))  # another number of rows than were answered
    assert look(world.place, world.rollout).evidence["scores_compared"] == 29


def test_batch_scores_of_a_date_are_kept_and_read_again(world: JudgedWorld) -> None:
    canary_look(world)
    [path] = (world.home.lake / "batch-scores" / "churn-b").iterdir()
    assert pl.read_parquet(path).columns == ["member_id", "churn_probability"]
    pl.read_parquet(path).with_columns(churn_probability=pl.lit(0.999)).write_parquet(path)
    assert look(world.place, world.rollout).verdict == "roll back"


def test_batch_scores_are_made_in_chunks(world: JudgedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(chunks, "scored_chunks", partial(
        chunks.scored_chunks, chunk_rows=30, progress=lambda done, _: seen.append(done)))
    decision = canary_look(world)
    assert seen == [30, 60, 90, 120, 150, 180, 200]
    assert (decision.evidence["scores_compared"], decision.evidence["scores_apart"]) == (30, 0)


def test_answers_without_a_line_in_the_prediction_log_hold(world: JudgedWorld) -> None:
    decision = canary_look(world, logged=False)
    assert decision.verdict == "hold"
    assert "30 of 30 requests churn:b answered have no line in the prediction log (limit 2%)" in decision.reason


def test_a_line_that_was_torn_is_missing(world: JudgedWorld) -> None:
    world.open()
    for member in ON_CANARY:
        world.ask(member, CANARY)
    for member in ON_CHAMPION:
        world.ask(member, CHAMPION)
    world.log.write_text(world.log.read_text().replace('"request_id":"q7"', '"request_id":"q7'))
    assert "1 of 30 requests churn:b answered have no line" in look(world.place, world.rollout).reason


@pytest.mark.parametrize("shadow", [False, True], ids=["canary", "shadow"])
def test_customers_without_a_row_in_the_snapshot_hold_where_they_are_many(world: JudgedWorld, shadow: bool) -> None:
    """Whom the batch does not know is whom nothing compares; those it knows are judged as ever."""
    [path] = world.home.lake.rglob("cut=*.parquet")
    pl.read_parquet(path).filter(~pl.col("member_id").is_in(["m0", "m5"])).write_parquet(path)
    decision = shadow_look(world, answered=90) if shadow else canary_look(world)
    assert decision.verdict == "hold"
    assert f"2 of {90 if shadow else 30} customers churn:b answered have no batch score of their row" in decision.reason
    assert decision.evidence["scores_compared"] == (88 if shadow else 28)


def test_a_few_customers_without_a_row_in_the_snapshot_are_left_out(world: JudgedWorld) -> None:
    [path] = world.home.lake.rglob("cut=*.parquet")
    pl.read_parquet(path).filter(pl.col("member_id") != "m5").write_parquet(path)
    assert shadow_look(world, answered=90).verdict == "advance"


def test_a_charter_changed_meanwhile_leaves_the_rollout_the_stages_it_opened_with(world: JudgedWorld) -> None:
    world.open(stage=1, stages=LIMITS.stages)
    for member in ON_CANARY:
        world.ask(member, CANARY, share="0.3", code=500)
        world.ask(member, CANARY)
    changed = replace(world.place, limits=LIMITS.model_copy(update={"stages": (0.1, 0.2, 0.5)}))
    seen = look(changed, world.rollout).evidence
    assert (seen["share"], seen["canary_customers"]) == (0.6, 30)
    assert seen["failed_e_value"] != 1.0, "what failed in the stage before still counts"
    assert world.rollout.stages(changed.limits.stages) == LIMITS.stages
    for port, release_id in ((25301, CHAMPION), (25302, CANARY)):
        releases.claim_port(world.place.engine, release_id, [port])
    assert wanted_routes(changed).canary_share == 0.6
    assert rollout_status(world.place.engine, world.home, changed.limits, world.rollout)["of_stages"] == 2


@pytest.mark.parametrize("renamed", [False, True], ids=["one piece", "rotated since"])
def test_the_prediction_log_is_read_from_where_the_rollout_began(world: JudgedWorld, renamed: bool) -> None:
    rollout = world.open()
    old = [world.ask("m0", CANARY) for _ in range(3)]
    start = opening_evidence(world.home)
    new = [world.ask("m1", CANARY)]
    if renamed:
        world.log.rename(world.log.with_name("predictions-20261123T000000Z-0.jsonl"))
        new.append(world.ask("m2", CANARY))

    def written(start: Mapping[str, Any]) -> set[str]:
        found = read_scored(world.home, {CANARY}, {*old, *new}, in_full=(), start=start,
                            since=datetime.fromisoformat(rollout.opened_at))
        return found[CANARY].written

    assert written(start) == set(new)
    assert written({"log_byte": 0}) == {*old, *new}  # a rollout that was opened before this was remembered
    assert written({**start, "predictions_byte": 1 << 30}) == {*old, *new}  # a shorter log is read whole


def test_a_snapshot_that_cannot_be_made_holds(world: JudgedWorld) -> None:
    for path in world.home.lake.rglob("cut=*.parquet"):
        path.unlink()
    decision = canary_look(world)
    assert decision.verdict == "hold"
    assert "no batch scores of churn:b to compare with" in decision.reason


def test_a_fault_nobody_thought_of_holds_and_the_other_monitors_go_on(
    world: JudgedWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("could not convert string to float: 'Anna Meier'")

    monkeypatch.setattr(looks, "read_skew", broken)
    decision = canary_look(world)
    assert decision.verdict == "hold"
    assert "scores cannot be compared with batch scores: RuntimeError at test_looks.py:" in decision.reason
    assert "scores were not compared: RuntimeError at test_looks.py:" in caplog.text
    assert "Anna" not in decision.reason + caplog.text
    for member in ON_CANARY:
        world.ask(member, CANARY, code=500)
    assert look(world.place, world.rollout).reason.startswith("kill switch")


def test_a_missing_access_log_holds(world: JudgedWorld) -> None:
    world.open()
    access_log(world.home).unlink()
    decision = look(world.place, world.rollout)
    assert decision.verdict == "hold"
    assert "the access log access.jsonl cannot be read" in decision.reason


def test_microseconds_that_are_not_logged_hold(world: JudgedWorld) -> None:
    decision = canary_look(world, us=None)
    assert decision.verdict == "hold"
    assert "latencies of 0 canary and 60 champion customers" in decision.reason


def test_every_look_is_stored_and_drawn(world: JudgedWorld) -> None:
    first = canary_look(world)
    for member in ON_CANARY:
        world.ask(member, CANARY, code=500)
    second = look(world.place, world.rollout)
    stored = read_looks(world.place.engine, world.rollout.rollout_id)
    assert [one.verdict for one in stored] == [first.verdict, second.verdict] == ["advance", "roll back"]
    assert [one.reason for one in stored] == [first.reason, second.reason]
    assert set(stored[0].e_values) == {"failed", "refused", "slow", "skew", "sample_ratio"}
    assert stored[1].evidence == second.evidence
    drawn = picture(world.home, world.rollout.rollout_id)
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert drawn.stat().st_mode & 0o777 == 0o600


def test_a_picture_that_cannot_be_drawn_stops_no_verdict(world: JudgedWorld) -> None:
    (world.home.serving / "rollouts").write_text("a file where the folder should be")
    assert canary_look(world).verdict == "advance"


def shadow_look(world: JudgedWorld, *, answered: int, skew: float = 0.0) -> Decision:
    world.open("shadow", "shadow")
    for at, member in enumerate(MEMBERS):
        request_id = world.ask(member, CHAMPION, shadow=True)
        if at < answered:
            world.write(member, CANARY, request_id, skew=skew)
    return look(world.place, world.rollout)


def test_a_shadow_that_answers_all_and_scores_as_in_batch_advances(world: JudgedWorld) -> None:
    decision = shadow_look(world, answered=90)
    assert (decision.gate, decision.verdict) == ("shadow", "advance"), decision.reason
    assert (decision.evidence["requests"], decision.evidence["missing"]) == (90, 0)
    assert decision.evidence["score_difference"] == 0


def test_a_shadow_that_answers_half_is_rolled_back(world: JudgedWorld) -> None:
    assert shadow_look(world, answered=45).reason.startswith("kill switch: 45 of 90 requests")


def test_a_shadow_with_skew_is_rolled_back(world: JudgedWorld) -> None:
    reason = shadow_look(world, answered=90, skew=0.04).reason
    assert "90 of 90 customers were scored more than 0.05 (logit) away from the shadow's own" in reason


def test_copies_under_way_are_not_missing_yet(world: JudgedWorld) -> None:
    world.open("shadow", "shadow")
    world.ask("m1", CHAMPION, shadow=True, ts="2999-01-01T00:00:00.000Z")
    assert look(world.place, world.rollout).evidence["requests"] == 0


def test_a_champion_that_writes_no_predictions_is_no_evidence_for_its_shadow(world: JudgedWorld) -> None:
    world.open("shadow", "shadow")
    for member in MEMBERS:
        world.ask(member, CHAMPION, shadow=True, logged=False)
    decision = look(world.place, world.rollout)
    assert decision.verdict == "hold"
    assert "of 90 requests the champion answered none stands in the prediction log" in decision.reason
