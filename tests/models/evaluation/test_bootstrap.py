from __future__ import annotations

import numpy as np
import pytest

from models.evaluation.bootstrap import Interval, bands, customer_weights, interval


def test_all_rows_of_a_customer_are_drawn_together():
    entities = np.array(["a", "b", "a", "c", "b", "a"])
    for weight in customer_weights(entities, resamples=50, random_state=0):
        assert weight[0] == weight[2] == weight[5]
        assert weight[1] == weight[4]
        assert weight[0] + weight[1] + weight[3] == 3


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    sample = np.random.default_rng(0).normal(size=2000)
    found = interval(lambda weight: float(np.average(sample, weights=weight)), np.arange(2000), confidence=0.95,
                     resamples=2000, random_state=1)
    assert found.value == pytest.approx(sample.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * sample.std() / np.sqrt(2000), rel=0.06)


@pytest.mark.parametrize("copies", [1, 9])
def test_rows_of_one_customer_do_not_narrow_the_interval(copies):
    rows = np.repeat(np.random.default_rng(0).normal(size=300), copies)
    found = interval(lambda weight: float(np.average(rows, weights=weight)), np.repeat(np.arange(300), copies),
                     confidence=0.95, resamples=500, random_state=1)
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(300), rel=0.1)


def test_an_interval_of_lucky_draws_is_none():
    found = interval(lambda weight: 1.0 if weight[0] else float("nan"), np.arange(5), confidence=0.95, resamples=200,
                     random_state=0)
    assert np.isnan([found.low, found.high]).all()


def test_bands_are_the_quantiles_of_each_column_and_none_where_draws_lack():
    draws = np.stack([np.arange(101.0), np.full(101, 7.0), np.where(np.arange(101) < 80, 1.0, np.nan)], axis=1)
    low, high = bands(draws, confidence=0.9)
    assert low[:2] == pytest.approx([5, 7])
    assert high[:2] == pytest.approx([95, 7])
    assert np.isnan([low[2], high[2]]).all()
    assert Interval.of(50, draws[:, 0], confidence=0.9) == Interval(50, pytest.approx(5), pytest.approx(95))
