from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from models.errors import DataError
from models.training.rows import check_enough, check_weight, labels_of, split_rows
from tests.models.training.fit_data import CHARTER, CONTRACT, CUTS, PLAN, rows


def test_training_and_test_rows_are_those_of_their_cuts():
    train, test = split_rows(rows(), PLAN)
    assert set(train["event_timestamp"]) == set(CUTS[:2])
    assert set(test["event_timestamp"]) == {CUTS[2]}


def test_too_few_labels_say_how_many_there_are_how_many_are_needed_and_when_there_may_be_more():
    train, test = split_rows(rows(customers=100), PLAN)
    with pytest.raises(DataError, match=r"200 mature training labels, needed are 500; .* one more cut is 2024-05-01"):
        check_enough(train, test, CONTRACT, CHARTER, as_of=datetime(2024, 4, 1, tzinfo=UTC),
                     next_as_of=datetime(2024, 5, 1, tzinfo=UTC))


def test_one_class_only_is_too_few_of_the_other():
    train, test = split_rows(rows().assign(left=0), PLAN)
    with pytest.raises(DataError, match="fewest churners 0"):
        check_enough(train, test, CONTRACT, CHARTER, as_of=CUTS[2], next_as_of=CUTS[2])


@pytest.mark.parametrize("kind", ["bool", "int64", "float64", "boolean"])
def test_labels_of_any_type_become_numbers(kind):
    frame = rows().astype({"left": kind})
    assert np.array_equal(labels_of(frame, CONTRACT, use="training"), rows()["left"].to_numpy(float))


def test_no_rows_are_no_training():
    with pytest.raises(DataError, match="cannot use the test rows: there are none"):
        labels_of(rows().head(0), CONTRACT, use="test")


def test_a_customer_twice_at_a_cut_is_refused():
    frame = rows()
    with pytest.raises(DataError, match=r"2 of 1,202 repeat a customer at a cut"):
        labels_of(pd.concat([frame, frame.head(2)]), CONTRACT, use="training")


def test_a_label_without_features_is_refused_with_the_number_of_them():
    never_null = replace(CONTRACT, snapshot=tuple(replace(column, nullable=False) for column in CONTRACT.snapshot))
    frame = rows().assign(silent=1.0, tier="a")
    frame.loc[:2, ["silent", "noise", "tier"]] = None
    frame.loc[9, "noise"] = None
    with pytest.raises(DataError, match="3 of 1,200 labels have no features at their cut"):
        labels_of(frame, never_null, use="training")
    assert len(labels_of(frame, CONTRACT, use="training")) == 1200  # here all three may be missing


def test_features_that_are_all_null_are_refused():
    with pytest.raises(DataError, match="none of the 3 features has a value in any of 1,200 rows"):
        labels_of(rows().assign(silent=np.nan, noise=np.nan, tier=None), CONTRACT, use="training")


@pytest.mark.parametrize("label", [np.nan, 2, -1])
def test_a_label_that_is_neither_zero_nor_one_is_refused(label):
    frame = rows().astype({"left": float})
    frame.loc[:1, "left"] = label
    with pytest.raises(DataError, match="'left' is neither 0 nor 1 in 2 of 1,200"):
        labels_of(frame, CONTRACT, use="training")


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_is_refused_whichever_it_is(label):
    with pytest.raises(DataError, match=f"all 1,200 have 'left' {label}, needed are both classes"):
        labels_of(rows().assign(left=label), CONTRACT, use="training")


@pytest.mark.parametrize(("weight", "line"), [
    (np.ones(3), "3 weights, 0 of them"), (np.r_[np.ones(798), np.nan, np.inf], "2 of them negative or no number"),
    (np.r_[np.ones(799), -1], "1 of them negative"), (np.zeros(800), "sum 0"), (np.ones((800, 2)), "1,600 weights"),
], ids=["too few", "no number", "negative", "all zero", "two a row"])
def test_weights_that_cannot_count_are_refused(weight, line):
    with pytest.raises(DataError, match=f"cannot weigh 800 training rows: .*{line}"):
        check_weight(weight, 800)


def test_without_weights_every_row_counts_once_and_zeros_among_others_are_allowed():
    assert check_weight(None, 3) is None
    assert np.array_equal(check_weight(np.array([0, 1, 2]), 3), [0.0, 1.0, 2.0])
