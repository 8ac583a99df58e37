from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from models.evaluation.calibration import calibration_bins, calibration_line, log_losses, log_odds, squared_errors

ROW = st.tuples(st.integers(0, 1), st.floats(0, 1) | st.sampled_from([0.0, 1.0, 1e-300, 0.5]), st.floats(0.1, 9))


def world(slope: float, intercept: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds, and labels of the law that is `intercept + slope x log-odds`."""
    rng = np.random.default_rng(2)
    x = rng.normal(-1, 1.5, n)
    return x, (rng.random(n) < 1 / (1 + np.exp(-(intercept + slope * x)))).astype(float)


@given(st.lists(ROW, min_size=1, max_size=40))
def test_brier_and_log_loss_equal_scikit_learns_with_weights(rows):
    y, probability, weight = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    brier = np.average(squared_errors(y, probability), weights=weight)
    assert brier == pytest.approx(brier_score_loss(y, probability, sample_weight=weight, pos_label=1), abs=1e-12)
    loss = np.average(log_losses(y, probability), weights=weight)
    expected = log_loss(y, probability, sample_weight=weight, labels=[0, 1])
    assert loss == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, -0.4), (2, 1), (-0.3, -1)])
def test_the_line_is_the_planted_one_and_that_of_a_logistic_regression(slope, intercept):
    x, y = world(slope, intercept)
    weight = np.random.default_rng(3).uniform(0.5, 2, (3, len(y)))
    found = np.stack(calibration_line(y, x, weight), axis=1)
    assert found[:, 1] == pytest.approx(slope, abs=0.15)
    assert found[:, 0] == pytest.approx(intercept, abs=0.15)
    for row, weights in zip(found, weight, strict=True):
        fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(x[:, None], y, sample_weight=weights)
        assert row == pytest.approx([fitted.intercept_[0], fitted.coef_[0, 0]], abs=1e-5)


def test_a_resample_that_starts_from_the_line_of_all_rows_ends_at_its_own():
    x, y = world(0.7, 0.2, n=600)
    weight = np.random.default_rng(4).integers(0, 4, (50, len(y))).astype(float)
    cold = np.stack(calibration_line(y, x, weight))
    warm = np.stack(calibration_line(y, x, weight, start=(0.2, 0.7), tolerance=1e-3))
    np.testing.assert_allclose(warm, cold, atol=1e-5)


@pytest.mark.parametrize(("y", "x"), [
    pytest.param([0, 0, 0, 0], [1, 2, 3, 4], id="one class"),
    pytest.param([0, 1, 0, 1], [2, 2, 2, 2], id="equal scores"),
    pytest.param([0, 1, 0, 1, 0, 1], [0.9] * 6, id="equal scores whose products are rounded"),
    pytest.param([0, 0, 1, 1], [1, 2, 3, 4], id="parted without error"),
    pytest.param([1, 1, 0, 0], [1, 2, 3, 4], id="parted without error, upside down"),
])
def test_where_no_line_is_best_there_is_none(y, x):
    # Beside it a set of weights that has one: what is wrong with a resample is its own.
    good_y, good_x = [0.0, 1.0, 0.0, 1.0, 1.0], [-1.0, 0.0, 1.0, 2.0, 3.0]
    ys, xs = np.r_[np.array(y, dtype=float), good_y], np.r_[np.array(x, dtype=float), good_x]
    weight = np.array([[1.0] * len(y) + [0.0] * 5, [0.0] * len(y) + [1.0] * 5])
    intercept, slope = calibration_line(ys, xs, weight)
    assert np.isnan([intercept[0], slope[0]]).all()
    assert np.isfinite([intercept[1], slope[1]]).all()


def test_a_probability_of_none_or_one_has_finite_log_odds():
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    assert log_odds(np.array([0.5, 0.75])) == pytest.approx([0, np.log(3)])


def test_bins_are_of_equal_size_and_part_no_equal_probabilities():
    assert calibration_bins(np.arange(100.0), bins=4).tolist() == [0, 25, 50, 75]
    assert calibration_bins(np.r_[np.full(60, 0.9), np.arange(40) / 100.0], bins=4).tolist() == [0, 75]
    assert calibration_bins(np.array([0.7])).tolist() == [0]
