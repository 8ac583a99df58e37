from __future__ import annotations

import pytest

from models.card.key_metrics import key_metrics
from models.charter import Charter
from models.evaluation.bootstrap import Interval

CHARTER = Charter.model_validate({
    "name": "test", "problem": {"horizon_days": 90, "snapshot_every_months": 3},
    "value": {"customers": 100_000, "monthly_churners": 1000, "share_found": 0.8, "share_who_stay": 0.5,
              "price_a_month": 10, "discounted_price": 8, "contact_budget": 2000, "cost_of_contact": 0.6},
    "metrics": {"data scientist": {"brier": 0.1, "auc": 0.8}, "stakeholder": {"value_a_month": 2000},
                "ML engineer": {"log_loss": 0.4}},
})
SCORES = {
    "auc": Interval(0.82, 0.79, 0.85), "brier": Interval(0.09, 0.08, 0.095), "churners_found": Interval(0.5, 0.4, 0.6),
    "lift": Interval(25, 20, 30), "value": Interval(6000, 3000, 9000), "log_loss": Interval(0.5, 0.45, 0.55),
}


@pytest.fixture
def metrics():
    return {one.name: one for one in key_metrics(SCORES, CHARTER)}


def test_each_role_has_its_view_and_what_it_asks_for_besides(metrics):
    assert [(one.role, one.name) for one in metrics.values()] == [
        ("data scientist", "auc"), ("data scientist", "brier"), ("subject-matter expert", "churners_found"),
        ("subject-matter expert", "lift"), ("stakeholder", "value_a_month"), ("ML engineer", "log_loss")]


def test_money_a_cut_becomes_money_a_month_and_the_claim_has_paid_its_contacts(metrics):
    """400 saved at 8 are 3,200 a month; 2,000 contacts at 0.60 every third month are 400 a month."""
    money = metrics["value_a_month"]
    assert money.measured == Interval(2000, 1000, 3000)
    assert money.claimed == pytest.approx(2800)
    assert metrics["lift"].claimed == pytest.approx(0.8 / 0.02)


def test_met_is_the_value_and_surely_met_the_worse_end_of_its_interval(metrics):
    assert (metrics["auc"].met, metrics["auc"].surely_met) == (True, False)
    assert metrics["auc"].verdict == "met, though its interval reaches past the level"
    assert (metrics["brier"].met, metrics["brier"].surely_met, metrics["brier"].verdict) == (True, True, "met")
    assert (metrics["log_loss"].met, metrics["log_loss"].verdict) == (False, "not met")
    assert (metrics["value_a_month"].met, metrics["value_a_month"].surely_met) == (True, False)


def test_what_nobody_asks_for_is_neither_met_nor_missed(metrics):
    assert (metrics["lift"].met, metrics["lift"].surely_met, metrics["lift"].verdict) == (None, None, "not asked")


@pytest.mark.parametrize("scores", [{}, {"auc": Interval(float("nan"), float("nan"), float("nan"))}])
def test_what_was_not_measured_is_not_met(scores):
    found = next(one for one in key_metrics(scores, CHARTER) if one.name == "auc")
    assert (found.met, found.surely_met, found.verdict, found.measured_text) == (
        False, False, "not met: not measured", "not measured")


def test_a_value_without_an_interval_says_so():
    nan = float("nan")
    found = next(one for one in key_metrics({"auc": Interval(0.9, nan, nan)}, CHARTER) if one.name == "auc")
    assert found.measured_text == "0.900 (interval not known)"
    assert (found.met, found.surely_met) == (True, False)


def test_a_level_reads_as_its_metric_is_written(metrics):
    assert metrics["churners_found"].measured_text == "50.0% (40.0% to 60.0%)"
    assert metrics["value_a_month"].measured_text == "+2,000 (+1,000 to +3,000)"
    assert metrics["brier"].asked_text == "at most 0.100"
