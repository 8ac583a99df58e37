"""The gate of performance: waits while it is early, is bad only beyond chance, and fails closed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from models.charter import Value
from models.evaluation.cohort import Cohort, Measured, Part, measure_part, worst_of
from models.gates.performance import Floors, judge_labels, judge_performance
from models.limits import Monitoring, PromotionGate

VALUE = Value(customers=1000, monthly_churners=200, share_found=0.5, share_who_stay=0.5, worth_of_saved=60,
              cost_of_contact=4, contact_budget=100)
LIMITS = Monitoring(least_customers=300)
FLOORS = Floors(least_auc=0.65, max_brier=0.2, least_customers=300)
MATURITY = timedelta(days=35)
NOW = datetime(2025, 6, 1, tzinfo=UTC)


def day(month: int) -> datetime:
    return datetime(2025, month, 1, tzinfo=UTC)


def part(*, rows: int = 600, good: float = 1.0, seed: int = 0, rate: float = 0.3) -> Part:
    """Customers whose score tells churners with the strength `good` (0: not at all)."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(math.log(rate / (1 - rate)), 1.5, rows)
    y = (rng.random(rows) < 1 / (1 + np.exp(-(good * odds + (1 - good) * math.log(rate / (1 - rate)))))).astype(float)
    return measure_part("all", y, 1 / (1 + np.exp(-odds)), np.arange(rows), np.ones(rows), value=VALUE,
                        segments={"age": np.where(np.arange(rows) % 2 == 0, "young", "old")})


GOOD, BAD = part(), part(good=0.0)


def cohort(month: int, *, rows: int = 600, labelled: int | None = None, whole: Part | None = GOOD, churned: int = 180,
           fault: str | None = None) -> Cohort:
    return Cohort(day(month), day(month) + MATURITY, rows, 0, rows if labelled is None else labelled, churned,
                  releases=("churn:v1",), measured=whole and Measured(whole), fault=fault)


def performance(*cohorts: Cohort, floors: Floors = FLOORS, protected: tuple[str, ...] = (),
                lost: tuple[datetime, ...] = ()) -> Any:
    return judge_performance(cohorts, floors, protected=protected, as_of=NOW, lost=lost)


def labels(*cohorts: Cohort, lost: tuple[datetime, ...] = ()) -> Any:
    return judge_labels(cohorts, LIMITS, as_of=NOW, lost=lost)


def test_nothing_mature_is_waiting_and_says_until_when():
    for judge in (labels, performance):
        assert judge().state == "waiting"
        signal = judge(cohort(5, whole=None, labelled=0))
        assert signal.state == "waiting"
        assert signal.reason == ("no label is mature yet: the first cohort, of 2025-05-01 with 600 customers, is "
                                 "mature on 2025-06-05")


def test_a_cohort_that_is_not_mature_is_never_judged_whatever_it_says():
    """Whoever fills in labels too early changes nothing."""
    early = cohort(5, whole=BAD)
    assert performance(early).state == "waiting"
    assert performance(cohort(3), early).evidence["cohort"] == "2025-03-01"
    assert labels(cohort(3), replace(early, labelled=0)).state == "good"


def test_the_newest_mature_cohort_is_judged_and_only_surely_below_the_floor_is_bad():
    assert performance(cohort(2, whole=BAD), cohort(3)).state == "good"
    signal = performance(cohort(2), cohort(3, whole=BAD))
    assert signal.state == "bad"
    assert "of the cohort of 2025-03-01: surely AUC is below 0.65" in signal.reason
    low, high = signal.evidence["auc_low"], signal.evidence["auc_high"]
    lenient = replace(FLOORS, least_auc=high - 0.001, max_brier=1)
    assert performance(cohort(3, whole=BAD), floors=lenient).state == "good"
    assert low < high < 0.65


def test_a_brier_score_surely_above_the_limit_is_bad_too():
    brier = GOOD.score("brier")
    assert performance(cohort(3), floors=replace(FLOORS, max_brier=brier.low + 0.001)).state == "good"
    signal = performance(cohort(3), floors=replace(FLOORS, max_brier=brier.low - 0.001))
    assert signal.state == "bad"
    assert "surely the Brier score is above" in signal.reason


