"""The e-detector of concept drift: its bets by hand, its promise by simulation."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from models.gates.concept import (
    LEAST_REACH,
    STAKES,
    Bet,
    Reference,
    brier_excess,
    likely_change,
    log_bets,
    log_statistic,
    log_sums,
    months_since,
    open_rows,
    refer,
)
from models.limits import Concept
from tests.bench.stage_drift_concept import CHANGED_AT, by_mean, delay, first_alarm, make_stream

START = datetime(2025, 1, 1, tzinfo=UTC)
HORIZON = timedelta(days=30)


def bet(month: int, log_e: float, months: float = 1.0) -> Bet:
    return Bet(datetime(2025, month, 1, tzinfo=UTC), months, (log_e,) * len(STAKES))


def test_the_excess_is_the_brier_loss_less_what_the_probability_promises():
    probability, label = np.array([0.2, 0.2, 0.9]), np.array([0.0, 1.0, 0.0])
    loss, promised = (label - probability) ** 2, probability * (1 - probability)
    assert brier_excess(probability, label) == pytest.approx(loss - promised)
    every = np.linspace(0, 1, 101)
    for one in (0.0, 1.0):
        assert brier_excess(every, np.full(101, one)).min() >= -1 / 8 - 1e-12
    # Whoever is asked: where the probability is right, the excess is zero on average.
    assert every * brier_excess(every, np.ones(101)) + (1 - every) * brier_excess(every, np.zeros(101)) == (
        pytest.approx(np.zeros(101)))


def test_two_customers_are_worth_what_a_hand_computes():
    probability, label, weight = np.array([0.2, 0.1]), np.array([1.0, 0.0]), np.array([1.0, 2.0])
    # Excesses: .8 * .6 = .48 and -.1 * .8 = -.08; the most either could lose: .12 + .01, and 2 (.08 + .01) = .18.
    expected = [math.log((1 + stake * 0.47 / 0.18) * (1 - stake * 2 * 0.09 / 0.18)) for stake in STAKES]
    assert log_bets(probability, label, weight, 0.01) == pytest.approx(expected)
    assert log_bets(np.empty(0), np.empty(0), np.empty(0), 0.01) == (0.0,) * len(STAKES)


def test_no_customer_ruins_the_bets_whatever_it_counts_or_does():
    probability = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    for heavy in range(5):
        weight = np.where(np.arange(5) == heavy, 50.0, 0.2)
        for label in (np.zeros(5), np.ones(5), np.array([0, 1, 0, 1, 0.0])):
            worth = log_bets(probability, label, weight, 0.005)
            assert np.isfinite(worth).all()
            assert min(worth) >= 5 * math.log(1 - STAKES[0])


def test_sure_scores_raise_no_stake_without_end():
    sure = np.full(3, 1e-6)
    assert log_bets(sure, np.zeros(3), np.ones(3), 0.005)[0] == pytest.approx(
        3 * math.log(1 - STAKES[0] * (0.005 + 1e-6) / LEAST_REACH), rel=1e-3)


def test_a_bet_on_a_fair_cohort_is_worth_one_at_most_on_average_with_weights_of_fifty():
    """At the limit itself, each customer with a mean of its own: every label drawn by every customer's own chance."""
    random = np.random.default_rng(3)
    probability = random.uniform(0.02, 0.6, 12)
    weight = np.where(np.arange(12) < 2, 50.0, 1.0)
    true = np.clip(probability + random.normal(0, 0.1, 12), 0.001, 0.999)
    excess = (true - probability) * (1 - 2 * probability)
    limit = float(np.average(excess, weights=weight))  # the weighted mean is exactly at it
    labels = (random.random((6_000, 12)) < true).astype(float)
    worth = np.exp([log_bets(probability, label, weight, limit) for label in labels])
    assert (worth.mean(axis=0) - 3 * worth.std(axis=0) / math.sqrt(6_000) <= 1).all()
    # Above the limit a bet pays: the same with a limit lower by a hundredth does.
    more = np.exp([log_bets(probability, label, weight, limit - 0.05) for label in labels[:2000]])
    assert more.mean() > 1.01


def test_the_sum_is_that_of_shiryaev_and_roberts_with_the_months_as_stakes():
    bets = [bet(1, math.log(2), months=0.5), bet(2, math.log(3), months=2.0)]
    assert np.exp(log_sums(bets)) == pytest.approx((0.5 * 2 + 2) * 3)
    assert log_statistic(bets) == pytest.approx(math.log(9))
    assert log_statistic([]) == -math.inf


