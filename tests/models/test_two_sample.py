"""Two-sample tests: error rates that hold, and sizes that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.two_sample import (
    benjamini_hochberg_limit,
    bin_numbers,
    chi2_p_value,
    count_levels,
    ks_p_value,
    missing_p_value,
    psi,
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
