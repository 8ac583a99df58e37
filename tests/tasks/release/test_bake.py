"""The bake from the log, the batch and the lake to a verdict: real features, labels, contacts and pipelines."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.decision import Decision
from models.gates.bake import brier_difference, judge_bake
from models.serving.scorer import in_holdout, predict
from tasks.release import rollouts
from tasks.release.bake import Bake, bake_partition, collect
from tasks.release.bake_state import bake_alarm, bake_line, baking
from tasks.scoring.score import score_snapshot, scores_partition
from tasks.state import record_decision
from tests.tasks.conftest import day
from tests.tasks.release.bake_world import CUT, MATURE, PEOPLE, World, copy_world, labels_of, make_world


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with its first load, and nothing released."""
    folder = tmp_path_factory.mktemp("made")
    make_world(folder).shop.engine.dispose()
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> World:
    return copy_world(made, tmp_path)


def batch(world: World, as_of: str = CUT) -> Path:
    shop = world.shop
    return score_snapshot(charter=shop.charter, home=shop.home, engine=shop.engine, as_of=day(as_of))


def two_releases(world: World, *, worse: bool = False, previous_knows_orders_only: bool = False):
    """The rollout of the second one, champion since the cut."""
    contract = world.shop.contract
    before = world.orders_only if previous_knows_orders_only else contract
    world.promote(world.release("one", before, world.pipeline(before)), at="2024-01-01")
    return world.promote(world.release("two", contract, world.pipeline(contract, wrong=worse)))


def bake(world: World, as_of: str) -> tuple[Bake, Decision]:
    rollout = baking(world.shop.engine)
    assert rollout is not None
    found = collect(rollout, world.shop.charter, home=world.shop.home, engine=world.shop.engine, as_of=day(as_of))
    return found, judge_bake(found.loss, world.shop.charter.bake, found.standing)


def kept(world: World) -> pl.DataFrame:
    rollout = baking(world.shop.engine)
    assert rollout is not None
    return pl.read_parquet(bake_partition(world.shop.home, rollout.rollout_id))


def test_a_worse_champion_is_recommended_to_be_rolled_back_once_labels_are_mature_and_by_their_losses(world):
    two_releases(world, worse=True)
    batch(world)
    found, decision = bake(world, CUT)
    assert decision.verdict == "hold", decision.reason
    assert (found.loss.customers, decision.evidence["not_mature"]) == (0, len(PEOPLE))
    world.shop.ingest(MATURE)
    found, decision = bake(world, MATURE)
    assert decision.verdict == "roll back", decision.reason
    rows, contract = world.snapshot(world.shop.contract), world.shop.contract
    label = labels_of(world)["churned"].to_numpy().astype(float)
    champion, previous = (predict(world.pipeline(contract, wrong=wrong), rows.to_pandas(), contract)
                          for wrong in (True, False))
    assert found.loss.difference == pytest.approx(brier_difference(champion, previous, label))


def test_an_equal_champion_is_baked_after_the_horizon(world):
    two_releases(world)
    batch(world)
    world.shop.ingest(MATURE)
    found, decision = bake(world, MATURE)
    assert decision.verdict == "baked", decision.reason
    assert found.loss.customers == len(PEOPLE)


def test_labels_are_never_read_before_they_are_mature(world):
    two_releases(world, worse=True)
    batch(world)
    world.shop.ingest("2024-03-06")
    found, decision = bake(world, "2024-03-06")
    assert (found.loss.customers, decision.verdict) == (0, "hold")
    assert "its labels are mature from 2024-03-07" in decision.reason


def test_without_a_row_of_the_champion_it_holds_and_after_the_time_limit_a_person_is_asked(world):
    two_releases(world)
    world.shop.ingest("2024-05-01")
    decision = bake(world, MATURE)[1]
    assert decision.verdict == "hold"
    assert "neither the prediction log in the lake nor a batch has a row" in decision.reason
    decision = bake(world, "2024-05-01")[1]
    assert (decision.verdict, decision.evidence["overdue"]) == ("hold", 1)


def test_the_logged_row_is_what_was_decided_and_a_row_of_the_batch_stands_where_nothing_was_logged(world):
    """Both of one cut; the log says something else than the batch would. Shadows and other releases do not count."""
    rollout = two_releases(world)
    batch(world)
    rows = world.snapshot(world.shop.contract)
    world.log(rollout.release_id, rows.head(3), [0.11, 0.12, 0.13])
    world.log(rollout.release_id, rows.slice(3, 1), [0.14], role="shadow")
    world.log("churn:one", rows.slice(4, 1), [0.15])
    world.log(rollout.release_id, rows.slice(5, 1), [0.16], at="2024-01-01T00:00:00+00:00")  # before the promotion
    decision = bake(world, CUT)[1]
    found = kept(world)
    assert found["champion"].head(3).to_list() == [0.11, 0.12, 0.13]
    assert found["logged"].to_list() == [True] * 3 + [False] * (len(PEOPLE) - 3)
    assert decision.evidence["from_the_log"] == 3
    previous = predict(world.pipeline(world.shop.contract), rows.to_pandas(), world.shop.contract)
    assert found["previous"].to_numpy() == pytest.approx(previous)


