from __future__ import annotations

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from models.errors import DataError
from models.evaluation.calibration import log_odds
from models.serving.scorer import feature_frame, load_pipeline, predict
from models.training.estimators import ESTIMATORS, make_pipeline
from models.training.platt import Calibration, choose_calibration, cox, fold_in, rescale
from tests.models.training.fit_data import CONTRACT, rows


def world(n: int = 6000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the true probability each was drawn with."""
    rng = np.random.default_rng(seed)
    truth = 1 / (1 + np.exp(-rng.normal(-1, 1.5, n)))
    return (rng.random(n) < truth).astype(float), truth


@pytest.mark.parametrize("weighted", [False, True])
def test_slope_and_intercept_are_those_of_an_unpenalised_logistic_regression(weighted):
    y, truth = world(800)
    score = rescale(truth, 2.5, 0.7)
    weight = np.random.default_rng(1).integers(1, 4, len(y)).astype(float) if weighted else None
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(log_odds(score)[:, None], y, weight)
    assert cox(y, score, weight) == pytest.approx((reference.coef_[0, 0], reference.intercept_[0]), abs=1e-5)


def test_rescaling_by_what_cox_finds_leaves_slope_one_and_intercept_none():
    y, truth = world(800)
    score = rescale(truth, 0.4, -1)
    assert cox(y, rescale(score, *cox(y, score))) == pytest.approx((1, 0), abs=1e-6)


@pytest.mark.parametrize(("y", "score"), [
    (np.ones(50), np.linspace(0.1, 0.9, 50)),
    (np.r_[np.zeros(25), np.ones(25)], np.full(50, 0.5)),
    (np.r_[np.zeros(25), np.ones(25)], np.linspace(0.1, 0.9, 50)),
], ids=["one class", "equal scores", "classes that do not overlap"])
def test_where_there_is_no_answer_there_is_no_number(y, score):
    assert np.isnan(cox(y, score)).all()


@pytest.mark.parametrize("forward", [True, False])
def test_an_overconfident_model_is_calibrated_back_to_the_truth(forward):
    y, truth = world()
    found = choose_calibration(y, rescale(truth, 3, 0), np.arange(len(y)) % 3, np.arange(len(y)), forward=forward,
                               random_state=1)
    assert found.method == "platt"
    assert found.slope == pytest.approx(1 / 3, abs=0.03)
    assert "interval [+" in found.reason


def test_one_validated_cut_is_enough_to_see_overconfidence():
    y, truth = world()
    found = choose_calibration(y, rescale(truth, 3, 0), np.zeros(len(y), dtype=int), np.arange(len(y)), forward=True,
                               random_state=1)
    assert found.method == "platt"


def test_a_calibrated_model_is_left_alone_in_nearly_every_world():
    taken = 0
    for seed in range(40):
        y, truth = world(1500, seed)
        found = choose_calibration(y, truth, np.arange(len(y)) % 3, np.arange(len(y)), forward=True, random_state=1)
        taken += found.method == "platt"
    assert taken <= 4  # one side of a 95 % interval: 1 expected


def test_a_miscalibration_that_changes_from_cut_to_cut_is_not_carried_over():
    y, truth = world()
    fold = np.arange(len(y)) % 2
    score = np.where(fold == 0, rescale(truth, 1, 1.5), rescale(truth, 1, -1.5))
    assert choose_calibration(y, score, fold, np.arange(len(y)), forward=True, random_state=1).method == "none"


def test_a_model_that_ranks_backwards_is_not_turned_round():
    y, truth = world()
    found = choose_calibration(y, 1 - truth, np.arange(len(y)) % 3, np.arange(len(y)), forward=True, random_state=1)
    assert (found.method, found.slope) == ("none", 1.0)
    assert "no calibration to take" in found.reason


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_folded_in_scales_the_log_odds_and_loads_like_any_model(name, tmp_path):
    frame = rows()
    pipeline = make_pipeline(name, CONTRACT, random_state=1).fit(feature_frame(frame, CONTRACT), frame["left"])
    before = predict(pipeline, frame, CONTRACT)
    fold_in(pipeline, Calibration("platt", 0.6, -0.4, "because"))
    after = predict(pipeline, frame, CONTRACT)
    assert after == pytest.approx(rescale(before, 0.6, -0.4), abs=1e-9)
    skops.io.dump(pipeline, tmp_path / "pipeline.skops")
    assert np.array_equal(predict(load_pipeline(tmp_path / "pipeline.skops"), frame, CONTRACT), after)


def test_no_calibration_changes_nothing():
    frame = rows()
    pipeline = make_pipeline("logistic", CONTRACT, random_state=1).fit(feature_frame(frame, CONTRACT), frame["left"])
    before = pipeline[-1].coef_.tobytes()
    fold_in(pipeline, Calibration("none", 1.0, 0.0, "because"))
    assert pipeline[-1].coef_.tobytes() == before


def test_a_model_that_cannot_be_calibrated_is_refused():
    with pytest.raises(DataError, match="cannot calibrate a StandardScaler"):
        fold_in([StandardScaler()], Calibration("platt", 0.6, 0, "because"))
