from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from models.charter import Value
from models.evaluation.metrics import Ranked, auc, evaluate, rank, realised_value

VALUE = Value(customers=10, monthly_churners=2, share_found=0.5, share_who_stay=0.5, worth_of_saved=10,
              cost_of_contact=1, contact_budget=2)


def test_auc_agrees_with_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(1)
    y, score = rng.integers(0, 2, 300).astype(float), rng.integers(0, 12, 300).astype(float)
    weight = rng.integers(0, 4, 300).astype(float)
    assert auc(y, score) == pytest.approx(roc_auc_score(y, score))
    assert Ranked.of(score).auc(y, weight) == pytest.approx(roc_auc_score(y, score, sample_weight=weight))


def test_auc_of_one_class_is_no_number():
    assert np.isnan(auc(np.ones(3), np.arange(3.0)))


def test_realised_value_counts_saved_churners_and_takes_off_every_contact():
    y = np.array([1.0, 0.0, 1.0, 1.0])
    order = np.array([0, 1, 2, 3])
    assert realised_value(y, order, VALUE) == pytest.approx(1 * 0.5 * 10 - 2 * 1)


def test_realised_value_fills_the_budget_by_weight():
    y = np.array([1.0, 0.0])
    assert realised_value(y, np.array([0, 1]), VALUE, np.array([5.0, 5.0])) == pytest.approx(2 * 0.5 * 10 - 2)


def test_ranking_breaks_ties_by_entity_whatever_the_order_of_rows():
    score = np.array([0.5, 0.5, 0.9])
    assert rank(score, ["b", "a", "c"]).tolist() == [2, 1, 0]


def test_evaluate_finds_lift_and_churners_among_the_contacted():
    rows = pd.DataFrame({"id": list("abcd"), "y": [1, 1, 0, 0]})
    found = evaluate(rows, np.array([0.9, 0.2, 0.8, 0.1]), label="y", entity="id", value=VALUE)
    assert found.churners_found == 0.5
    assert found.lift == 1.0
    assert found.contacted == 2


def test_a_row_of_weight_two_counts_like_two_customers():
    rng = np.random.default_rng(4)
    rows = pd.DataFrame({"id": np.arange(60), "y": rng.integers(0, 2, 60)})
    score, weight = rng.random(60).round(1), rng.integers(1, 4, 60)
    value = VALUE.model_copy(update={"contact_budget": 25})
    copied = rows.loc[rows.index.repeat(weight)]
    by_weight = evaluate(rows, score, label="y", entity="id", value=value, weight=weight.astype(float))
    by_copies = evaluate(copied, np.repeat(score, weight), label="y", entity="id", value=value)
    assert by_weight.as_dict() == pytest.approx(by_copies.as_dict())
    assert by_weight.value != evaluate(rows, score, label="y", entity="id", value=value).value