def test_each_customer_counts_once_at_the_first_cut_after_the_promotion(world):
    rollout = two_releases(world)
    rows = world.snapshot(world.shop.contract)
    world.log(rollout.release_id, rows.head(2), [0.2, 0.3])
    world.log(rollout.release_id, rows.head(2), [0.4, 0.5])
    world.shop.ingest("2024-02-02")
    world.log(rollout.release_id, world.snapshot(world.shop.contract, "2024-02-02").head(3), [0.6, 0.7, 0.8],
              cut="2024-02-02")
    bake(world, "2024-02-02")
    assert kept(world)["champion"].to_list() == [0.2, 0.3, 0.8]


def test_a_previous_release_of_other_features_scores_its_own_snapshot_of_the_cut(world):
    rollout = two_releases(world, previous_knows_orders_only=True)
    assert world.orders_only.fingerprint != world.shop.contract.fingerprint
    batch(world)
    another = world.snapshot(world.shop.contract).head(2).with_columns(recency_days=pl.lit(99.0))  # by the same name
    world.log(rollout.release_id, another, [0.2, 0.3])
    decision = bake(world, CUT)[1]
    own = world.snapshot(world.orders_only).to_pandas()
    expected = predict(world.pipeline(world.orders_only), own, world.orders_only)
    assert kept(world)["previous"].to_numpy() == pytest.approx(expected)
    assert decision.evidence["not_scored_by_both"] == 0


def test_rows_no_snapshot_has_are_scored_from_the_features_the_caller_gave(world):
    rollout = two_releases(world, previous_knows_orders_only=True)
    stranger = world.snapshot(world.shop.contract).head(1).with_columns(customer_id=pl.lit("x1"))
    world.log(rollout.release_id, stranger, [0.2])
    bake(world, CUT)
    expected = predict(world.pipeline(world.orders_only), stranger.to_pandas(), world.orders_only)
    assert kept(world)["previous"].to_list() == pytest.approx(expected)


def test_contacted_customers_are_left_out_and_those_alike_count_for_them(world):
    two_releases(world)
    batch(world)
    taken = [one for one in PEOPLE[:600] if not in_holdout(one, salt="shop", share=0.05)][::2]
    world.contact(*taken)
    world.shop.ingest(MATURE)
    found, decision = bake(world, MATURE)
    rows = kept(world)
    assert decision.evidence["contacted_left_out"] == len(taken)
    assert found.loss.customers == len(PEOPLE) - len(taken)
    assert set(rows.filter(pl.col("weight").is_null())["customer_id"]) == set(taken)
    assert rows["weight"].sum() == pytest.approx(found.loss.customers)
    assert decision.verdict == "baked", decision.reason


def test_the_same_as_of_again_changes_nothing_and_a_label_that_was_read_stays(world):
    rollout = two_releases(world)
    batch(world)
    world.shop.ingest(MATURE)
    first = bake(world, MATURE)[1]
    path = bake_partition(world.shop.home, rollout.rollout_id)
    before = path.read_bytes()
    assert bake(world, MATURE)[1] == first
    assert path.read_bytes() == before
    world.shop.ingest("2024-03-20")
    assert bake(world, "2024-03-20")[0].loss.difference == pytest.approx(bake(world, MATURE)[0].loss.difference)


def test_what_was_taken_stays_when_retention_drops_what_it_was_taken_from(world):
    two_releases(world)
    batch(world)
    bake(world, CUT)
    scores_partition(world.shop.home, day(CUT)).unlink()
    shutil.rmtree(world.shop.home.bentoml / "bentos/churn/one")
    world.shop.ingest(MATURE)
    assert bake(world, MATURE)[1].verdict == "baked"


def test_a_cut_whose_labels_were_read_takes_no_more_customers(world):
    rollout = two_releases(world)
    rows = world.snapshot(world.shop.contract)
    world.log(rollout.release_id, rows.head(2), [0.2, 0.3])
    world.shop.ingest(MATURE)
    bake(world, MATURE)
    world.log(rollout.release_id, rows.slice(2, 2), [0.4, 0.5])
    bake(world, MATURE)
    assert len(kept(world)) == 2


