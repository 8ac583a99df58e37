from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.charter import Value
from models.contract import Column, Contract
from models.errors import DataError
from models.evaluation.bootstrap import Interval
from models.study.groups import Step, add_groups, groups_of, narrow_to, when_to_stop
from models.training.contacts import WEIGHT

CONTRACT = Contract("id", "left", (), (
    Column("id", "string", "entity_key", "id", "who"),
    Column("noise", "float64", "numeric", "count", "nothing"),
    Column("weak", "float64", "numeric", "count", "a little", group="second"),
    Column("strong", "float64", "numeric", "count", "most of it", group="first"),
    Column("copy", "float64", "numeric", "count", "the same again", group="third"),
), {})
VALUE = Value(customers=3000, monthly_churners=900, share_found=0.5, share_who_stay=0.5, worth_of_saved=40,
              cost_of_contact=4, contact_budget=700)


def rows(seed: int, n: int = 3000) -> pd.DataFrame:
    """One column carries most, one a little, one is a copy, one is noise."""
    rng = np.random.default_rng(seed)
    strong, weak = rng.normal(size=(2, n))
    odds = 2 * strong + 0.8 * weak - 1
    return pd.DataFrame({"id": [f"c{one}" for one in range(n)], "left": rng.random(n) < 1 / (1 + np.exp(-odds)),
                         "strong": strong, "weak": weak, "copy": strong, "noise": rng.normal(size=n)})


def fit(train: pd.DataFrame, contract: Contract):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(train[contract.feature_names], train["left"])
    return lambda new: model.predict_proba(new[contract.feature_names])[:, 1]


@pytest.fixture(scope="module")
def steps():
    return add_groups(rows(1), rows(2), CONTRACT, VALUE, fit, confidence=0.95, resamples=200, random_state=7)


def test_groups_come_in_the_order_in_which_they_add_most(steps):
    assert [step.group for step in steps][:2] in (["first", "second"], ["third", "second"])  # the copy is as good
    assert {step.group for step in steps} == {"first", "second", "third", "other"}
    assert [step.features for step in steps] == [1, 1, 1, 1]


def test_what_adds_does_so_surely_and_copies_and_noise_do_not(steps):
    assert [step.adds for step in steps] == [True, True, False, False]
    assert steps[0].auc_added.value == pytest.approx(steps[0].auc - 0.5)
    assert steps[1].auc_added.value == pytest.approx(steps[1].auc - steps[0].auc)
    assert steps[1].value_added.value == pytest.approx(steps[1].value - steps[0].value)
    assert steps[0].value_added.low > 1000
    assert abs(steps[3].value_added.value) < 300
    assert all(step.fit_seconds > 0 for step in steps)


def test_the_report_says_after_which_group_to_stop(steps):
    last = {step.group for step in steps[2:]}
    said = when_to_stop(steps)
    assert said.startswith("after second nothing surely adds: ")
    assert all(group in said for group in last)
    assert when_to_stop(steps[2:]) == "no group surely adds anything"
    assert when_to_stop(steps[:2]) == "every group up to the last one may be worth its cost"


def test_rows_count_as_the_training_set_weighs_them():
    """Test rows of weight zero do not count: half of them have the opposite label."""
    test = rows(2)
    wrong = test.assign(left=~test["left"], id=test["id"] + "x")
    both = pd.concat([test.assign(**{WEIGHT: 1.0}), wrong.assign(**{WEIGHT: 0.0})], ignore_index=True)
    kept = add_groups(rows(1), both, CONTRACT, VALUE, fit, confidence=0.95, resamples=100, random_state=7)
    alone = add_groups(rows(1), test, CONTRACT, VALUE, fit, confidence=0.95, resamples=100, random_state=7)
    assert [step.auc for step in kept] == pytest.approx([step.auc for step in alone])
    assert [step.value for step in kept] == pytest.approx([step.value for step in alone])


def test_a_gain_that_is_no_number_adds_nothing():
    none = Interval(float("nan"), float("nan"), float("nan"))
    assert not Step("one", 1, 0.5, none, 0.0, none, 0.1).adds


def test_features_without_a_group_are_one_of_their_own():
    assert groups_of(CONTRACT) == {"other": ("noise",), "second": ("weak",), "first": ("strong",), "third": ("copy",)}
    assert narrow_to(CONTRACT, ["weak"]).feature_names == ["weak"]
    assert narrow_to(CONTRACT, ["weak"]).snapshot[0].role == "entity_key"


@pytest.mark.parametrize(("train", "test", "words"), [
    (rows(1).assign(left=0), rows(2), "held out to find the order of the groups are of one class"),
    (rows(1), rows(2).assign(left=1), "the 3,000 test rows are of one class"),
])
def test_one_class_only_is_one_clear_line(train, test, words):
    with pytest.raises(DataError, match=f"cannot compare feature groups: .*{words}"):
        add_groups(train, test, CONTRACT, VALUE, fit, confidence=0.95, resamples=100, random_state=7)
