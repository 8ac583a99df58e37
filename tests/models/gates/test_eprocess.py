"""Bets from counts, checked by hand, by enumeration, and on coins thrown many times."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from models.gates.eprocess import (
    FEW,
    RATIOS,
    Coins,
    excess_bound,
    log_mean_exp,
    log_ratio_bet,
    log_seldom_bet,
    log_share_bet,
    log_slow_bet,
    share_bound,
    worth,
)


def test_no_coin_is_no_evidence() -> None:
    assert log_ratio_bet([]) == 0
    assert log_ratio_bet([Coins(0.05)]) == 0
    assert log_slow_bet([], [], 0.1) == 0
    assert log_share_bet(0, 0, 0.05) == 0


def test_one_coin_is_worth_what_the_formula_says() -> None:
    fair = [(0.25 * ratio / (0.25 * ratio + 0.75)) / 0.25 for ratio in RATIOS]
    assert math.exp(log_ratio_bet([Coins(0.25, canary=1)])) == pytest.approx(sum(fair) / len(fair))


@pytest.mark.parametrize("harmless", [1.0, 1.2, 2.0])
def test_the_worth_of_every_bet_is_one_on_average_at_the_edge_of_harmless_and_less_below(harmless: float) -> None:
    share, throws = 0.25, 6

    def expected(ratio: float) -> float:
        on_canary = share * ratio / (share * ratio + 1 - share)
        return sum(
            math.prod(on_canary if hit else 1 - on_canary for hit in hits)
            * math.exp(log_ratio_bet([Coins(share, sum(hits), throws - sum(hits))], harmless))
            for hits in itertools.product((0, 1), repeat=throws))

    assert expected(harmless) == pytest.approx(1)
    assert expected(harmless * 0.8) < 1
    assert expected(harmless * 3) > 1


def test_slow_and_fast_customers_bet_on_average_one_where_the_canary_is_as_fast() -> None:
    share, slow_share = 0.3, 0.1
    worths = 0.0
    for slow, hits in itertools.product(itertools.product((0, 1), repeat=3), itertools.product((0, 1), repeat=3)):
        chance = math.prod((slow_share if one else 1 - slow_share) * (share if hit else 1 - share)
                           for one, hit in zip(slow, hits, strict=True))
        coins = [Coins(share, sum(h for s, h in zip(slow, hits, strict=True) if s == kind),
                       sum(1 - h for s, h in zip(slow, hits, strict=True) if s == kind)) for kind in (1, 0)]
        worths += chance * math.exp(log_slow_bet([coins[0]], [coins[1]], slow_share))
    assert worths == pytest.approx(1)


def test_seldom_is_the_mirror_of_often() -> None:
    assert log_seldom_bet([Coins(0.2, 3, 40)], 1.1) == pytest.approx(log_ratio_bet([Coins(0.8, 40, 3)], 1.1))
    assert log_seldom_bet([Coins(0.2, 0, 60)]) > 3


def test_coins_of_several_shares_are_bet_on_together() -> None:
    both = [Coins(0.05, 4, 10), Coins(0.5, 20, 6)]
    singly = sum(log_ratio_bet([one]) for one in both)
    assert log_ratio_bet(both) > singly  # one canary, one ratio: what the first stage taught helps in the second


def test_hits_beyond_the_tolerated_share_gain_and_tolerated_ones_lose() -> None:
    assert worth(log_share_bet(5, 5, 0.05)) > 1e4
    assert log_share_bet(1, 100, 0.05) < 0
    assert log_share_bet(0, 0, 0.05) == 0


def test_a_worth_is_shown_within_what_a_float_holds() -> None:
    assert worth(10_000) > 1e299
    assert 0 < worth(-10_000) < 1e-299
    assert log_mean_exp([1000.0, 1000.0]) == pytest.approx(1000)


def test_the_bound_covers_the_true_share_at_every_look() -> None:
    rng = np.random.default_rng(7)
    looks = np.arange(20, 1001, 49)
    missed = 0
    for _ in range(200):
        failed = np.cumsum(rng.random(1000) < 0.03)
        missed += any(share_bound(int(failed[n - 1]), int(n), alpha=0.05, upper=True) < 0.03 for n in looks)
    assert missed <= 10  # 5 % of 200


@pytest.mark.parametrize(("hits", "total"), [(0, 100), (3, 100), (100, 100)])
def test_the_bounds_lie_around_the_share(hits: int, total: int) -> None:
    low, high = (share_bound(hits, total, alpha=0.05, upper=upper, prior=FEW) for upper in (False, True))
    assert 0 <= low <= hits / total <= high <= 1
    assert high - low < 0.25 or hits == total


def test_the_excess_bound_of_equal_arms_shrinks_with_customers() -> None:
    bounds = [excess_bound((n // 50, n), (n // 50, n), alpha=0.05) for n in (100, 1_000, 10_000)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < 0.02
