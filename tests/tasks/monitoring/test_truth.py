"""Truth from the log, the batch and the lake to signals: real features, labels, contacts and pipelines."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.decision import Decision
from models.evaluation.metrics import auc
from models.serving.scorer import in_holdout
from tasks.data.lake import write_partition
from tasks.monitoring.truth import (
    TruthReport,
    closed_cuts,
    follow_truth,
    read_cohort,
    truth_cuts,
    truth_folder,
    truth_partition,
)
from tasks.scoring.score import score_snapshot, scores_partition
from tasks.state import record_decision
from tests.tasks.conftest import day
from tests.tasks.release.bake_world import CUT, MATURE, PEOPLE, World, copy_world, labels_of, make_world


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with its first load and a champion that scored it; labels arrive later."""
    folder = tmp_path_factory.mktemp("made")
    world = make_world(folder)
    contract = world.shop.contract
    world.promote(world.release("one", contract, world.pipeline(contract)))
    world.release("two", contract, world.pipeline(contract))
    batch(world)
    world.shop.engine.dispose()
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> World:
    found = copy_world(made, tmp_path)
    limits = found.shop.charter.monitoring.model_copy(update={"least_customers": 500})
    found.shop.charter = found.shop.charter.model_copy(update={"monitoring": limits})
    return found


def batch(world: World, as_of: str = CUT) -> Path:
    shop = world.shop
    return score_snapshot(charter=shop.charter, home=shop.home, engine=shop.engine, as_of=day(as_of))


def follow(world: World, as_of: str = MATURE) -> TruthReport:
    shop = world.shop
    return follow_truth(shop.home, shop.engine, shop.charter, shop.contract, as_of=day(as_of))


def grow_up(world: World, as_of: str = MATURE) -> TruthReport:
    world.shop.ingest(as_of)
    return follow(world, as_of)


def truth(world: World) -> pl.DataFrame:
    return pl.concat(read_cohort(world.shop.home, cut) for cut in truth_cuts(world.shop.home))


def hashes(world: World) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(truth_folder(world.shop.home).iterdir())}


def states(report: TruthReport) -> tuple[str, str]:
    return report.labels.state, report.performance.state


def limit(world: World, **changed: float) -> None:
    limits = world.shop.charter.monitoring.model_copy(update=changed)
    world.shop.charter = world.shop.charter.model_copy(update={"monitoring": limits})


def test_nothing_scored_is_waiting(world):
    scores_partition(world.shop.home, day(CUT)).unlink()
    report = follow(world, CUT)
    assert states(report) == ("waiting", "waiting")
    assert report.cohorts == ()
    assert "no prediction has been made" in report.labels.reason


def test_scores_and_truth_that_are_gone_are_broken_once_labels_are_due_and_months_without_a_run_are_not(world):
    """The ledger knows that the champion was checked on scored customers then."""
    engine = world.shop.engine
    for as_of, rows in ((CUT, 1_200), ("2024-02-10", 0)):  # the second check found nothing that was scored
        record_decision(engine, Decision("drift", "nothing", "still", {"rows": rows}), as_of=day(as_of))
    assert states(follow(world, CUT)) == ("waiting", "waiting")
    assert states(grow_up(world)) == ("good", "good")
    assert states(follow(world, "2027-02-01")) == ("good", "good")  # nobody was scored since
    for path in [scores_partition(world.shop.home, day(CUT)), *truth_folder(world.shop.home).iterdir()]:
        path.unlink()
    report = follow(world)
    assert states(report) == ("broken", "broken")
    assert report.labels.reason.startswith("customers were scored on 2024-02-01, their labels are due, and lake/truth")
    assert states(follow(world, "2024-03-06")) == ("waiting", "waiting")


def test_before_the_horizon_and_the_label_delay_have_passed_no_label_is_read_and_it_waits(world):
    for as_of in (CUT, "2024-03-06"):
        report = grow_up(world, as_of) if as_of != CUT else follow(world, as_of)
        assert states(report) == ("waiting", "waiting")
        assert "of 2024-02-01 with 1,200 customers, is mature on 2024-03-07" in report.labels.reason
        rows = truth(world)
        assert len(rows) == len(PEOPLE)
        for column in ("label", "contacted", "weight", "labelled_as_of"):
            assert rows[column].null_count() == len(rows)
    assert states(grow_up(world, "2024-03-07")) == ("good", "good")


def test_labels_are_what_really_happened_and_never_what_a_model_says(world):
    """Another model, the same people: other scores, the same labels."""
    grow_up(world)
    first = truth(world)
    assert first["label"].to_list() == labels_of(world)["churned"].cast(pl.Float64).to_list()
    assert first["label"].to_list() == (~world.stays).astype(float).tolist()
    shutil.rmtree(truth_folder(world.shop.home))
    path = scores_partition(world.shop.home, day(CUT))
    pl.read_parquet(path).with_columns((1 - pl.col("churn_probability")).alias("churn_probability")).write_parquet(path)
    grow_up(world)
    second = truth(world)
    assert (second["probability"] + first["probability"]).to_numpy() == pytest.approx(1)
    assert second["label"].equals(first["label"])


