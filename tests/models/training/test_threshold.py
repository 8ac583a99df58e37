from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.charter import Value
from models.training.threshold import best_threshold, break_even


def value(budget: int, cost: float = 1, worth: float = 10) -> Value:
    return Value(customers=10, monthly_churners=2, share_found=0.5, share_who_stay=0.5, worth_of_saved=worth,
                 cost_of_contact=cost, contact_budget=budget)


def test_a_tight_budget_sets_the_threshold_at_the_last_customer_it_has_room_for():
    probability = np.array([0.3, 0.9, 0.5, 0.7])
    assert best_threshold(probability, value(2)) == 0.7


def test_with_room_for_all_only_contacts_that_bring_more_than_they_cost_are_made():
    probability = np.array([0.1, 0.9, 0.5, 0.7])
    assert break_even(value(9)) == pytest.approx(0.2)
    assert best_threshold(probability, value(9)) == pytest.approx(0.2)
    assert best_threshold(probability, value(9, cost=0)) == 0


def test_a_budget_that_would_reach_below_break_even_is_not_spent():
    assert best_threshold(np.array([0.9, 0.5, 0.1, 0.05]), value(3)) == pytest.approx(0.2)


def test_a_contact_that_never_pays_is_never_made():
    probability = np.array([0.3, 0.9])
    assert (probability >= best_threshold(probability, value(9, cost=6))).sum() == 0


def test_equal_scores_that_the_budget_cuts_through_are_left_out():
    assert best_threshold(np.array([0.9, 0.5, 0.5, 0.5, 0.3]), value(2)) == 0.9
    tied = np.full(5, 0.5)
    assert (tied >= best_threshold(tied, value(2))).sum() == 0


def test_a_customer_who_stands_for_three_takes_three_of_the_budget():
    probability = np.array([0.9, 0.7, 0.5, 0.3])
    assert best_threshold(probability, value(3), np.array([1.0, 2.0, 1.0, 1.0])) == 0.7
    assert best_threshold(probability, value(3), np.array([3.0, 2.0, 1.0, 1.0])) == 0.9


def expected_profit(probability: np.ndarray, threshold: float, value: Value) -> float:
    """Money expected of contacting everyone from the threshold on, by the probabilities themselves."""
    taken = probability[probability >= threshold]
    return float((taken * value.share_who_stay * value.worth_of_saved - value.cost_of_contact).sum())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 20), st.floats(0, 4))
def test_no_threshold_within_the_budget_promises_more(scores, budget, cost):
    probability, worth = np.array(scores), value(budget, cost)
    chosen = best_threshold(probability, worth)
    assert 0 <= chosen <= 1
    best = max(
        (expected_profit(probability, other, worth) for other in {*scores, 1.1}
         if (probability >= other).sum() <= budget), default=0.0,
    )
    if (probability >= chosen).sum() > budget:  # only where all hold the score 1, above which no threshold is
        assert (probability == 1).sum() > budget
    else:
        assert expected_profit(probability, chosen, worth) == pytest.approx(best, abs=1e-9)
