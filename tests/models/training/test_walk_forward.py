from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from models.errors import DataError
from models.training.walk_forward import make_folds
from tests.models.training.fit_data import CONTRACT, rows

MONTHS = [datetime(2024, month, 1, tzinfo=UTC) for month in range(1, 7)]


def folds_of(frame, days=30, **settings):
    return make_folds(frame, CONTRACT, horizon=timedelta(days=days), random_state=3, **settings)


@pytest.mark.parametrize("days", [28, 30, 31, 90])
def test_no_label_window_of_the_rows_that_fit_reaches_past_the_validated_cut(days):
    frame = rows(cuts=MONTHS)
    folds = folds_of(frame, days)
    assert folds.forward
    for fold in folds.parts:
        validated = frame["event_timestamp"][fold.held_out].unique()
        assert len(validated) == 1
        assert (frame["event_timestamp"][fold.fit] + timedelta(days=days) <= validated[0]).all()
        assert len(fold.held_out) == (frame["event_timestamp"] == validated[0]).sum()


def test_the_latest_cuts_are_validated_each_by_all_cuts_that_are_early_enough():
    frame = rows(cuts=MONTHS)
    folds = folds_of(frame, 30)
    assert [fold.name for fold in folds.parts] == ["2024-04-01", "2024-05-01", "2024-06-01"]
    # 2024-02-01 + 30 days is past 2024-03-01, so March would be validated by January alone; April by three cuts.
    assert [frame["event_timestamp"][fold.fit].nunique() for fold in folds.parts] == [3, 4, 5]
    assert "2024-04-01, 2024-05-01, 2024-06-01" in folds.how


def test_one_training_cut_is_validated_by_groups_of_customers_and_says_so():
    folds = folds_of(rows(cuts=MONTHS[:1]))
    assert not folds.forward
    assert folds.how.startswith("3 groups of customers: the 1 training cut leaves none to validate 30 days")
    assert sorted(folds.held_out) == list(range(400))


def test_in_groups_all_rows_of_a_customer_are_on_one_side():
    frame = rows(cuts=MONTHS[:2])
    for fold in folds_of(frame, days=90).parts:
        assert not set(frame["id"][fold.fit]) & set(frame["id"][fold.held_out])


def test_a_cut_of_one_class_neither_validates_nor_fits_alone():
    frame = rows(cuts=MONTHS)
    frame.loc[frame["event_timestamp"] == MONTHS[4], "left"] = 0
    assert [fold.name for fold in folds_of(frame).parts] == ["2024-03-01", "2024-04-01", "2024-06-01"]
    frame.loc[frame["event_timestamp"] <= MONTHS[4], "left"] = 0
    assert not folds_of(frame).forward


def test_rows_that_no_way_of_splitting_can_validate_are_refused_with_their_number():
    frame = rows(cuts=MONTHS[:1]).assign(left=0)
    frame.loc[0, "left"] = 1
    with pytest.raises(DataError, match="400 training rows of 400 customers, 1 of the rows churned"):
        folds_of(frame)


def test_the_number_of_a_fold_follows_its_rows():
    folds = folds_of(rows(cuts=MONTHS))
    assert np.array_equal(folds.number, np.repeat([0, 1, 2], 400))
