"""Two-sample tests: error rates that hold, and sizes that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.gates.two_sample import (
    benjamini_hochberg_limit,
    bin_numbers,
    chi2_p_value,
    count_levels,
    ks_p_value,
    missing_p_value,
    psi,
    unseen_p_value,
)


def test_psi_is_the_sum_over_bins_of_difference_times_log_ratio() -> None:
    value = psi(np.array([50.0, 50.0]), np.array([60.0, 40.0]))
    assert value == pytest.approx(0.1 * np.log(1.2) - 0.1 * np.log(0.8))


def test_psi_of_an_empty_bin_is_finite() -> None:
    assert psi(np.array([100.0, 0.0]), np.array([90.0, 10.0])) == pytest.approx(
        -0.1 * np.log(0.9) + (0.1 - 1e-4) * np.log(0.1 / 1e-4)
    )


@pytest.mark.parametrize("levels", [3, 5, 20])
def test_chi_square_rejects_equal_samples_as_often_as_it_says(levels: int) -> None:
    random = np.random.default_rng(levels)
    draws = random.multinomial(500, np.full(levels, 1 / levels), size=(600, 2)).astype(float)
    assert np.mean([chi2_p_value(*pair) < 0.05 for pair in draws]) == pytest.approx(0.05, abs=0.027)  # 3 sigma


def test_kolmogorov_smirnov_rejects_equal_samples_no_more_often_than_it_says() -> None:
    random = np.random.default_rng(9)
    draws = random.normal(size=(600, 2, 300))
    assert 0.02 < np.mean([ks_p_value(*pair) < 0.05 for pair in draws]) < 0.077


@pytest.mark.parametrize("share", [0.003, 0.1])
def test_missingness_rejects_equal_samples_no_more_often_than_it_says(share: float) -> None:
    random = np.random.default_rng(10)
    draws = random.binomial(500, share, size=(600, 2))
    assert np.mean([missing_p_value(a, 500, b, 500) < 0.05 for a, b in draws]) < 0.077


def test_nothing_missing_on_either_side_is_no_difference() -> None:
    assert missing_p_value(0, 500, 0, 300) == missing_p_value(500, 500, 300, 300) == 1.0


def test_ten_bins_hold_a_tenth_of_the_reference_each() -> None:
    reference, current = bin_numbers(np.arange(1000.0), np.full(10, 1e9))
    assert reference.tolist() == [100.0] * 10
    assert current.tolist() == [0.0] * 9 + [10.0]


def test_a_heavy_value_has_a_bin_of_its_own() -> None:
    reference = np.concatenate([np.zeros(600), np.arange(1, 401.0)])
    same, moved = bin_numbers(reference, reference - 0.5 * (reference == 0))
    assert (same[0], moved[0]) == (0, 600)  # nothing lay below zero, now all of the zeros do


def test_rare_levels_are_pooled_and_frequent_new_ones_stand_apart() -> None:
    reference = np.array(["a"] * 90 + ["b"] * 6 + ["c"] * 4, dtype=object)
    current = np.array(["a"] * 70 + ["b"] * 6 + ["d"] * 20 + ["e"] * 4, dtype=object)
    was, now = count_levels(reference, current)
    assert was.tolist() == [90.0, 6.0, 4.0, 0.0]  # a, b, rare (c, e), UNSEEN (d)
    assert now.tolist() == [70.0, 6.0, 4.0, 20.0]


def test_benjamini_hochberg_rejects_up_to_the_last_p_value_under_its_line() -> None:
    assert benjamini_hochberg_limit([0.9, 0.01, 0.035, 0.5], 0.05) == 0.01  # lines: .0125 .025 .0375 .05
    assert benjamini_hochberg_limit([0.012, 0.026, 0.037, 0.9], 0.05) == 0.037
    assert benjamini_hochberg_limit([0.5, 0.9], 0.05) == -1.0
    assert benjamini_hochberg_limit([], 0.05) == -1.0


COUNTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12).filter(
    lambda pairs: all(sum(side) > 0 for side in zip(*pairs, strict=True)) and all(sum(pair) for pair in pairs))
NUMBERS = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-1e9, 1e9), st.just(float("inf"))), min_size=1,
                   max_size=60)
WORDS = st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=80)


def sides(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    was, now = np.array(pairs, dtype=float).T
    return was, now


@given(COUNTS)
def test_psi_is_symmetric_never_negative_and_zero_for_equal_shares(pairs: list[tuple[int, int]]) -> None:
    was, now = sides(pairs)
    assert psi(was, now) == pytest.approx(psi(now, was))
    assert psi(was, now) >= 0
    assert psi(was, 3 * was) == 0


@given(COUNTS)
def test_chi_square_is_scipys_statistic_on_both_samples(pairs: list[tuple[int, int]]) -> None:
    was, now = sides(pairs)
    total = was + now
    expected = [side.sum() * total / total.sum() for side in (was, now)]
    statistic = sum(((side - mean) ** 2 / mean).sum() for side, mean in zip((was, now), expected, strict=True))
    wanted = stats.chi2.sf(statistic, len(was) - 1) if len(was) > 1 else 1.0
    assert chi2_p_value(was, now) == pytest.approx(wanted, abs=1e-12)
    assert chi2_p_value(was, now) == pytest.approx(chi2_p_value(now, was))


@given(NUMBERS, NUMBERS)
@settings(deadline=None)
def test_bins_hold_every_row_once_whatever_the_ties(was: list[float], now: list[float]) -> None:
    cells = bin_numbers(np.array(was), np.array(now))
    assert [side.sum() for side in cells] == [len(was), len(now)]
    assert np.isfinite(psi(*cells))
    assert psi(*bin_numbers(np.array(was), np.array(was))) == 0


@given(WORDS, WORDS)
@settings(deadline=None)
def test_levels_hold_every_row_once_in_whatever_order(was: list[str], now: list[str]) -> None:
    given_ = np.array(was, dtype=object), np.array(now, dtype=object)
    cells = count_levels(*given_)
    assert [side.sum() for side in cells] == [len(was), len(now)]
    turned = count_levels(given_[0][::-1], given_[1][::-1])
    assert chi2_p_value(*cells) == pytest.approx(chi2_p_value(*turned))


@given(NUMBERS, NUMBERS)
@settings(deadline=None)
def test_kolmogorov_smirnov_of_few_rows_is_exact_whatever_the_ties(was: list[float], now: list[float]) -> None:
    ours = ks_p_value(np.array(was), np.array(now))
    assert ours == pytest.approx(ks_p_value(np.array(now), np.array(was)))
    if min(len(was), len(now)) < 50:
        exact = stats.ks_2samp(was, now, method="exact").pvalue
        assert ours == pytest.approx(exact if np.isfinite(exact) else 1.0)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5])
def test_from_fifty_rows_on_the_asymptotic_law_is_within_a_tenth_of_the_exact_one(shift: float) -> None:
    random = np.random.default_rng(3)
    was, now = random.normal(size=60), random.normal(shift, size=300)
    exact, ours = stats.ks_2samp(was, now, method="exact").pvalue, ks_p_value(was, now)
    assert ours == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(("was", "now"), [(1, 1), (1, 2), (3, 1), (1, 20_000)])
def test_of_a_single_row_kolmogorov_smirnov_is_a_number(was: int, now: int) -> None:
    """The asymptotic law gives 0 for one row against 20,000: certain, by a single value."""
    assert 1e-4 < ks_p_value(np.zeros(was), np.ones(now)) <= 1


@given(st.integers(0, 40), st.integers(40, 60), st.integers(0, 40), st.integers(40, 60))
def test_missingness_is_fishers_or_the_chi_square_of_the_two_by_two_table(a: int, n: int, b: int, m: int) -> None:
    table = [[a, n - a], [b, m - b]]
    exact, ours = stats.fisher_exact(table).pvalue, missing_p_value(a, n, b, m)
    expected = np.outer([n, m], np.sum(table, axis=0)) / (n + m)
    wanted = exact if expected.min() < 5 else stats.chi2_contingency(table, correction=False).pvalue
    assert ours == pytest.approx(wanted)


@given(st.lists(st.floats(0, 1), max_size=30))
def test_benjamini_hochberg_rejects_what_scipys_adjusted_p_values_reject(p_values: list[float]) -> None:
    limit = benjamini_hochberg_limit(p_values, 0.05)
    adjusted = stats.false_discovery_control(p_values) if p_values else []
    near = [abs(value - 0.05) < 1e-9 for value in adjusted]  # rounding may fall on either side
    assert all((value <= limit) == (other <= 0.05) or any(near)
               for value, other in zip(p_values, adjusted, strict=True))


def test_new_levels_are_told_from_those_a_long_tail_always_has() -> None:
    random = np.random.default_rng(12)
    tail = [random.zipf(1.3, (2, 1000)).astype(str).astype(object) for _ in range(300)]
    assert np.mean([unseen_p_value(*pair) < 0.05 for pair in tail]) <= 0.05
    known = np.array([f"old {n % 100}" for n in range(1000)], dtype=object)
    assert unseen_p_value(known, known) == 1.0
    assert unseen_p_value(known, np.array([f"new {n % 100}" for n in range(1000)], dtype=object)) < 1e-9