def test_the_floors_are_the_promotion_gates_unless_the_charter_says_others():
    promotion = PromotionGate(least_auc=0.7, max_brier=0.19)
    assert Floors.of(LIMITS, promotion) == Floors(0.7, 0.19, 300)
    assert Floors.of(Monitoring(least_auc=0.61, max_brier=0.24), promotion) == Floors(0.61, 0.24, 200)
    for wrong in ({"least_auc": 0.5}, {"max_brier": 0}, {"least_label_coverage": 1.1}, {"least_customers": 0},
                  {"least_auc": math.nan}):
        with pytest.raises(ValidationError):
            Monitoring(**wrong)


def test_too_few_customers_wait_and_are_broken_when_three_mature_cohorts_had_too_few():
    small = part(rows=100)
    assert performance(cohort(1, rows=100, whole=small)).state == "waiting"
    signal = performance(*(cohort(month, rows=100, whole=small) for month in (1, 2, 3)))
    assert signal.state == "broken"
    assert "none of 3 mature cohorts has 300 customers to judge by, the largest has 100" in signal.reason
    assert performance(cohort(1), *(cohort(month, rows=100, whole=small) for month in (2, 3))).state == "good"


def test_a_cohort_that_cannot_be_judged_is_broken_and_not_passed_over_for_an_older_one():
    signal = performance(cohort(2), cohort(3, whole=None, labelled=60, fault="10.0% of 600 customers have a label"))
    assert signal.state == "broken"
    assert signal.reason == "the cohort of 2025-03-01 cannot be judged: 10.0% of 600 customers have a label"
    one_class = measure_part("all", np.zeros(600), np.linspace(0, 1, 600), np.arange(600), np.ones(600), value=VALUE)
    signal = performance(cohort(3, whole=one_class))
    assert signal.state == "broken"
    assert "it takes both classes" in signal.reason


def test_few_churners_are_broken_for_their_interval_says_nothing():
    y = np.zeros(600)
    y[:4] = 1
    few = measure_part("all", y, np.linspace(1, 0, 600), np.arange(600), np.ones(600), value=VALUE)
    assert performance(cohort(3, whole=few)).state == "broken"


def test_missing_labels_are_the_feeds_fault_and_none_is_broken():
    assert labels(cohort(3, labelled=541)).state == "good"
    bad = labels(cohort(2), cohort(3, labelled=539))
    assert (bad.state, bad.evidence["coverage"]) == ("bad", 0.8983)
    assert "539 of 600 customers of the cohort of 2025-03-01 have a label (89.8%), at least 90%" in bad.reason
    none = labels(cohort(2), cohort(3, labelled=0, churned=0))
    assert none.state == "broken"
    assert none.reason.startswith("no label has come for the cohort of 2025-03-01, mature since 2025-04-05 (600")


@pytest.mark.parametrize(("churned", "what"), [(0, "stayed"), (600, "left")])
def test_labels_that_all_say_the_same_are_broken(churned, what):
    signal = labels(cohort(3, churned=churned))
    assert signal.state == "broken"
    assert signal.reason == (f"all 600 labels of the cohort of 2025-03-01 say that the customer {what}: the label feed "
                             "says nothing")


def test_small_cohorts_are_taken_together_and_a_stray_one_does_not_hide_a_large_one():
    assert labels(cohort(1, rows=10, labelled=10, churned=3), cohort(2, rows=10, labelled=2, churned=1)).state == "bad"
    assert labels(cohort(2), cohort(3, rows=2, labelled=0, churned=0)).evidence["cohort"] == "2025-02-01"


def years_ago(*, rows: int = 600, **given: Any) -> Cohort:
    old = day(1).replace(year=2022)
    return replace(cohort(1, rows=rows, **given), cut=old, mature_at=old + MATURITY)


