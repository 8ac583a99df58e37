from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sklearn.metrics import log_loss

from models.errors import DataError
from models.serving.scorer import feature_frame
from models.training.estimators import SPACES, make_pipeline, start_params
from models.training.search import FoldData, search
from models.training.walk_forward import make_folds
from tests.models.training.fit_data import CONTRACT, rows

CUTS = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 3, 5)]


@pytest.fixture(scope="module")
def frame():
    return rows(customers=200, cuts=CUTS)


@pytest.fixture(scope="module")
def data(frame):
    folds = make_folds(frame, CONTRACT, horizon=timedelta(days=30), random_state=1)
    return FoldData.of(frame, frame["left"].to_numpy(float), folds, CONTRACT, None)


def run(data, **settings):
    return search(data, **{"trials": 8, "seconds": 600, "random_state": 3, **settings})


def facts(found):
    return [(trial.estimator, trial.params, trial.losses, trial.state) for trial in found.trials]


def test_the_same_seed_gives_the_same_trials_and_another_one_others(data):
    assert facts(run(data)) == facts(run(data))
    assert facts(run(data)) != facts(run(data, random_state=4))


def test_the_first_trials_are_the_starts_of_the_estimators_and_run_to_their_end(data):
    first, second = run(data).trials[:2]
    assert (first.estimator, second.estimator) == ("logistic", "boosting")
    assert (first.params, second.params) == (start_params("logistic"), start_params("boosting"))
    assert first.state == second.state == "complete"


def test_all_parameters_stay_in_their_range(data):
    for trial in run(data, trials=12).trials:
        assert set(trial.params) == set(SPACES[trial.estimator])
        for key, value in trial.params.items():
            one = SPACES[trial.estimator][key]
            assert one.low <= value <= one.high
            assert isinstance(value, int) == one.whole


def test_the_best_is_the_complete_trial_with_the_least_loss(data):
    found = run(data, trials=12)
    assert found.best.loss == min(trial.loss for trial in found.trials if trial.state == "complete")


def test_a_trial_is_judged_by_models_that_saw_earlier_cuts_only(data, frame):
    found = run(data, trials=1)
    expected = []
    for fold in data.folds.parts:
        pipeline = make_pipeline("logistic", CONTRACT, random_state=3)
        earlier = frame.iloc[fold.fit]
        pipeline.fit(feature_frame(earlier, CONTRACT), earlier["left"])
        expected.append(pipeline.predict_proba(feature_frame(frame.iloc[fold.held_out], CONTRACT))[:, 1])
    assert found.probability == pytest.approx(np.concatenate(expected))
    losses = [log_loss(frame["left"].iloc[fold.held_out], scores)
              for fold, scores in zip(data.folds.parts, expected, strict=True)]
    assert list(found.best.losses) == ["2024-03-01", "2024-05-01"]
    assert list(found.best.losses.values()) == pytest.approx(losses)


def test_hopeless_trials_are_pruned_after_the_first_cut(data):
    pruned = [trial for trial in run(data, trials=20).trials if trial.state == "pruned"]
    assert pruned
    assert all(list(trial.losses) == ["2024-03-01"] for trial in pruned)


def test_rows_without_weight_neither_fit_nor_judge(frame):
    folds = make_folds(frame, CONTRACT, horizon=timedelta(days=30), random_state=1)
    y = frame["left"].to_numpy(float)
    spoilt = np.where(np.arange(len(y)) % 4 == 0, 1 - y, y)
    weight = (np.arange(len(y)) % 4 != 0).astype(float)
    with_spoilt = run(FoldData.of(frame, spoilt, folds, CONTRACT, weight), trials=1)
    without = run(FoldData.of(frame, y, folds, CONTRACT, weight), trials=1)
    # The preprocessing sees all rows either way, the labels of a quarter are turned round: they count for nothing.
    assert with_spoilt.best.losses == pytest.approx(without.best.losses)


def test_when_the_seconds_are_up_no_trial_begins_and_the_end_says_so(data):
    found = run(data, seconds=1e-9)
    assert len(found.trials) == 2  # the starts
    assert found.time_bound
    assert found.ended == "1e-09 s were up after 2 trials of 8: another machine may choose another model"


def test_ctrl_c_keeps_what_is_finished_and_the_end_says_so(data):
    def stop(trial):
        if trial.number == 2:
            raise KeyboardInterrupt

    found = run(data, on_trial=stop)
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    assert found.interrupted
    assert found.ended == "interrupted after 3 trials"
    assert facts(found) == facts(run(data))[:3]


def test_ctrl_c_before_the_first_trial_is_complete_ends_all(data):
    def stop(_name, _number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(replace(data, matrices=stop))


def test_ctrl_c_within_a_trial_drops_that_trial_alone(data):
    def stop(name, number):
        if name == "boosting" and number == 1:
            raise KeyboardInterrupt
        return data.matrices(name, number)

    found = run(replace(data, matrices=stop))
    assert [trial.estimator for trial in found.trials] == ["logistic"]
    assert found.best.estimator == "logistic"


def test_a_trial_that_fails_is_kept_as_failed_and_the_others_go_on(data):
    def fail(name, number):
        if name == "boosting":
            raise ValueError
        return data.matrices(name, number)

    found = run(replace(data, matrices=fail))
    assert {trial.state for trial in found.trials if trial.estimator == "boosting"} == {"failed"}
    assert found.best.estimator == "logistic"
    assert len(found.trials) == 8


def test_where_every_trial_fails_there_is_a_line_and_no_model(data):
    def fail(_name, _number):
        raise ValueError

    with pytest.raises(DataError, match="none of 3 trials gave a log loss"):
        run(replace(data, matrices=fail), trials=3)


def test_each_trial_is_told_when_it_is_over(data):
    seen = []
    begun = time.monotonic()
    found = run(data, trials=3, on_trial=seen.append)
    assert tuple(seen) == found.trials
    assert 0 < sum(trial.seconds for trial in seen) < time.monotonic() - begun
