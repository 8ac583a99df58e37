from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models.charter import Problem
from models.cuts import first_sufficient, next_mature, plan_cuts, regular_cuts
from models.errors import DataError

MONTHLY = Problem(horizon_days=30, label_delay_days=5)
QUARTERLY = Problem(horizon_days=90, snapshot_every_months=3)
START = datetime(2024, 1, 1, tzinfo=UTC)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_every_training_label_window_ends_before_the_first_test_cut():
    plan = plan_cuts(MONTHLY, train_cuts=20, test_cuts=2, first_event=START, as_of=day("2025-06-01"))
    assert all(cut + MONTHLY.horizon <= plan.test[0] for cut in plan.train)
    assert plan.test == (day("2025-03-01"), day("2025-04-01"))


def test_february_does_not_train_when_march_tests_for_its_window_reaches_into_march():
    plan = plan_cuts(MONTHLY, train_cuts=20, test_cuts=1, first_event=START, as_of=day("2025-04-10"))
    assert plan.test == (day("2025-03-01"),)
    assert plan.train[-1] == day("2025-01-01")


def test_no_cut_is_used_before_its_label_is_mature():
    latest = plan_cuts(MONTHLY, train_cuts=1, test_cuts=1, first_event=START, as_of=day("2025-06-04")).test[-1]
    assert latest == day("2025-04-01")  # 1 May + 35 days is 5 June
    assert plan_cuts(MONTHLY, train_cuts=1, test_cuts=1, first_event=START, as_of=day("2025-06-05")).test[-1] == day(
        "2025-05-01")


def test_quarters_are_counted_from_january_as_the_cdnow_example_needs():
    cuts = regular_cuts(QUARTERLY, first_event=day("1997-01-01"), until=day("1998-06-30"))
    assert [f"{cut:%Y-%m}" for cut in cuts] == ["1997-04", "1997-07", "1997-10", "1998-01", "1998-04"]
    plan = plan_cuts(QUARTERLY, train_cuts=1, test_cuts=1, first_event=day("1997-01-01"), as_of=day("1998-06-30"))
    assert (plan.train, plan.test) == ((day("1998-01-01"),), (day("1998-04-01"),))


@pytest.mark.parametrize("problem", [MONTHLY, QUARTERLY, Problem(horizon_days=45, snapshot_every_months=2)])
def test_too_few_cuts_names_the_first_as_of_that_would_do_and_it_does(problem):
    first = first_sufficient(problem, test_cuts=1, first_event=START)
    with pytest.raises(DataError, match=f"{first:%Y-%m-%d}"):
        plan_cuts(problem, train_cuts=6, test_cuts=1, first_event=START, as_of=first - timedelta(days=1))
    assert plan_cuts(problem, train_cuts=6, test_cuts=1, first_event=START, as_of=first).train


@pytest.mark.parametrize("problem", [MONTHLY, QUARTERLY, Problem(horizon_days=200, snapshot_every_months=24)])
@pytest.mark.parametrize("as_of", ["2027-01-01", "2027-01-05", "2027-12-30"])
def test_the_next_mature_moment_is_the_first_at_which_another_cut_is_tested_on(problem, as_of):
    def test_cut(moment: datetime) -> datetime:
        return plan_cuts(problem, train_cuts=1, first_event=START, as_of=moment).test[0]

    later = next_mature(problem, first_event=START, as_of=day(as_of))
    assert test_cut(later - timedelta(days=1)) == test_cut(day(as_of))
    assert test_cut(later) > test_cut(day(as_of))


def test_the_december_cut_is_mature_five_days_into_january():
    assert next_mature(MONTHLY, first_event=START, as_of=day("2025-01-01")) == day("2025-01-05")


def test_a_new_window_leaves_out_what_was_before_the_change():
    plan = plan_cuts(MONTHLY, train_cuts=6, test_cuts=1, first_event=START, as_of=day("2025-11-01"),
                     not_before=day("2025-08-01"))
    assert plan.train == (day("2025-08-01"),)


def test_cuts_are_counted_from_january_of_each_year():
    cuts = regular_cuts(Problem(horizon_days=30, snapshot_every_months=5), first_event=day("2024-01-01"),
                        until=day("2025-12-31"))
    assert [f"{cut:%Y-%m}" for cut in cuts] == ["2024-06", "2024-11", "2025-01", "2025-06", "2025-11"]


@pytest.mark.parametrize("months", [1, 5, 12])
@pytest.mark.parametrize("horizon", [30, 365, 730, 1100])
def test_the_first_as_of_that_would_do_is_known_for_long_horizons_as_well(horizon, months):
    problem = Problem(horizon_days=horizon, snapshot_every_months=months)
    first = first_sufficient(problem, first_event=day("2020-12-15"))
    assert plan_cuts(problem, train_cuts=1, first_event=day("2020-12-15"), as_of=first).train
    with pytest.raises(DataError):
        plan_cuts(problem, train_cuts=1, first_event=day("2020-12-15"), as_of=first - timedelta(days=1))