def test_the_likely_change_is_where_the_bets_begin_to_win():
    bets = [bet(1, -1.0), bet(2, 0.5), bet(3, -2.0), bet(4, 1.0), bet(5, 3.0)]
    assert likely_change(bets) == datetime(2025, 4, 1, tzinfo=UTC)
    assert likely_change(bets[:1]) == START


def test_the_sum_does_not_overflow_after_months_of_certainty():
    assert log_statistic([bet(1, 500.0), bet(2, 600.0)]) == pytest.approx(1100, abs=0.1)


def test_a_cohort_stands_for_the_months_since_the_one_before():
    assert months_since(START, None, HORIZON) == pytest.approx(30 / 30.4375)
    assert months_since(datetime(2025, 3, 1, tzinfo=UTC), START, HORIZON) == pytest.approx(59 / 30.4375)


def test_each_customer_counts_once_a_window():
    names = ["a", "b", "c", "d"]
    assert open_rows(START, names, {}, HORIZON).all()
    soon, later = START + timedelta(days=29), START + HORIZON
    assert open_rows(soon, names, {"a": START}, HORIZON).tolist() == [False, True, True, True]
    assert open_rows(later, names, {"a": START}, HORIZON).all()
    assert open_rows(START, [], {}, HORIZON).shape == (0,)


def test_a_cohort_most_of_whose_customers_were_bet_on_is_passed_over():
    """The newcomers among them are not what the cohort is."""
    bets = dict.fromkeys(["a", "b", "c"], START)
    assert not open_rows(START + timedelta(days=1), ["a", "b", "c", "new"], bets, HORIZON).any()
    assert open_rows(START + timedelta(days=1), ["a", "b", "new", "newer"], bets, HORIZON).sum() == 2


def test_the_limit_leaves_room_for_what_few_test_rows_do_not_know():
    policy = Concept(brier_tolerance=0.005)
    assert Reference(0.001, 0.002, 0.1).limit(policy) == pytest.approx(0.006)
    assert Reference(0.001, 0.010, 0.1).limit(policy) == pytest.approx(0.021)


def test_the_reference_is_the_weighted_mean_and_its_standard_error():
    probability, label, weight = np.array([0.2, 0.4]), np.array([1.0, 0.0]), np.array([1.0, 3.0])
    first, second = 0.8 * 0.6, -0.4 * 0.2
    mean = (first + 3 * second) / 4
    seen = refer(probability, label, weight)
    assert seen.excess == pytest.approx(mean)
    assert seen.error == pytest.approx(math.hypot(first - mean, 3 * (second - mean)) / 4)
    assert seen.brier == pytest.approx((0.64 + 3 * 0.16) / 4)
    assert refer(probability, label).excess == pytest.approx((first + second) / 2)


# The promise, on customers who return: 3,000 of them, each scored once a window, with tastes no feature shows.

def test_quiet_streams_of_returning_customers_raise_no_alarm():
    assert [first_alarm(make_stream(seed, rows=30_000)) for seed in range(6)] == [None] * 6


@pytest.mark.parametrize("change", ["concept", "prior"])
def test_a_change_is_seen_within_a_thousand_labelled_rows_and_not_before(change):
    delays = [delay(first_alarm(make_stream(seed, change, rows=36_000))) for seed in (0, 1, 2)]
    assert min(delays) > 0
    assert statistics.median(delays) <= 1000, delays


def test_other_customers_alone_are_no_change_of_concept():
    assert first_alarm(make_stream(1, "covariate")) is None


def test_months_that_swing_beyond_the_tolerance_look_like_changes_and_bets_on_the_mean_do_not():
    """What the second condition of the module is for: customers are bets of their own within the tolerance only."""
    swinging = [make_stream(seed, common_month=0.4) for seed in range(3)]
    assert all(first_alarm(one) is not None for one in swinging)
    assert [first_alarm(one, by_mean) for one in swinging] == [None] * 3
    calm = [make_stream(seed, common_month=0.05) for seed in range(3)]
    assert [first_alarm(one) for one in calm] == [None] * 3


def test_a_bet_on_the_mean_of_each_cohort_needs_many_windows():
    alarm = first_alarm(make_stream(0, "concept"), by_mean)
    assert alarm is not None
    assert alarm > CHANGED_AT + 12