def test_who_was_served_goes_before_the_batch_and_no_shadow_counts(world):
    rows = world.snapshot(world.shop.contract)
    world.log("churn:two", rows.head(3), [0.11, 0.12, 0.13])
    for number, role in enumerate(("shadow", "superseded", "unrouted"), start=3):
        world.log("churn:two", rows.slice(number, 1), [0.5], role=role)
    follow(world, CUT)
    found = truth(world)
    assert len(found) == len(PEOPLE) == found["customer_id"].n_unique()
    assert found["source"].to_list() == ["served"] * 3 + ["batch"] * (len(PEOPLE) - 3)
    assert found["probability"].head(3).to_list() == [0.11, 0.12, 0.13]
    assert found["release_id"].head(4).to_list() == ["churn:two"] * 3 + ["churn:one"]
    assert found["model_version"].slice(2, 2).to_list() == ["1", "one"]  # as logged; of the batch, from the releases
    assert found["holdout"].to_list() == [in_holdout(one, salt="shop", share=0.05) for one in found["customer_id"]]


def test_an_answer_given_after_the_batch_was_taken_still_goes_before_it_until_labels_are_read(world):
    rows = world.snapshot(world.shop.contract)
    follow(world, CUT)
    world.log("churn:one", rows.head(1), [0.21], at="2024-02-03T00:00:00+00:00")
    follow(world, CUT)
    world.log("churn:one", rows.head(2), [0.22, 0.23], at="2024-02-02T00:00:00+00:00")  # earlier, shipped later
    grow_up(world)
    assert truth(world)["probability"].head(2).to_list() == [0.21, 0.23]
    before = hashes(world)
    world.log("churn:one", rows.slice(2, 1), [0.24])  # too late: the labels are known
    follow(world)
    assert hashes(world) == before


def test_of_several_answers_the_first_counts_and_each_cut_is_a_cohort_of_its_own(world):
    rows = world.snapshot(world.shop.contract)
    world.log("churn:one", rows.head(1), [0.4], at="2024-02-04T00:00:00+00:00")
    world.log("churn:one", rows.head(1), [0.3], at="2024-02-03T00:00:00+00:00")
    world.shop.ingest("2024-02-02")
    world.log("churn:one", world.snapshot(world.shop.contract, "2024-02-02").head(2), [0.6, 0.7], cut="2024-02-02")
    report = follow(world, "2024-02-02")
    found = truth(world).filter(pl.col("source") == "served")
    assert found.select("event_timestamp", "probability").rows() == [
        (day(CUT), 0.3), (day("2024-02-02"), 0.6), (day("2024-02-02"), 0.7)]
    assert [(one.cut, one.rows, one.served) for one in report.cohorts] == [
        (day(CUT), len(PEOPLE), 1), (day("2024-02-02"), 2, 2)]


def test_who_had_left_before_the_cut_is_no_row(world):
    path = scores_partition(world.shop.home, day(CUT))
    scores = pl.read_parquet(path)
    gone = scores["customer_id"][:10].to_list()
    scores.with_columns(pl.when(pl.col("customer_id").is_in(gone)).then(pl.lit("not_eligible")).otherwise("why")
                        .alias("why")).write_parquet(path)
    follow(world, CUT)
    assert not set(gone) & set(truth(world)["customer_id"])
    assert len(truth(world)) == len(PEOPLE) - len(gone)


def test_the_same_as_of_again_writes_the_same_bytes_and_a_label_that_was_read_stays(world):
    first = grow_up(world)
    before = hashes(world)
    assert set(before) == {"cut=2024-02-01.parquet", "cut=2024-02-01.json"}
    again = follow(world)
    assert hashes(world) == before
    assert (again.labels, again.performance) == (first.labels, first.performance)
    world.shop.write("orders", *(f"late{one},{one},2024-02-25,1,10.00,2024-03-15" for one in PEOPLE), file="late.csv")
    world.shop.ingest("2024-03-20")
    follow(world, "2024-03-20")
    assert hashes(world) == before


def test_from_scratch_it_writes_the_same_bytes_as_step_by_step(world):
    world.log("churn:one", world.snapshot(world.shop.contract).head(5), [0.1, 0.2, 0.3, 0.4, 0.5])
    follow(world, CUT)
    grow_up(world)
    before = hashes(world)
    shutil.rmtree(truth_folder(world.shop.home))
    follow(world)
    assert hashes(world) == before


