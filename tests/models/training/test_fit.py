from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import joblib
import numpy as np
import pytest
from pydantic import ValidationError

from models.cuts import CutPlan
from models.errors import DataError
from models.evaluation.evaluate import evaluate_scores
from models.serving.scorer import feature_frame, predict
from models.training.contacts import WEIGHT
from models.training.estimators import fit_pipeline, make_pipeline
from models.training.fit import TrainingConfig, fit_candidate, split_rows
from models.training.platt import cox, rescale
from tests.models.training.fit_data import CHARTER, CONTRACT, CUTS, PLAN, rows

REPO = Path(__file__).parents[3]
CONFIG = TrainingConfig(trials=3)
HASHED = """
import joblib
from tests.models.training.test_fit import fit
found = fit()
print(joblib.hash((found.pipeline, found.threshold, found.probability)))
"""

INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
from models.training.fit import TrainingConfig
from tests.models.training.test_fit import fit
found = fit(config=TrainingConfig(trials=100_000), on_trial=lambda trial: print(trial.number))
print(f"{found.search_ended}, AUC {found.metrics.auc > 0.8}")
"""


def fit(frame=None, config=CONFIG, contract=CONTRACT, charter=CHARTER, **settings):
    train, test = split_rows(rows() if frame is None else frame, PLAN)
    return fit_candidate(train, test, contract, charter, config, **settings)


@pytest.fixture(scope="module")
def candidate():
    return fit()


def test_a_candidate_learns_what_there_is_and_names_the_column_that_carries_it(candidate):
    assert candidate.metrics.auc > 0.8
    assert candidate.baseline.column == "silent"
    assert candidate.baseline.sign == 1
    assert candidate.importance["silent"] > 0.8
    assert sum(candidate.importance.values()) == pytest.approx(1)


def test_the_same_inputs_give_the_same_bytes(candidate):
    again = fit()
    assert joblib.hash(again.pipeline) == joblib.hash(candidate.pipeline)
    assert np.array_equal(again.probability, candidate.probability)
    assert again.threshold == candidate.threshold


@pytest.mark.service
def test_another_process_fits_the_same_bytes(candidate):
    hashes = {
        subprocess.run([sys.executable, "-c", HASHED], cwd=REPO, env={**os.environ, "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout.strip()
        for seed in ("1", "2")
    }
    assert hashes == {joblib.hash((candidate.pipeline, candidate.threshold, candidate.probability))}


def test_shuffled_labels_teach_nothing():
    found = fit(rows().assign(left=lambda frame: np.random.default_rng(4).permutation(frame["left"])))
    assert abs(found.metrics.auc - 0.5) < 0.1


def test_the_threshold_is_the_budget_of_the_latest_training_cut_by_a_model_of_earlier_ones(candidate):
    train, _ = split_rows(rows(), PLAN)
    first, second = (train[train["event_timestamp"] == cut] for cut in CUTS[:2])
    earlier = make_pipeline(candidate.estimator, CONTRACT, random_state=7, params=candidate.params)
    earlier.fit(feature_frame(first, CONTRACT), first["left"])
    calibration = candidate.calibration
    scores = rescale(predict(earlier, second, CONTRACT), calibration.slope, calibration.intercept)
    assert (scores >= candidate.threshold).sum() == CHARTER.value.contact_budget


def test_neither_model_nor_threshold_depends_on_the_labels_it_is_judged_by(candidate):
    frame = rows()
    tested = frame["event_timestamp"] == CUTS[2]
    frame.loc[tested, "left"] = 1 - frame.loc[tested, "left"]
    turned = fit(frame)
    assert joblib.hash(turned.pipeline) == joblib.hash(candidate.pipeline)
    assert turned.threshold == candidate.threshold
    assert turned.metrics.auc == pytest.approx(1 - candidate.metrics.auc)


def test_the_estimator_with_the_least_validated_loss_is_chosen(candidate):
    assert candidate.validation_loss[candidate.estimator] == min(candidate.validation_loss.values())
    assert set(candidate.validation_loss) == {"logistic", "boosting"}
    best = min((trial for trial in candidate.trials if trial.state == "complete"), key=lambda trial: trial.loss)
    assert (candidate.estimator, candidate.params) == (best.estimator, best.params)


def test_what_an_interaction_hides_from_a_straight_line_boosting_finds():
    rng = np.random.default_rng(5)
    frame = rows()
    crossed = np.sign(frame["silent"].fillna(20) - 17) * np.sign(frame["noise"])
    frame["left"] = (rng.random(len(frame)) < np.where(crossed > 0, 0.8, 0.1)).astype(int)
    found = fit(frame)
    assert found.estimator == "boosting"
    assert found.metrics.auc > 0.8


def test_the_candidate_says_how_it_was_made(candidate):
    assert candidate.search_ended == "3 trials"
    assert not candidate.interrupted
    assert candidate.validation.startswith("walk-forward over 1 cut (2024-02-01)")
    assert set(candidate.timings) == {"search", "fit", "calibrate", "score", "importance", "baselines"}


def test_one_training_cut_is_fitted_all_the_same_and_the_candidate_says_how_it_was_validated():
    frame = rows()
    found = fit(frame[frame["event_timestamp"] != CUTS[0]])
    assert found.validation.startswith("3 groups of customers")
    assert found.metrics.auc > 0.8


def test_the_calibration_is_checked_on_the_rows_that_judge(candidate):
    y = rows().query("event_timestamp == @CUTS[2]")["left"].to_numpy()
    assert (candidate.calibration.test_slope, candidate.calibration.test_intercept) == cox(y, candidate.probability)


def test_a_model_that_each_later_cut_finds_too_low_ships_calibrated_and_so_is_its_threshold():
    """More leave at each cut, so models of earlier cuts say too little of later ones."""
    cuts = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 3, 5, 7)]
    frame, rng = rows(cuts=cuts, customers=800), np.random.default_rng(8)
    silent = frame["silent"].fillna(20)
    usual = 30 - 6 * frame["event_timestamp"].map(cuts.index)
    frame["left"] = (rng.random(len(frame)) < 1 / (1 + np.exp(-(silent - usual) / 8))).astype(int)
    train, test = split_rows(frame, CutPlan(tuple(cuts[:3]), (cuts[3],)))
    found = fit_candidate(train, test, CONTRACT, CHARTER, TrainingConfig(trials=1))
    assert found.calibration.method == "platt"
    assert found.calibration.intercept > 0.5

    def scores(fitted_on, scored):
        pipeline = fit_pipeline(found.estimator, fitted_on, fitted_on["left"].to_numpy(), CONTRACT, random_state=7,
                                params=found.params)
        return rescale(predict(pipeline, scored, CONTRACT), found.calibration.slope, found.calibration.intercept)

    assert found.probability == pytest.approx(scores(train, test), abs=1e-9)
    assert np.array_equal(predict(found.pipeline, test, CONTRACT), found.probability)
    earlier = train["event_timestamp"] < cuts[2]
    assert (scores(train[earlier], train[~earlier]) >= found.threshold).sum() == CHARTER.value.contact_budget


def test_a_weight_of_none_and_a_weight_of_one_each_fit_alike(candidate):
    weighted = fit(weight=np.ones(800))
    assert weighted.probability == pytest.approx(candidate.probability, abs=1e-9)
    assert weighted.threshold == pytest.approx(candidate.threshold, abs=1e-9)


def test_customers_who_stand_for_two_take_two_of_the_budget(candidate):
    assert fit(weight=np.full(800, 2.0)).threshold > candidate.threshold + 0.05


def test_rows_of_no_weight_do_not_teach():
    frame = rows()
    spoilt = (np.arange(800) % 2).astype(bool)  # of the training rows, which come first
    frame.loc[:799, "left"] = np.where(spoilt, 0, frame.loc[:799, "left"])
    assert fit(frame, weight=(~spoilt).astype(float)).probability.mean() == pytest.approx(
        rows()["left"].mean(), abs=0.05)
    assert fit(frame).probability.mean() < 0.8 * rows()["left"].mean()


def test_weights_that_cannot_count_are_refused_before_anything_is_fitted():
    with pytest.raises(DataError, match="cannot weigh 800 training rows"):
        fit(weight=np.ones(3))


def test_ctrl_c_in_the_search_gives_the_best_of_what_was_finished_and_says_so():
    def stop(_trial):
        raise KeyboardInterrupt

    found = fit(on_trial=stop)
    assert found.interrupted
    assert found.search_ended == "interrupted after 1 trial"
    assert found.estimator == "logistic"


@pytest.mark.service
def test_a_real_ctrl_c_in_the_search_ends_it_at_once_with_what_was_finished():
    process = subprocess.Popen([sys.executable, "-u", "-c", INTERRUPTED], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.strip())
        if len(seen) == 3:
            process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    finished = len(seen) - 1
    assert 3 <= finished < 100_000
    assert seen[-1] == f"interrupted after {finished} trials, AUC True"


def test_a_budget_beyond_the_customers_contacts_whoever_pays():
    value = CHARTER.value.model_copy(update={"contact_budget": 10_000, "cost_of_contact": 1})
    found = fit(charter=CHARTER.model_copy(update={"value": value}))
    assert found.threshold == pytest.approx(1 / (0.5 * 10))
    assert found.metrics.contacted == 400


def test_an_infinite_number_is_refused_by_name():
    with pytest.raises(DataError, match="'noise' is infinite in 800 of 800"):
        fit(rows().assign(noise=np.inf))


def test_test_rows_of_one_class_are_refused():
    frame = rows()
    frame.loc[frame["event_timestamp"] == CUTS[2], "left"] = 1
    with pytest.raises(DataError, match="cannot use the test rows: all 400 have 'left' 1"):
        fit(frame)


def test_columns_that_say_nothing_and_words_never_seen_do_no_harm(candidate):
    frame = rows()
    tested = frame["event_timestamp"] == CUTS[2]
    frame["noise"], frame["tier"] = 1.0, frame["tier"].where(~tested, "never seen")
    found = fit(frame)
    assert found.metrics.auc == pytest.approx(candidate.metrics.auc, abs=0.02)
    frame["noise"] = np.nan
    assert fit(frame).metrics.auc == pytest.approx(candidate.metrics.auc, abs=0.02)


def test_a_contract_of_numbers_alone_can_be_fitted(candidate):
    found = fit(contract=replace(CONTRACT, snapshot=CONTRACT.snapshot[:2]))
    assert found.metrics.auc == pytest.approx(candidate.metrics.auc, abs=0.02)


def test_a_new_window_needs_the_date_it_begins_at():
    with pytest.raises(ValidationError, match="needs the date"):
        TrainingConfig(window="new")


def test_the_figures_of_a_candidate_count_the_weights_of_the_test_rows(candidate):
    """Contacted customers are left out and the others weighed for them: a release says what all would have brought."""
    train, test = split_rows(rows(), PLAN)
    weight = np.where(test["silent"] > test["silent"].median(), 3.0, 1.0)
    found = fit_candidate(train, test.assign(**{WEIGHT: weight}), CONTRACT, CHARTER, CONFIG)
    y, taken = test[CONTRACT.label].to_numpy(dtype=float), test[CONTRACT.entity_key].to_numpy()
    seen = evaluate_scores(y, found.probability, taken, value=CHARTER.value, weight=weight, resamples=5, random_state=0)
    for name in ("auc", "average_precision", "brier", "log_loss", "churners_found", "lift", "value"):
        assert getattr(found.metrics, name) == pytest.approx(seen.scores[name].value), name
    assert found.metrics.auc != pytest.approx(candidate.metrics.auc, abs=1e-6)
    assert found.baseline_auc != pytest.approx(candidate.baseline_auc, abs=1e-6)
