from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.charter import Value
from models.evaluation.metrics import Ranked, rank, realised_value
from models.training.contacts import (
    LEAST_SHARE,
    WEIGHT,
    contact_chance,
    contacted_left_out,
    row_weights,
    weigh_uncontacted,
)
from models.training.estimators import make_pipeline
from tests.release_payload import tiny_contract

VALUE = Value(customers=40_000, monthly_churners=8_000, share_found=0.5, share_who_stay=0.5, worth_of_saved=50,
              cost_of_contact=4, contact_budget=4_000)


def flags(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=bool)


def test_a_stratum_is_counted_in_full_by_those_who_stayed_uncontacted():
    """A hundred rows in one stratum, of which seventy-five were contacted: each of the others counts four."""
    contacted = np.arange(100) < 75
    found = weigh_uncontacted(contacted, np.zeros(100, dtype=bool), np.arange(100.0))
    assert found.kept.tolist() == (~contacted).tolist()
    assert found.weight == pytest.approx(np.full(25, 4.0))
    assert (found.left_out, found.unrepresented, found.clipped) == (75, 0, 0)


def test_strata_follow_the_score_and_nobody_stands_for_customers_of_another():
    """Two strata of a hundred: in the upper one half was contacted, in the lower one nobody."""
    score = np.arange(200.0)
    contacted = (score >= 100) & (np.arange(200) % 2 == 0)
    found = weigh_uncontacted(contacted, flags(*[0] * 200), score)
    kept = score[found.kept]
    assert found.weight[kept < 100] == pytest.approx(1)
    assert found.weight[kept >= 100] == pytest.approx(2)


def test_a_stratum_without_anybody_left_alone_is_unrepresented_and_said_to_be():
    score = np.arange(200.0)
    found = weigh_uncontacted(score >= 100, flags(*[0] * 200), score)
    assert found.unrepresented == 100


def test_the_hold_out_stands_for_a_stratum_in_which_all_others_were_contacted_and_a_broken_one_is_counted():
    score, holdout = np.arange(200.0), np.arange(200) % 10 == 9
    found = weigh_uncontacted((score >= 100) & ~holdout, holdout, score)
    kept = score[found.kept]
    assert found.weight[kept >= 100] == pytest.approx(10)
    assert (found.unrepresented, found.holdout_contacted) == (0, 0)
    assert weigh_uncontacted(score >= 100, holdout, score).holdout_contacted == 10


def test_no_row_stands_for_more_than_the_limit():
    one_left = weigh_uncontacted(np.arange(1000) > 0, flags(*[0] * 1000), np.zeros(1000))
    assert one_left.clipped == 1  # a thousandth is less than the least share
    assert LEAST_SHARE > 1 / 1000


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 700), share=st.floats(0, 0.95), seed=st.integers(0, 10_000))
def test_weights_are_positive_and_add_up_to_all_rows(rows, share, seed):
    rng = np.random.default_rng(seed)
    contacted = rng.random(rows) < share
    contacted[0] = False
    found = weigh_uncontacted(contacted, rng.random(rows) < 0.05, rng.normal(size=rows).round(1))
    assert (found.weight > 0).all()
    assert found.weight.sum() == pytest.approx(rows)
    assert contacted_left_out(found.weight) == contacted.sum() == found.left_out


def test_without_a_column_of_weights_all_rows_count_one():
    assert row_weights(pd.DataFrame({"x": [1, 2]})) is None
    assert row_weights(pd.DataFrame({WEIGHT: [1, 2.5]})).tolist() == [1, 2.5]


# A world in which contacts hide churn: visits and spend say who leaves, the top by a model that is not ours is
# contacted, and of those who would have left half stay. A twentieth is never contacted.
ROWS, HOLDOUT, STAY = 40_000, 0.05, 0.5


@pytest.fixture(scope="module", params=["the top by another model", "at random among the risky"])
def world(request):
    rng = np.random.default_rng(11)
    rows = pd.DataFrame({"visits": rng.poisson(4, ROWS).astype(float), "spend": rng.gamma(2, 20, ROWS),
                         "tier": rng.choice(["gold", "silver"], ROWS)})
    lapsing = (rows["tier"] == "silver") & (rows["visits"] < 3)
    logit = (0.6 * (3 - rows["visits"]) - rows["spend"] / 40 + lapsing).to_numpy()
    would_leave = rng.random(ROWS) < 1 / (1 + np.exp(-logit))
    risk = logit + rng.normal(size=ROWS) * 0.3  # the live model's score: like the truth, and not a line
    holdout = rng.random(ROWS) < HOLDOUT
    top = risk >= np.quantile(risk, 0.8 if "top" in request.param else 0.6)
    contacted = top & ~holdout & ((rng.random(ROWS) < 0.5) | ("top" in request.param))
    left = would_leave & ~(contacted & (rng.random(ROWS) < STAY))
    return rows, would_leave.astype(float), left.astype(float), contacted, holdout, logit


def test_contacts_hide_churn_from_the_naive_figures_and_not_from_ours(world):
    """Churn rate, AUC and value of a good score: what they would be had nobody been contacted."""
    rows, would_leave, left, contacted, holdout, score = world
    found = weigh_uncontacted(contacted, holdout, contact_chance(rows, contacted, holdout, tiny_contract()))
    kept, weight, entities = found.kept, found.weight, np.arange(ROWS)
    truth, naive, dropped, ours = (
        (float(np.average(y, weights=w)), Ranked.of(s).auc(y, w),
         realised_value(y, rank(s, e), VALUE, w) / realised_value(would_leave, rank(score, entities), VALUE))
        for y, s, e, w in (
            (would_leave, score, entities, np.ones(ROWS)), (left, score, entities, np.ones(ROWS)),
            (left[kept], score[kept], entities[kept], np.ones(kept.sum())),
            (left[kept], score[kept], entities[kept], weight),
        )
    )
    for number, allowed in enumerate((0.01, 0.012, 0.08)):
        assert abs(ours[number] - truth[number]) < allowed
        assert abs(naive[number] - truth[number]) > 2 * allowed
    assert abs(dropped[0] - truth[0]) > 0.04  # leaving them out alone takes the churners out of the sample
    assert abs(dropped[2] - truth[2]) > 0.1


def test_a_model_that_learns_from_the_weighted_rows_says_the_churn_there_would_be(world):
    """Fitted on everyone it takes the saved for loyal; the risky look safe, and the next contacts go elsewhere."""
    rows, would_leave, left, contacted, holdout, _ = world
    found = weigh_uncontacted(contacted, holdout, contact_chance(rows, contacted, holdout, tiny_contract()))
    risky = contacted
    said = {}
    for name, here, weight in (("naive", np.ones(ROWS, dtype=bool), None), ("ours", found.kept, found.weight)):
        pipeline = make_pipeline("boosting", tiny_contract(), random_state=0)
        pipeline.fit(rows[here], left[here], model__sample_weight=weight)
        said[name] = pipeline.predict_proba(rows[risky])[:, 1].mean() / would_leave[risky].mean()
    assert said["naive"] < 0.8
    assert said["ours"] == pytest.approx(1, abs=0.05)
