from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from models.charter import Value
from models.evaluation.curves import GRID, gain_draws, profit_marks, ranking_curves, roc_draws
from models.evaluation.evaluate import evaluate_scores

VALUE = Value(customers=10, monthly_churners=2, share_found=0.5, share_who_stay=0.5, worth_of_saved=10,
              cost_of_contact=1, contact_budget=2)
RNG = np.random.default_rng(0)
P = 1 / (1 + np.exp(-RNG.normal(-1, 1.5, 800)))
Y = (RNG.random(800) < P).astype(float)
WHO = np.arange(800)


def test_gain_of_four_customers_is_read_off_by_hand():
    gain = gain_draws(np.ones((1, 4)), np.array([[1.0, 0.0, 1.0, 0.0]]))[0]
    assert gain[[0, 25, 50, 75, 100]].tolist() == [0, 0.5, 0.5, 1, 1]
    assert gain[12] == pytest.approx(0.24)  # .48 of the first customer, who is half of the churners


def test_roc_of_ties_is_a_straight_line_through_them():
    assert roc_draws(np.array([[2.0]]), np.array([[3.0]]))[0] == pytest.approx(GRID)


def test_a_row_without_weight_bends_no_curve():
    weight, churned = np.array([[1.0, 0, 1, 0, 2]]), np.array([[1.0, 0, 0, 0, 2]])
    without = gain_draws(weight[:, [0, 2, 4]], churned[:, [0, 2, 4]])
    assert gain_draws(weight, churned) == pytest.approx(without)


def test_one_class_has_no_curve():
    assert np.isnan(roc_draws(np.array([[2.0, 1.0]]), np.zeros((1, 2)))).all()
    assert np.isnan(gain_draws(np.ones((1, 2)), np.zeros((1, 2)))).all()


def test_the_roc_curve_is_scikit_learns():
    for score in (P, P.round(1)):
        x, y, _ = roc_curve(Y, score, drop_intermediate=False)
        found = ranking_curves(Y, score, WHO, value=VALUE)["roc"]
        inner = ~np.isin(GRID, x)  # where the curve is steep, the upper end is taken
        np.testing.assert_allclose(found.y[inner], np.interp(GRID[inner], x, y), atol=1e-12)
        assert (found.x[0], found.x[-1], found.y[-1]) == (0, 1, 1)


def test_the_profit_curve_is_the_profit_of_contacting_so_many():
    value = VALUE.model_copy(update={"contact_budget": 200})
    found = evaluate_scores(Y, P, WHO, value=value, random_state=1)
    profit = found.curves["profit"]
    order = np.argsort(-P)
    for place in (0, 25, 100):
        depth = round(float(profit.x[place]))
        assert depth == 8 * place
        assert profit.y[place] == pytest.approx(Y[order[:depth]].sum() * 0.5 * 10 - depth)
    assert profit.marks["budget"] == 200
    assert profit.marks["budget_value"] == pytest.approx(found.scores["value"].value)
    every_depth = np.cumsum(Y[order]) * 5 - np.arange(1, 801)
    assert profit.marks["best_value"] == pytest.approx(every_depth.max())
    assert profit.marks["best_depth"] == every_depth.argmax() + 1
    assert found.curves["gain"].marks["budget"] == pytest.approx(0.25)


def test_where_no_contact_pays_the_best_depth_is_none():
    dear = VALUE.model_copy(update={"cost_of_contact": 6})
    marks = profit_marks(np.ones(3), np.ones(3), dear)
    assert (marks["best_depth"], marks["best_value"], marks["budget_value"]) == (0, 0, -2)


def test_a_budget_above_all_customers_is_all_of_them():
    marks = profit_marks(np.ones(3), np.array([1.0, 0, 0]), VALUE.model_copy(update={"contact_budget": 50}))
    assert (marks["budget"], marks["budget_value"]) == (3, 2)


def test_each_band_holds_its_curve_and_is_of_one_shape_with_it():
    curves = evaluate_scores(Y, P, WHO, value=VALUE, random_state=1).curves
    assert list(curves) == ["roc", "calibration", "gain", "profit"]
    for curve in curves.values():
        assert curve.x.shape == curve.y.shape == curve.low.shape == curve.high.shape
        assert ((curve.low <= curve.y + 1e-9) & (curve.y <= curve.high + 1e-9)).mean() > 0.97
    calibration = curves["calibration"]
    assert len(calibration.x) == 10
    assert (np.diff(calibration.x) < 0).all()  # highest probability first
    assert ((calibration.low <= calibration.x) & (calibration.x <= calibration.high)).sum() >= 8  # these are true