def test_performance_is_that_of_the_uncontacted_by_what_they_really_did(world):
    report = grow_up(world)
    (cohort,) = report.cohorts
    rows = truth(world)
    y, said = rows["label"].to_numpy(), rows["probability"].to_numpy()
    assert cohort.coverage == 1
    assert cohort.measured is not None
    whole = cohort.measured.whole
    assert whole.score("auc").value == pytest.approx(auc(y, said))
    assert whole.score("brier").value == pytest.approx(float(((said - y) ** 2).mean()))
    assert whole.score("auc").low < whole.score("auc").value < whole.score("auc").high
    assert (whole.churn_rate, whole.mean_probability) == pytest.approx((y.mean(), said.mean()))
    assert report.performance.evidence["auc"] == pytest.approx(auc(y, said), abs=1e-4)
    assert "floors are 0.65 and 0.2" in report.performance.reason
    # `age_years` is protected and `recency_days` a segment of the contract.
    assert {one.column for one in whole.evaluation.all_segments()} >= {"age_years", "recency_days"}
    assert cohort.measured.no_segments is None


def test_a_model_that_is_surely_below_the_floor_is_bad_and_one_that_may_be_is_not(world):
    grow_up(world)
    measured = follow(world).cohorts[-1].measured.whole.score("auc")
    limit(world, least_auc=round(measured.high - 0.002, 4))
    assert states(follow(world)) == ("good", "good")
    limit(world, least_auc=round(measured.high + 0.002, 4))
    report = follow(world)
    assert states(report) == ("good", "bad")
    assert "surely AUC is below" in report.performance.reason
    limit(world, least_auc=None, max_brier=0.01)
    assert "surely the Brier score is above 0.01" in follow(world).performance.reason


def test_contacted_customers_are_told_apart_and_those_alike_count_for_them(world):
    taken = [one for one in PEOPLE[:600] if not in_holdout(one, salt="shop", share=0.05)][::2]
    world.contact(*taken)
    (cohort,) = grow_up(world).cohorts
    rows = truth(world)
    assert set(rows.filter(pl.col("contacted"))["customer_id"]) == set(taken)
    assert set(rows.filter(pl.col("weight").is_null())["customer_id"]) == set(taken)
    assert rows["weight"].sum() == pytest.approx(len(PEOPLE))
    assert cohort.measured is not None
    assert cohort.measured.whole.rows == len(PEOPLE) - len(taken)
    assert (cohort.contacted, cohort.measured.contacted.rows) == (len(taken), len(taken))
    assert cohort.measured.contacted.evaluation is None
    assert cohort.measured.holdout.rows == int(rows["holdout"].sum())


def test_where_everybody_but_the_hold_out_was_contacted_the_hold_out_counts(world):
    taken = [one for one in PEOPLE if not in_holdout(one, salt="shop", share=0.05)]
    world.contact(*taken)
    limit(world, least_customers=30)
    report = grow_up(world)
    rows = truth(world)
    assert rows.filter(pl.col("weight").is_not_null())["holdout"].all()
    assert report.cohorts[-1].counted == int(rows["holdout"].sum()) > 30


def test_contacted_without_anybody_alike_left_alone_is_broken_and_counts_for_nothing(world):
    world.contact(*PEOPLE)
    report = grow_up(world)
    assert states(report) == ("good", "broken")
    assert "1,200 of 1,200 customers were contacted" in report.performance.reason
    assert truth(world)["weight"].null_count() == len(PEOPLE)


def test_too_few_labels_are_the_label_feeds_fault_and_nothing_is_judged_until_they_come(world):
    """Strangers a client asked about: nobody ever says what they did."""
    strangers = world.snapshot(world.shop.contract).head(300).with_columns(
        pl.concat_str(pl.lit("x"), "customer_id").alias("customer_id"))
    world.log("churn:one", strangers, [0.2] * 300)
    report = grow_up(world)
    assert states(report) == ("bad", "broken")
    assert "1,200 of 1,500 customers of the cohort of 2024-02-01 have a label (80.0%), at least 90%" in (
        report.labels.reason)
    rows = truth(world)
    assert (rows["label"].null_count(), rows["weight"].null_count()) == (300, 1500)
    assert closed_cuts(world.shop.home) == frozenset()
    world.shop.write("customers", *(f"{one},2024-01-01,2023-06-01,1980,basic,search,2024-03-09"
                                    for one in strangers["customer_id"]), file="strangers.csv")
    world.shop.write("orders", *(f"x{one},{one},2024-01-20,1,10.00,2024-03-09" for one in strangers["customer_id"]),
                     file="strangers.csv")
    world.shop.ingest("2024-03-10")
    report = follow(world, "2024-03-10")
    assert report.labels.state == "good"
    assert report.performance.evidence["customers"] == 1500
    rows = truth(world)
    assert sorted(rows["labelled_as_of"].unique()) == [day(MATURE), day("2024-03-10")]
    assert rows["weight"].null_count() == 0
    assert closed_cuts(world.shop.home) == {day(CUT)}


