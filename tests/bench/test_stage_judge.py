"""The simulated rollouts in short: what the bench prints of hundreds holds for these few."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.canary_customers import A_MINUTE, MINUTES, Fault, Traffic
from tests.bench.rival_judges import fixed, kayenta, peeking
from tests.bench.stage_judge import FAULTS, HARMLESS, LIMITS, QUARTER, simulate


def test_no_harmless_canary_of_ten_is_rolled_back_and_most_get_through() -> None:
    found = [simulate(seed, fault, LIMITS.stages) for seed in range(5) for fault in (Fault(), HARMLESS)]
    assert [one.rolled_back for one in found] == [None] * 10
    assert sum(one.through is not None for one in found) >= 5


@pytest.mark.parametrize(("name", "within", "says"), [
    ("+2 points of errors", 60, "customers failed"), ("+50 % latency", 15, "waited longer"),
    ("skew of 0.3 logit", 3, "away from its own batch score"),
])
def test_each_fault_is_found_by_its_own_monitor(name: str, within: int, says: str) -> None:
    outcome = simulate(3, FAULTS[name], QUARTER)
    assert outcome.rolled_back is not None
    assert outcome.rolled_back <= within
    assert outcome.decision is not None
    assert says in outcome.decision.reason


def test_customers_return_with_their_own_latency_and_score_and_are_dealt_once() -> None:
    traffic = Traffic.make(1)
    assert len(traffic.customer) == A_MINUTE * MINUTES
    counts = np.bincount(traffic.customer)
    assert counts.max() > 20 * np.median(counts[counts > 0])
    busiest = traffic.customer == counts.argmax()
    for one in (traffic.dealt, traffic.logit):
        assert len(np.unique(one[busiest])) == 1
    assert np.log(traffic.us[busiest]).std() < np.log(traffic.us).std()


def test_the_others_judge_the_same_traffic() -> None:
    broken = Fault(errors=0.5, latency=3)
    assert fixed(Traffic.make(1), broken, 0.25) == 5
    assert peeking(Traffic.make(1), broken, 0.25) == 4
    assert kayenta(Traffic.make(1), broken, 0.25) == 10