def daily(number: int, *, labelled: int = 199) -> list[Cohort]:
    """Cohorts of 199 customers, a day each, all of them mature."""
    small = part(rows=199)
    one = cohort(2, rows=199, labelled=labelled, churned=min(labelled, 60), whole=small if labelled else None)
    cuts = [day(2) + timedelta(days=later) for later in range(number)]
    return [replace(one, cut=cut, mature_at=cut + MATURITY) for cut in cuts]


def test_an_old_cohort_does_not_speak_for_many_small_ones_after_it():
    """By a day each is too small to be judged, all of them are what the model did since."""
    silent = labels(years_ago(), *daily(20, labelled=0))
    assert silent.state == "broken"
    assert "no label has come for the 20 mature cohorts since 2022-01-01" in silent.reason
    assert labels(years_ago(), *daily(20, labelled=100)).state == "bad"
    come = labels(years_ago(), *daily(20))
    assert (come.state, come.evidence["rows"]) == ("good", 20 * 199)
    unjudged = performance(years_ago(), *daily(20))
    assert unjudged.state == "broken"
    assert unjudged.reason == (
        "20 mature cohorts since that of 2022-01-01, with 3,980 customers together, have none of 300 to judge by "
        "(monitoring.least_customers): how right the model was since is not known")


def test_few_small_cohorts_after_a_large_one_are_named_and_the_large_one_is_judged():
    for signal in (labels(years_ago(), *daily(1, labelled=0)), performance(years_ago(), *daily(1, labelled=0))):
        assert signal.state == "good"
        assert (signal.evidence["cohort"], signal.evidence["smaller_since"]) == ("2022-01-01", 1)
    assert labels(years_ago()).evidence["smaller_since"] == 0  # nothing was predicted since: nothing is missing


@pytest.mark.parametrize("judge", [labels, performance])
def test_predictions_whose_truth_is_gone_are_broken_and_no_matter_of_waiting(judge: Any):
    for cohorts in ((), (years_ago(),), (cohort(5, whole=None, labelled=0),)):
        signal = judge(*cohorts, lost=(day(2), day(3)))
        assert signal.state == "broken"
        assert signal.reason == (
            "customers were scored on 2025-03-01 (and on 1 date before), their labels are due, and lake/truth has no "
            "row of them: restore lake/truth, or lake/scores and lake/predictions, from a backup")
        assert signal.evidence == {"lost": 2, "newest_lost": "2025-03-01"}
    assert judge(cohort(4), lost=(day(2), day(3))).state == "good"  # newer truth has come


def test_the_worst_segment_and_the_worst_protected_level_are_named():
    signal = performance(cohort(3), protected=("age",))
    worst = GOOD.evaluation.worst
    assert signal.evidence["worst_segment"] == signal.evidence["worst_protected"] == worst.name
    assert worst_of(GOOD.evaluation, ("age",)) == worst
    assert worst_of(GOOD.evaluation, ("plan",)) is None


def test_weights_count_in_rates_and_scores():
    y, said = np.array([1.0, 0, 0, 1]), np.array([0.9, 0.1, 0.6, 0.4])
    weighted = measure_part("all", y, said, np.arange(4), np.array([3.0, 1, 1, 1]), value=VALUE)
    assert (weighted.churn_rate, weighted.mean_probability) == pytest.approx((4 / 6, (2.7 + 1.1) / 6))
    assert weighted.score("brier").value == pytest.approx((3 * 0.01 + 0.01 + 0.36 + 0.36) / 6)
    assert weighted.score("auc").value == pytest.approx((3 * 2 + 1) / 8)


def test_what_was_measured_comes_back_from_json():
    empty = measure_part("none", np.array([]), np.array([]), np.array([]), np.array([]), value=VALUE)
    assert empty.fault is not None
    assert math.isnan(empty.score("auc").value)
    for measured in (Measured(GOOD, (BAD,), holdout=part(rows=50), contacted=Part("contacted", 3, 0.5, 0.25)),
                     Measured(empty, no_segments="no segments: gone")):
        text = json.dumps(measured.to_dict(), allow_nan=False)
        assert json.dumps(Measured.from_dict(json.loads(text)).to_dict()) == text