def test_a_release_before_that_cannot_be_read_holds_and_says_why(world):
    two_releases(world)
    batch(world)
    shutil.rmtree(world.shop.home.bentoml / "bentos/churn/one")
    world.shop.ingest(MATURE)
    decision = bake(world, MATURE)[1]
    assert decision.verdict == "hold"
    assert "cannot find the Bento 'churn:one'" in decision.reason


def test_an_error_that_quotes_a_customer_is_told_by_its_type_and_place(world, monkeypatch):
    def broken(*_, **__):
        raise ValueError("could not convert string to float: 'Anna Meier'")

    two_releases(world)
    batch(world)
    monkeypatch.setattr("tasks.release.bake.previous_probability", broken)
    found, decision = bake(world, MATURE)
    assert found.standing.fault.startswith("not compared: ValueError at test_bake.py:")
    assert "Anna" not in decision.reason


def test_customers_the_release_before_could_not_score_keep_it_from_being_baked(world):
    """A caller gives features of people nobody knows, and too few of them for the release before."""
    rollout = two_releases(world, previous_knows_orders_only=True)
    batch(world)
    strangers = world.snapshot(world.shop.contract).head(100).with_columns(
        pl.concat_str(pl.lit("x"), "customer_id").alias("customer_id")).drop("recency_days")
    world.log(rollout.release_id, strangers, [0.2] * 100)
    world.shop.ingest(MATURE)
    decision = bake(world, MATURE)[1]
    assert decision.verdict == "hold"
    assert "the release before could score 92.3% of the customers" in decision.reason


def test_a_recommendation_in_the_ledger_stands(world):
    rollout = two_releases(world)
    record_decision(world.shop.engine, Decision("bake", "roll back", "worse", {"rollout_id": rollout.rollout_id}),
                    as_of=day(CUT), subject=rollout.release_id)
    assert bake(world, CUT)[1].verdict == "roll back"


def test_status_asks_for_a_person_with_the_command_to_type_until_the_champion_is_another_one(world):
    engine, charter = world.shop.engine, world.shop.charter
    assert (bake_line(engine), bake_alarm(engine, charter)) == (None, None)
    rollout = two_releases(world)
    assert bake_line(engine) == "churn:two against churn:one: no look yet"

    def say(verdict: str, **evidence: int) -> str | None:
        record_decision(engine, Decision("bake", verdict, "because", {"rollout_id": rollout.rollout_id, **evidence}),
                        as_of=day(MATURE), subject=rollout.release_id)
        return bake_alarm(engine, charter)

    assert say("hold") is None
    assert bake_line(engine) == "churn:two against churn:one: hold (as of 2024-03-08): because"
    back = '`make rollback WHO=name WHY="the bake of churn:two"`'
    assert say("hold", overdue=1) == (
        "bake: no verdict (as of 2024-03-08; owner: ML engineer): because. Keep churn:two: `make keep WHO=name "
        f"WHY=text`, or go back to churn:one: {back}")
    assert say("roll back") == ("bake: roll back is recommended (as of 2024-03-08; owner: ML engineer): because. Back "
                                f"to churn:one: {back}")
    rollouts.close(engine, rollout, state="rolled back", reason="by ada")
    assert bake_alarm(engine, charter) is None


def test_killed_before_the_promotion_stood_in_the_ledger_it_begins_with_its_first_cut(world):
    contract = world.shop.contract
    world.promote(world.release("one", contract, world.pipeline(contract)), at="2024-01-01")
    world.promote(world.release("two", contract, world.pipeline(contract)), ledger=False)
    batch(world)
    bake(world, CUT)
    world.shop.ingest(MATURE)
    found = bake(world, MATURE)[0]
    assert found.standing.since == day(CUT)
    assert found.standing.ends == day(CUT) + timedelta(days=35)


def test_the_first_release_does_not_bake_and_a_baked_one_no_more(world):
    contract, engine = world.shop.contract, world.shop.engine
    assert baking(engine) is None
    world.promote(world.release("one", contract, world.pipeline(contract)))
    assert baking(engine) is None
    rollout = world.promote(world.release("two", contract, world.pipeline(contract)))
    assert baking(engine) == rollout
    assert rollouts.bake(engine, rollout, "no worse")
    assert baking(engine) is None


def test_nobody_is_judged_whom_the_champion_took_for_gone_already(world):
    two_releases(world)
    path = batch(world)
    scores = pl.read_parquet(path)
    gone = scores["customer_id"][:10].to_list()
    scores.with_columns(pl.when(pl.col("customer_id").is_in(gone)).then(pl.lit("not_eligible")).otherwise("why")
                        .alias("why")).write_parquet(path)
    bake(world, CUT)
    assert np.isin(gone, kept(world)["customer_id"].to_numpy()).sum() == 0