def test_a_cohort_that_should_be_mature_and_has_no_label_is_broken(world):
    path = scores_partition(world.shop.home, day(CUT))
    pl.read_parquet(path).with_columns(pl.concat_str(pl.lit("x"), "customer_id").alias("customer_id")
                                       ).write_parquet(path)
    report = grow_up(world)
    assert states(report) == ("broken", "broken")
    assert "no label has come for the cohort of 2024-02-01, mature since 2024-03-07" in report.labels.reason


def test_labels_that_all_say_the_same_are_broken(world):
    world.shop.write("orders", *(f"n{one},{one},2024-02-22,1,10.00,2024-02-22" for one in PEOPLE), file="all.csv")
    report = grow_up(world)
    assert states(report) == ("broken", "broken")
    assert "all 1,200 labels of the cohort of 2024-02-01 say that the customer stayed" in report.labels.reason


def test_data_that_was_not_loaded_is_broken_and_not_taken_for_what_did_not_happen(world):
    follow(world, CUT)
    report = follow(world)  # mature by the clock, but nothing was loaded since the cut
    assert states(report) == ("broken", "broken")
    assert "the last load is of 2024-02-01" in report.labels.reason
    assert truth(world)["label"].null_count() == len(PEOPLE)


def test_truth_that_cannot_be_read_is_broken_and_is_not_written_over(world):
    grow_up(world)
    path = truth_partition(world.shop.home, day(CUT))
    path.write_bytes(b"PAR1 no more")
    report = follow(world)
    assert states(report) == ("broken", "broken")
    assert "cannot read the truth of 2024-02-01 (cut=2024-02-01.parquet)" in report.performance.reason
    assert path.read_bytes() == b"PAR1 no more"


def test_a_fault_that_quotes_a_customer_is_told_by_its_type_and_place(world, monkeypatch):
    def broken(*_, **__):
        raise ValueError("could not convert string to float: 'Anna Meier'")

    world.shop.ingest(MATURE)
    monkeypatch.setattr("tasks.monitoring.truth.read_labels", broken)
    report = follow(world)
    assert states(report) == ("broken", "broken")
    assert "ValueError at test_truth.py:" in report.labels.reason
    assert "Anna" not in report.labels.reason + report.performance.reason


def test_two_releases_in_one_cohort_are_measured_apart(world):
    rows = world.snapshot(world.shop.contract)
    said = np.linspace(0.05, 0.95, 400)
    world.log("churn:two", rows.head(400), list(said))
    (cohort,) = grow_up(world).cohorts
    assert cohort.releases == ("churn:one", "churn:two")
    assert cohort.measured is not None
    one, two = cohort.measured.releases
    assert (one.name, one.rows, two.name, two.rows) == ("churn:one", 800, "churn:two", 400)
    assert two.score("auc").value == pytest.approx(auc((~world.stays[:400]).astype(float), said))
    assert two.score("auc").high < one.score("auc").low


def test_a_cohort_is_measured_again_only_when_its_rows_changed(world, monkeypatch):
    first = grow_up(world).cohorts[-1].measured

    def never(*_, **__):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.monitoring.truth_cohorts.measure_part", never)
        assert follow(world).cohorts[-1].measured.to_dict() == first.to_dict()
    path = truth_partition(world.shop.home, day(CUT))
    write_partition(pl.read_parquet(path).slice(1), path)  # as an erasure does
    assert follow(world).cohorts[-1].counted == len(PEOPLE) - 1


def test_without_the_snapshot_a_cohort_is_judged_as_a_whole_and_says_why_there_are_no_segments(world, monkeypatch):
    def gone(*_, **__):
        raise OSError("no such file")

    monkeypatch.setattr("tasks.monitoring.truth_cohorts.build_snapshot", gone)
    report = grow_up(world)
    assert states(report) == ("good", "good")
    assert report.cohorts[-1].measured.no_segments.startswith("no segments: OSError: no such file")


def test_of_very_many_customers_every_so_manieth_is_measured(world, monkeypatch):
    monkeypatch.setattr("tasks.monitoring.truth_cohorts.MOST_ROWS", 600)
    (cohort,) = grow_up(world).cohorts
    assert (cohort.labelled, cohort.counted) == (len(PEOPLE), 600)


def test_an_older_as_of_says_what_was_known_then_and_changes_nothing(world):
    grow_up(world)
    before = hashes(world)
    report = follow(world, "2024-03-01")
    assert states(report) == ("waiting", "waiting")
    assert report.cohorts[-1].labelled == 0
    assert hashes(world) == before
    assert replace(report, cohorts=()).labels.state == "waiting"
