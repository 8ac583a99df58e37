from __future__ import annotations

from dataclasses import replace
from math import isnan
from statistics import NormalDist

import numpy as np
import pytest

from models.card.key_metrics import key_metrics
from models.charter import Charter
from models.decision import Decision
from models.evaluation.bootstrap import Interval
from models.gates.go import MatureData, judge_deployment, judge_design, judge_development, smallest_detectable

CHARTER = Charter.model_validate({
    "name": "test", "problem": {"horizon_days": 30},
    "value": {"customers": 5000, "monthly_churners": 500, "share_found": 0.4, "share_who_stay": 0.5,
              "worth_of_saved": 60, "cost_of_contact": 4, "contact_budget": 600},
    "training": {"least_rows": 500, "least_churners": 50},
    "metrics": {"data scientist": {"auc": 0.75}},
})
ENOUGH = MatureData(train_rows=20_000, train_churners=2000, test_rows=5000, test_churners=500, train_cuts=4,
                    test_cuts=1)


def changed(**changes: object) -> Charter:
    document = CHARTER.model_dump()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        document[section][name] = value
    return Charter.model_validate(document)


def test_the_smallest_detectable_share_is_the_one_a_simulated_test_finds_four_times_in_five():
    smallest = smallest_detectable(churners=400, at_random=0.12, confidence=0.95)
    rng = np.random.default_rng(1)
    limit = 0.12 + NormalDist().inv_cdf(0.975) * np.sqrt(0.12 * 0.88 / 400)
    found = rng.binomial(400, smallest, 20_000) / 400 >= limit
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_more_churners_show_smaller_effects_and_none_show_nothing():
    shares = [smallest_detectable(churners=count, at_random=0.1, confidence=0.95) for count in (20, 200, 2000, 200_000)]
    assert shares == sorted(shares, reverse=True)
    assert 0.1 < shares[-1] < 0.105
    assert isnan(smallest_detectable(churners=0, at_random=0.1, confidence=0.95))


def test_enough_data_for_a_claim_that_can_come_true_and_pays_is_go():
    found = judge_design(CHARTER, ENOUGH)
    assert (found.gate, found.verdict) == ("go", "go")
    assert "smallest share that can: 16" in found.reason
    assert found.evidence["stage"] == "design"


@pytest.mark.parametrize(("change", "said"), [
    ({"train_rows": 499, "train_churners": 99}, "499 mature training labels, needed are 500"),
    ({"test_churners": 49}, "49 rows of the rarer class in training or test, needed are 50"),
    ({"test_churners": 4951}, "49 rows of the rarer class"),
    ({"test_rows": 199, "test_churners": 60}, "199 test rows, needed are 200"),
    ({"test_rows": 600, "test_churners": 60}, "reaches all 600 customers of a cut"),
    ({"test_churners": 2000}, "600 contacts reach 30.0% of 2,000 at most"),
    ({"test_rows": 1800, "test_churners": 60}, "cannot be told from 33.3% by contacting at random: with 60 churners"),
    ({"test_rows": 0, "test_churners": 0}, "0 test rows"),
])
def test_data_that_cannot_show_the_claim_is_no_go_with_the_numbers(change, said):
    found = judge_design(CHARTER, replace(ENOUGH, **change))
    assert found.verdict == "no go"
    assert said in found.reason
    assert "nan" not in found.reason


def test_a_budget_of_contacts_is_spent_at_each_cut():
    """Two cuts of 5,000 customers: 600 contacts at each are 12 % at random, not 6 %."""
    found = judge_design(CHARTER, replace(ENOUGH, test_rows=10_000, test_churners=1000, test_cuts=2))
    assert found.evidence["share_at_random"] == pytest.approx(0.12)
    assert found.evidence["share_at_most"] == 1.0


@pytest.mark.parametrize(("changes", "said"), [
    ({"requirements__running_cost_a_month": 3600}, "claim of 6,000 a month does not pay for 6,000 of contacts and"),
    ({"requirements__budget_a_month": 2399}, "cost 2,400 a month, the budget is 2,399"),
])
def test_a_claim_that_does_not_pay_is_no_go(changes, said):
    found = judge_design(changed(**changes), ENOUGH)
    assert found.verdict == "no go"
    assert said in found.reason


def test_costs_within_the_budget_are_no_obstacle():
    assert judge_design(changed(requirements__budget_a_month=2400), ENOUGH).verdict == "go"


PROMOTED = Decision("promotion", "promote", "better")


def measured(auc: float):
    return key_metrics({"auc": Interval(auc, auc - 0.02, auc + 0.02)}, CHARTER)


def test_a_promoted_model_that_reaches_the_levels_asked_is_go():
    assert judge_development(PROMOTED, measured(0.8), live=False).verdict == "go"


@pytest.mark.parametrize("auc", [0.74, float("nan")])
def test_a_first_model_that_misses_a_level_is_no_go(auc):
    found = judge_development(PROMOTED, measured(auc), live=False)
    assert found.verdict == "no go"
    assert "ROC AUC" in found.reason
    assert "asked: at least 0.750" in found.reason


def test_an_evaluation_without_the_score_that_is_asked_is_no_go():
    assert judge_development(PROMOTED, key_metrics({}, CHARTER), live=False).verdict == "no go"


def test_a_model_that_beats_the_champion_goes_even_if_it_misses_a_level_which_is_named():
    found = judge_development(PROMOTED, measured(0.7), live=True)
    assert found.verdict == "go"
    assert "misses ROC AUC 0.700 (asked: at least 0.750)" in found.reason


def test_a_model_that_was_not_promoted_is_no_go_however_good_its_levels():
    found = judge_development(Decision("promotion", "keep", "equal"), measured(0.9), live=False)
    assert (found.verdict, found.reason) == ("no go", "development: keep: equal")


@pytest.mark.parametrize(("verdict", "meaning"), [("release", "go"), ("refuse", "no go"), ("rolled back", "no go")])
def test_the_end_of_a_rollout_is_a_go_only_when_it_released(verdict, meaning):
    found = judge_deployment(Decision("release", verdict, "because", {"rollout_id": "r"}))
    assert (found.verdict, found.reason) == (meaning, "deployment: because")
    assert found.evidence == {"stage": "deployment", "rollout_id": "r"}


def test_a_verdict_that_ends_no_rollout_is_neither():
    assert judge_deployment(Decision("canary", "advance", "more")) is None
