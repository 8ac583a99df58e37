"""Fit the candidates, choose one, and say how good it is; no orchestrator, no tracking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, field_validator, model_validator

from models.charter import Charter
from models.contract import Contract
from models.evaluation.metrics import Metrics, evaluate
from models.evaluation.ranks import Ranked
from models.serving.scorer import predict
from models.training.baselines import Baseline, baseline_values, best_single_column, one_column_scores
from models.training.contacts import row_weights
from models.training.estimators import EstimatorName, fit_pipeline
from models.training.importance import permutation_importance
from models.training.platt import Calibration, choose_calibration, fold_in, rescale
from models.training.rows import check_enough, check_weight, labels_of, split_rows
from models.training.search import FoldData, Search, Trial, search
from models.training.threshold import best_threshold
from models.training.walk_forward import Folds, make_folds

__all__ = ["Candidate", "TrainingConfig", "check_enough", "fit_candidate", "split_rows"]


class TrainingConfig(BaseModel, frozen=True, extra="forbid"):
    """Choices that change the model; all of them are logged to the run."""

    train_cuts: int | None = Field(None, gt=0, description="latest training cuts; null: the charter's")
    window: Literal["combined", "new"] = Field("combined", description="new: only cuts from `not_before` on")
    not_before: datetime | None = Field(None, description="first cut of a `new` window")
    trials: int = Field(10, gt=0, description="hyper-parameters tried; the first two are the estimators' starts")
    search_seconds: float = Field(600, gt=0, description="no further trial begins after so many seconds; where this "
                                  "bites, another machine may choose another model")
    random_state: int = 7

    @field_validator("not_before")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)

    @model_validator(mode="after")
    def _new_needs_a_date(self) -> TrainingConfig:
        if (self.window == "new") != (self.not_before is not None):
            raise ValueError(f"window is {self.window!r} and not_before {self.not_before}: a `new` window needs the "
                             "date it begins at, a `combined` one has none")
        return self


@dataclass(frozen=True)
class Candidate:
    """A fitted model and what held-out rows say about it."""

    estimator: EstimatorName
    pipeline: Any  # calibrated; this very object ships
    threshold: float  # contact from this probability on; chosen on training rows the model had not seen
    metrics: Metrics  # of the test rows, with their weights
    probability: np.ndarray  # of the test rows, shape (n,)
    baseline: Baseline
    baseline_auc: float
    importance: Mapping[str, float]
    validation_loss: Mapping[str, float]  # of each estimator, its best trial's
    params: Mapping[str, float] = field(default_factory=dict)  # the chosen hyper-parameters
    trials: tuple[Trial, ...] = ()
    search_ended: str = ""  # in words: "10 trials", "interrupted after 4 trials", ...
    interrupted: bool = False  # Ctrl-C ended the search; the candidate is the best of what was finished
    validation: str = ""  # in words: which cuts, or why groups of customers
    calibration: Calibration | None = None
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)  # one-column models: probability of test rows
    baseline_values: Mapping[str, float] = field(default_factory=dict)  # money a cut: nobody, everyone, a column
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds of each part


def fit_candidate(
    train: pd.DataFrame, test: pd.DataFrame, contract: Contract, charter: Charter, config: TrainingConfig, *,
    on_trial: Callable[[Trial], None] | None = None, weight: np.ndarray | None = None,
) -> Candidate:
    """Search, fit what was found on all training rows, calibrate it, and score the test rows once.

    The choice, the calibration and the threshold use scores of training rows by models that had not seen them
    (`walk_forward`), so the test rows judge a model that was made without them.

    Args:
        on_trial: called after each trial of the search.
        weight: how much each training row counts, shape (n,); None: each once.

    Raises:
        DataError: rows that cannot train or test (`training_rows.labels_of`), or weights that cannot count.
        KeyboardInterrupt: before the first trial was complete; later, the search ends and the candidate says so.
    """
    from threadpoolctl import threadpool_limits

    y, y_test = labels_of(train, contract, use="training"), labels_of(test, contract, use="test")
    weights, seed, timings = check_weight(weight, len(train)), config.random_state, dict[str, float]()
    folds = make_folds(train, contract, horizon=charter.problem.horizon, random_state=seed)
    with threadpool_limits(limits=1):  # two OpenMP threads on two busy cores are slower than one, and vary
        with _timed(timings, "search"):
            found = search(FoldData.of(train, y, folds, contract, weights), trials=config.trials,
                           seconds=config.search_seconds, random_state=seed, on_trial=on_trial)
        with _timed(timings, "fit"):
            best = found.best
            pipeline = fit_pipeline(best.estimator, train, y, contract, random_state=seed, params=best.params,
                                    weight=weights)
        with _timed(timings, "calibrate"):
            calibration, threshold = _calibrate(pipeline, found, folds, train, y, weights, contract, charter, seed)
        with _timed(timings, "score"):
            probability = predict(pipeline, test, contract)
        with _timed(timings, "importance"):
            importance = permutation_importance(pipeline, test, contract, random_state=seed)
        with _timed(timings, "baselines"):
            baseline = best_single_column(train, y, contract)
            baselines = one_column_scores(train, y, test, contract, weight=weights, random_state=seed)
    counted = row_weights(test)
    return Candidate(
        estimator=best.estimator,
        pipeline=pipeline,
        threshold=threshold,
        metrics=evaluate(test, probability, label=contract.label, entity=contract.entity_key, value=charter.value,
                         weight=counted),
        probability=probability,
        baseline=baseline,
        baseline_auc=Ranked.of(baseline.score(test)).auc(y_test, counted),
        importance=importance,
        validation_loss=_least_losses(found.trials),
        params=best.params,
        trials=found.trials,
        search_ended=found.ended,
        interrupted=found.interrupted,
        validation=folds.how,
        calibration=calibration.checked(y_test, probability, counted),
        baselines=baselines,
        baseline_values=baseline_values(y_test, baselines, test[contract.entity_key], charter.value, counted),
        timings=timings,
    )


def _calibrate(
    pipeline: Any, found: Search, folds: Folds, train: pd.DataFrame, y: np.ndarray, weights: np.ndarray | None,
    contract: Contract, charter: Charter, seed: int,
) -> tuple[Calibration, float]:
    """Fold the calibration into the pipeline; also the threshold, on the validated rows of the latest cut."""
    rows = folds.held_out
    calibration = choose_calibration(
        y[rows], found.probability, folds.number, train[contract.entity_key].to_numpy()[rows], forward=folds.forward,
        weight=None if weights is None else weights[rows], random_state=seed,
    )
    fold_in(pipeline, calibration)
    when = train["event_timestamp"].to_numpy()[rows]
    latest = when == when.max()
    probability = found.probability[latest]
    if calibration.method == "platt":
        probability = rescale(probability, calibration.slope, calibration.intercept)
    return calibration, best_threshold(probability, charter.value, None if weights is None else weights[rows][latest])


def _least_losses(trials: tuple[Trial, ...]) -> dict[str, float]:
    complete = [trial for trial in trials if trial.state == "complete"]
    names = sorted({trial.estimator for trial in complete})
    return {name: min(trial.loss for trial in complete if trial.estimator == name) for name in names}


@contextmanager
def _timed(timings: dict[str, float], what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    timings[what] = time.perf_counter() - begun
