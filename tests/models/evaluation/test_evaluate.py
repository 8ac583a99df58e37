from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from models.charter import Value
from models.errors import DataError
from models.evaluation.evaluate import evaluate_scores
from models.evaluation.result import SCORES, Evaluation

VALUE = Value(customers=10, monthly_churners=2, share_found=0.5, share_who_stay=0.5, worth_of_saved=10,
              cost_of_contact=1, contact_budget=2)
Y = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
P = np.array([0.9, 0.8, 0.6, 0.6, 0.2, 0.1])
WHO = np.array(list("abcdef"))


def world(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels that follow their probabilities, and whose they are."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(-1, 1.5, n)))
    return (rng.random(n) < p).astype(float), p, np.array([f"c{number:04d}" for number in range(n)])


def scored(y: np.ndarray = Y, p: np.ndarray = P, who: np.ndarray = WHO, **settings) -> Evaluation:
    return evaluate_scores(y, p, who, **{"value": VALUE, "random_state": 1, **settings})


def test_the_scores_of_six_customers_are_those_counted_by_hand():
    found = scored()
    assert found.scores.keys() == set(SCORES)
    assert (found.rows, found.churners, found.contacted) == (6, 3, 2)
    assert found.scores["auc"].value == pytest.approx((3 + 1.5 + 0) / 9)  # of .9, .6 and .1 against .8, .6 and .2
    assert found.scores["average_precision"].value == pytest.approx((1 + 2 / 4 + 3 / 6) / 3)
    assert found.scores["churners_found"].value == pytest.approx(1 / 3)  # a and b are contacted
    assert found.scores["lift"].value == pytest.approx(1.0)
    assert found.scores["value"].value == pytest.approx(1 * 0.5 * 10 - 2)


def test_every_score_agrees_with_scikit_learn_also_where_a_row_stands_for_several():
    y, p, who = world()
    weight = np.random.default_rng(3).uniform(0.5, 3, len(y))
    found = scored(y, p, who, weight=weight).scores
    assert found["auc"].value == pytest.approx(roc_auc_score(y, p, sample_weight=weight))
    assert found["average_precision"].value == pytest.approx(average_precision_score(y, p, sample_weight=weight))
    assert found["brier"].value == pytest.approx(brier_score_loss(y, p, sample_weight=weight))
    assert found["log_loss"].value == pytest.approx(log_loss(y, p, sample_weight=weight))


def test_a_row_of_weight_three_counts_like_three_rows():
    y, p, who = world(120)
    times = np.random.default_rng(4).integers(1, 4, len(y))
    weighted = scored(y, p, who, weight=times)
    copied = scored(*(np.repeat(part, times) for part in (y, p, who)))
    for name in SCORES:
        assert weighted.scores[name].value == pytest.approx(copied.scores[name].value)
        assert weighted.scores[name].low == pytest.approx(copied.scores[name].low)


def test_the_order_of_rows_changes_nothing():
    y, p, who = world()
    p = p.round(1).clip(0.05, 0.95)  # many ties, which the customer's name breaks
    shuffled = np.random.default_rng(5).permutation(len(y))
    assert scored(y[shuffled], p[shuffled], who[shuffled]).to_dict() == scored(y, p, who).to_dict()


def test_the_intervals_hold_the_truth_as_often_as_they_say():
    """The law draws 60 worlds; the AUC of a great one is the truth. 95 % of 60 is 57; 51 is four sigma below."""
    y, p, _ = world(200_000, seed=99)
    truth = roc_auc_score(y, p)
    held = 0
    for seed in range(60):
        auc = scored(*world(seed=seed), resamples=100).scores["auc"]
        held += auc.low <= truth <= auc.high
    assert 51 <= held <= 60
    assert auc.high - auc.low == pytest.approx(4 * 0.019, rel=0.35)  # Hanley and McNeil's standard error is .019


def test_probabilities_that_are_true_have_slope_one_and_intercept_none():
    y, p, who = world(4000)
    line = scored(y, p, who).scores
    assert line["calibration_slope"].low < 1 < line["calibration_slope"].high
    assert line["calibration_intercept"].low < 0 < line["calibration_intercept"].high
    odds = np.log(p / (1 - p))
    boastful = scored(y, 1 / (1 + np.exp(-2 * odds)), who).scores
    assert boastful["calibration_slope"].value == pytest.approx(line["calibration_slope"].value / 2)
    assert boastful["calibration_slope"].high < 0.6


def test_rows_of_one_customer_do_not_narrow_an_interval():
    y, p, who = world(400)
    once = scored(y, p, who).scores["auc"]
    copied = scored(*(np.repeat(part, 9) for part in (y, p, who))).scores["auc"]
    assert copied.high - copied.low == pytest.approx(once.high - once.low)


def test_segments_share_the_budget_of_all_and_add_up_to_the_whole():
    y, p, who = world()
    levels = np.where(p > np.median(p), "high", "low")
    found = scored(y, p, who, segments={"half": levels}, value=VALUE.model_copy(update={"contact_budget": 100}))
    high, low = found.segments["half"]
    assert (high.level, low.level) == ("high", "low")
    assert high.rows + low.rows == 600
    assert (high.contacted, low.contacted) == (100, 0)
    assert high.scores["value"].value + low.scores["value"].value == pytest.approx(found.scores["value"].value)
    assert high.scores["auc"].value == pytest.approx(roc_auc_score(y[levels == "high"], p[levels == "high"]))
    assert np.isnan(low.scores["lift"].value)  # nobody of it is contacted: there is no rate


def test_the_worst_segment_is_the_one_whose_scores_were_spoiled():
    y, p, who = world(1200)
    levels = np.array(["a", "b", "c"])[np.arange(len(y)) % 3]
    spoiled = np.where(levels == "b", np.random.default_rng(8).permutation(p), p)
    found = scored(y, spoiled, who, segments={"third": levels})
    assert found.worst is not None
    assert found.worst.name == "third: b"
    assert found.worst.scores["auc"].high < 0.65


@pytest.mark.parametrize("churners", [0, 3, 9])
def test_a_segment_of_few_or_of_one_class_is_neither_the_worst_nor_silently_good(churners):
    y, p, who = world()
    tiny = np.zeros(len(y), dtype=bool)
    tiny[np.flatnonzero(y == 1)[:churners]] = tiny[np.flatnonzero(y == 0)[:30]] = True
    p = np.where(tiny & (y == 1), 0.01, p)  # its few churners are all ranked last: AUC 0 if one believed it
    found = scored(y, p, who, segments={"tiny": np.where(tiny, "few", "rest")})
    few, rest = found.segments["tiny"]
    assert few.silent.startswith(f"too few to say: {30 + churners} rows with {churners} churners")
    assert found.worst == rest
    assert found.silent_segments == (few,)


def test_a_segment_whose_interval_reaches_from_poor_to_good_says_nothing():
    y, p, who = world()
    small = np.zeros(len(y), dtype=bool)
    small[np.r_[np.flatnonzero(y == 1)[:12], np.flatnonzero(y == 0)[:14]]] = True
    p = np.where(small, np.random.default_rng(3).uniform(0.1, 0.9, len(y)), p)
    found = scored(y, p, who, segments={"small": np.where(small, "few", "rest")})
    few, rest = found.segments["small"]
    assert few.scores["auc"].value < rest.scores["auc"].value
    assert few.silent.startswith("too few to say: AUC within [0.")
    assert found.worst == rest


def test_without_a_segment_that_says_something_there_is_no_worst():
    assert scored(segments={"one": np.full(6, "x")}).worst is None
    assert scored().worst is None


def test_metrics_are_flat_finite_and_named_as_mlflow_takes_them():
    import mlflow.utils.validation as mlflow_names

    y, p, who = world()
    levels = np.where(np.arange(len(y)) % 2 == 0, "<b>", "(b)").astype(object)
    levels[np.flatnonzero(y == 0)[:5]] = "one class"
    metrics = scored(y, p, who, segments={"odd/one": levels}).as_metrics()
    assert metrics["auc"] == pytest.approx(roc_auc_score(y, p))
    assert metrics["auc_low"] < metrics["auc"] < metrics["auc_high"]
    assert sum(name.startswith("segment/odd_one/") for name in metrics) == 2
    assert {"worst_segment_auc", "profit_budget_value", "profit_best_depth"} <= metrics.keys()
    assert "segment/odd_one/one class/auc" not in metrics
    for name, value in metrics.items():
        mlflow_names._validate_metric_name(name)
        assert np.isfinite(value)


def test_a_result_survives_json():
    y, p, who = world()
    found = scored(y, p, who, segments={"half": np.where(p > 0.99, "few", "rest")})
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = Evaluation.from_dict(json.loads(text))
    assert json.dumps(again.to_dict(), allow_nan=False) == text
    assert again.worst is not None
    assert str(again.worst) == str(found.worst)


def swap(values: np.ndarray, new: float) -> np.ndarray:
    return np.r_[new, values[1:]]


@pytest.mark.parametrize(("settings", "message"), [
    ({"y": np.ones(6)}, "6 of 6 rows churned, and it takes both classes"),
    ({"y": np.zeros(6)}, "0 of 6 rows churned"),
    ({"y": swap(Y, np.nan)}, "1 of 6 labels are neither 0 nor 1"),
    ({"p": swap(P, np.nan)}, r"1 of 6 probabilities lie outside \[0, 1\] or are no number \(first: nan\)"),
    ({"p": swap(P, np.inf)}, "first: inf"),
    ({"p": swap(P, 1.5)}, "first: 1.5"),
    ({"p": np.full(6, 0.25)}, "all 6 probabilities are 0.25, which ranks nobody"),
    ({"y": Y[:0], "p": P[:0], "who": WHO[:0]}, "there are no rows"),
    ({"p": P[:5]}, "5 values of probability for 6 labels"),
    ({"who": WHO[:5]}, "5 values of entities for 6 labels"),
    ({"segments": {"tier": WHO[:4]}}, "4 values of tier for 6 labels"),
    ({"weight": -np.ones(6)}, "weights must be numbers of at least 0"),
    ({"weight": swap(np.ones(6), np.nan)}, "weights must be numbers of at least 0"),
    ({"weight": Y}, "that leave both classes"),
])
def test_what_cannot_be_scored_is_refused_in_one_line(settings, message):
    with pytest.raises(DataError, match=message):
        scored(**settings)
