"""The bake's judge, on losses made by hand and on simulated customers."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from models.decision import Decision
from models.gates.bake import (
    STAKES,
    PairedLoss,
    Standing,
    brier_difference,
    confidence_bounds,
    judge_bake,
    log_wealth,
    reach_of,
)
from models.limits import Bake

LIMITS = Bake()
SINCE = datetime(2025, 3, 1, tzinfo=UTC)
STANDING = Standing(since=SINCE, now=SINCE + timedelta(days=36), maturity=timedelta(days=35))
NOBODY = PairedLoss(np.empty(0), np.empty(0))


def customers(number: int, champion_noise: float, previous_noise: float, *, seed: int) -> PairedLoss:
    """Customers whose true chance of leaving both releases know but for noise on the log-odds."""
    random = np.random.default_rng(seed)
    odds = random.normal(-2.2, 1.3, number)
    label = (random.random(number) < 1 / (1 + np.exp(-odds))).astype(float)
    champion, previous = (1 / (1 + np.exp(-odds - random.normal(0, noise, number)))
                          for noise in (champion_noise, previous_noise))
    reach = reach_of(champion, previous, np.ones(number))
    return PairedLoss(brier_difference(champion, previous, label), np.full(number, reach))


def same(number: int, difference: float, reach: float = 0.5) -> PairedLoss:
    return PairedLoss(np.full(number, difference), np.full(number, reach))


def decide(loss: PairedLoss, standing: Standing = STANDING) -> Decision:
    return judge_bake(loss, LIMITS, standing)


def test_the_paired_loss_and_its_reach_are_those_of_brier():
    champion, previous, label = np.array([0.3, 0.8]), np.array([0.1, 0.9]), np.array([0.0, 1.0])
    assert brier_difference(champion, previous, label) == pytest.approx([0.09 - 0.01, 0.04 - 0.01])
    # Had the first one left: .49 - .81 = -.32; had the second one stayed: .64 - .81 = -.17.
    assert reach_of(champion, previous, np.ones(2)) == pytest.approx(0.32)
    assert reach_of(champion, previous, np.array([0.5, 2.0])) == pytest.approx(0.34)


def test_the_bets_on_two_customers_are_worth_what_a_hand_computes():
    loss = PairedLoss(np.array([0.5, -0.5]), np.array([0.5, 1.0]))
    gains = (0.5 - 0.1) / 1.0, (-0.5 - 0.1) / 2.0
    worth = sum((1 + stake * gains[0]) * (1 + stake * gains[1]) for stake in STAKES) / len(STAKES)
    assert log_wealth(loss, 0.1, 1) == pytest.approx(math.log(worth))
    assert log_wealth(loss, 0.1, -1) == pytest.approx(math.log(sum(
        (1 - stake * gains[0]) * (1 - stake * gains[1]) for stake in STAKES) / len(STAKES)))


def test_the_order_of_the_customers_changes_nothing():
    loss = customers(500, 0.8, 0.3, seed=1)
    turned = PairedLoss(loss.difference[::-1], loss.reach[::-1])
    assert log_wealth(turned, 0.005, 1) == pytest.approx(log_wealth(loss, 0.005, 1))


def test_the_ends_of_the_confidence_sequence_are_where_the_bets_reach_their_limit():
    loss = customers(2000, 0.6, 0.3, seed=2)
    low, high = confidence_bounds(loss, alpha=0.05)
    assert low < loss.difference.mean() < high
    assert log_wealth(loss, low, 1) == pytest.approx(math.log(20), abs=1e-3)
    assert log_wealth(loss, high, -1) == pytest.approx(math.log(20), abs=1e-3)


def test_without_customers_any_mean_is_possible():
    assert confidence_bounds(NOBODY, alpha=0.05) == (-1, 1)


def test_a_champion_that_predicts_worse_is_recommended_to_be_rolled_back_before_the_horizon_is_over():
    early = replace(STANDING, now=SINCE + timedelta(days=20))
    decision = decide(customers(3000, 1.4, 0.3, seed=3), early)
    assert decision.verdict == "roll back"
    assert decision.evidence["excess_low"] > LIMITS.max_brier_excess
    assert "the champion predicts worse" in decision.reason


@pytest.mark.parametrize("noise", [0.3, 0.0], ids=["equal", "better"])
def test_a_champion_that_predicts_as_well_is_baked_after_a_horizon_and_not_before(noise):
    loss = customers(5000, noise, 0.3, seed=4)
    assert decide(loss).verdict == "baked"
    assert decide(loss, replace(STANDING, now=SINCE + timedelta(days=34))).verdict == "hold"


def test_the_same_release_twice_is_baked_with_few_customers():
    probability = np.linspace(0.1, 0.9, 600)
    loss = PairedLoss(np.zeros(600), np.full(600, reach_of(probability, probability, np.ones(600))))
    assert decide(loss).verdict == "baked"


def test_a_harmless_difference_is_baked_however_many_customers_show_it():
    """Half the least effect, without any noise: surely worse, and not worth a rollback."""
    decision = decide(same(20_000, LIMITS.max_brier_excess / 2))
    assert decision.verdict == "baked"
    assert decision.evidence["excess_low"] > 0


def test_no_label_and_few_labels_hold_and_when_waiting_is_over_a_person_is_asked():
    late = replace(STANDING, now=STANDING.limit)
    for loss in (NOBODY, same(199, 0.0)):
        waits, asks = decide(loss), decide(loss, late)
        assert (waits.verdict, waits.evidence["overdue"]) == ("hold", 0)
        assert f"{loss.customers} customers with mature labels, 200 needed" in waits.reason
        assert (asks.verdict, asks.evidence["overdue"]) == ("hold", 1)
        assert "a person decides" in asks.reason


def test_evidence_that_settles_nothing_holds():
    decision = decide(customers(300, 0.5, 0.3, seed=5))
    assert decision.verdict == "hold"
    assert "neither harm nor its absence is shown" in decision.reason


@pytest.mark.parametrize(("change", "reason"), [
    ({"fault": "no log"}, "no log"),
    ({"scored": 0.9}, "could score 90.0% of the customers, 95% needed"),
    ({"unrepresented": 0.05}, "for 5.0% of the customers, who were contacted"),
], ids=["fault", "features", "contacts"])
def test_what_was_not_seen_whole_is_not_baked(change, reason):
    assert decide(same(1000, -0.02)).verdict == "baked"
    decision = decide(same(1000, -0.02), replace(STANDING, **change))
    assert decision.verdict == "hold"
    assert reason in decision.reason


def test_a_recommendation_stands_until_later_labels_show_that_it_was_wrong():
    recommended = replace(STANDING, recommended=True)
    assert decide(NOBODY, recommended).verdict == "roll back"
    assert decide(same(100, 0.0), recommended).verdict == "roll back"
    assert decide(same(5000, 0.0), recommended).verdict == "baked"


def test_a_cut_in_which_both_say_nearly_the_same_does_not_drown_one_in_which_they_do_not():
    """With stakes in units of .001 the first five hundred would outweigh whatever a thousand others show."""
    apart = customers(1000, 2.0, 0.3, seed=6)
    alike = PairedLoss(np.zeros(500), np.full(500, reach_of(np.full(1, 0.5), np.full(1, 0.501), np.ones(1))))
    both = PairedLoss(np.r_[alike.difference, apart.difference], np.r_[alike.reach, apart.reach])
    assert decide(both).verdict == "roll back"


@pytest.mark.parametrize("excess", [0.0, LIMITS.max_brier_excess], ids=["equal", "at-the-limit"])
def test_looking_after_each_cut_rarely_accuses_a_harmless_champion(excess):
    """Ville: at most alpha ever. A difference of fixed size and random sign, its mean at most the limit."""
    random, accused = np.random.default_rng(7), 0
    up = 0.5 + excess / (2 * 0.2)  # +-0.2 with this chance of + has the mean `excess`
    for _ in range(200):
        difference = np.where(random.random(2000) < up, 0.2, -0.2)
        looks = (PairedLoss(difference[:n], np.full(n, 0.2)) for n in range(100, 2001, 100))
        accused += any(log_wealth(loss, LIMITS.max_brier_excess, 1) >= math.log(20) for loss in looks)
    assert accused <= 10
