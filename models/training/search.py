"""Hyper-parameters by Optuna: seeded TPE, pruned over the folds, bounded in trials and seconds.

Each trial is an estimator with its parameters, fitted on every fold and judged by log loss on the rows held out.
The first trials are the starts of the estimators (`estimators.SPACES`), which are never pruned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import pandas as pd

from models.errors import DataError
from models.evaluation.calibration import log_losses
from models.serving.scorer import feature_frame
from models.training.estimators import (
    ESTIMATORS,
    SPACES,
    EstimatorName,
    make_columns,
    make_model,
    null_features,
    start_params,
)

if TYPE_CHECKING:
    import optuna

    from models.contract import Contract
    from models.training.walk_forward import Folds

RANDOM_TRIALS: Final = 4  # so many before TPE models what the earlier ones found


@dataclass(frozen=True)
class Trial:
    """One estimator with one set of parameters on every fold, or on the first ones where it was pruned."""

    number: int
    estimator: EstimatorName
    params: Mapping[str, float]
    losses: Mapping[str, float]  # log loss of the rows held out, by fold: the validated cut
    state: Literal["complete", "pruned", "failed"]
    seconds: float

    @property
    def loss(self) -> float:
        """Mean over the folds it was fitted on; NaN where there is none."""
        return float(np.mean(list(self.losses.values()))) if self.losses else float("nan")


@dataclass(frozen=True)
class Search:
    """What a search found, and why it ended."""

    best: Trial
    trials: tuple[Trial, ...]
    probability: np.ndarray  # of `folds.held_out`, by the best trial's fold models
    ended: str  # in words
    interrupted: bool  # by Ctrl-C
    time_bound: bool  # the seconds were up: another machine may find something else


@dataclass(frozen=True)
class FoldData:
    """The training rows as each fold's matrices, made once for an estimator and used by all its trials."""

    contract: Contract
    folds: Folds
    matrices: Callable[[EstimatorName, int], tuple[Any, Any]]
    y: np.ndarray
    weight: np.ndarray | None

    @staticmethod
    def of(
        rows: pd.DataFrame, y: np.ndarray, folds: Folds, contract: Contract, weight: np.ndarray | None
    ) -> FoldData:
        X = feature_frame(rows, contract)

        @cache
        def matrices(name: EstimatorName, number: int) -> tuple[Any, Any]:
            fold = folds.parts[number]
            fit = X.iloc[fold.fit]
            columns = make_columns(name, contract, null=null_features(fit))
            return columns.fit_transform(fit), columns.transform(X.iloc[fold.held_out])

        return FoldData(contract, folds, matrices, y, weight)

    def score(
        self, name: EstimatorName, params: Mapping[str, float], number: int, *, random_state: int
    ) -> tuple[np.ndarray, float]:
        """Probability of the rows that fold `number` holds out, and their log loss."""
        fold = self.folds.parts[number]
        fit, held_out = self.matrices(name, number)
        weight = None if self.weight is None else self.weight[fold.fit]
        model = make_model(name, random_state=random_state, params=params).fit(fit, self.y[fold.fit], weight)
        probability = np.asarray(model.predict_proba(held_out)[:, 1])
        counted = None if self.weight is None else self.weight[fold.held_out]
        return probability, float(np.average(log_losses(self.y[fold.held_out], probability), weights=counted))


def search(
    data: FoldData, *, trials: int, seconds: float, random_state: int, on_trial: Callable[[Trial], None] | None = None,
) -> Search:
    """The trial with the least log loss; the same seed gives the same trials unless the seconds are up.

    Ctrl-C ends the search with the trials that are finished, and the result says so.

    Args:
        seconds: no trial begins later than this, the estimators' starts apart.
        on_trial: called after each trial, for progress and records; what it raises is raised.

    Raises:
        DataError: no trial gave a loss.
        KeyboardInterrupt: before any trial was complete.
    """
    study = _study(random_state, trials)
    begun, done = time.monotonic(), list[Trial]()
    best: tuple[Trial, np.ndarray] | None = None
    interrupted = time_bound = False
    while len(done) < trials:
        if len(done) >= len(ESTIMATORS) and time.monotonic() - begun >= seconds:
            time_bound = True
            break
        try:
            trial, probability = _run(study, data, random_state)
            done.append(trial)
            if probability is not None and (best is None or trial.loss < best[0].loss):
                best = trial, probability
            if on_trial is not None:
                on_trial(trial)
        except KeyboardInterrupt:
            if best is None:
                raise
            interrupted = True
            break
    if best is None:
        raise DataError(f"cannot choose a model: none of {len(done)} trials gave a log loss, the last was "
                        f"{done[-1].estimator} with {dict(done[-1].params)}. Look at the features' ranges")
    ended = f"{len(done)} {'trial' if len(done) == 1 else 'trials'}"
    ended = (f"interrupted after {ended}" if interrupted else
             f"{seconds:g} s were up after {ended} of {trials}: another machine may choose another model" if time_bound
             else ended)
    return Search(best[0], tuple(done), best[1], ended, interrupted, time_bound)


def _study(random_state: int, trials: int) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=random_state, n_startup_trials=RANDOM_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=len(ESTIMATORS), n_warmup_steps=0),
    )
    for name in ESTIMATORS[:trials]:
        study.enqueue_trial({"estimator": name, **{f"{name}.{key}": one for key, one in start_params(name).items()}})
    return study


def _run(study: optuna.Study, data: FoldData, random_state: int) -> tuple[Trial, np.ndarray | None]:
    """The next trial and, where it is complete, its probabilities of the rows held out."""
    from optuna.trial import TrialState

    asked, begun = study.ask(), time.perf_counter()
    name = cast("EstimatorName", asked.suggest_categorical("estimator", ESTIMATORS))
    params = _suggest(asked, name)
    losses: dict[str, float] = {}
    parts: list[np.ndarray] = []

    def told(state: Literal["complete", "pruned", "failed"]) -> Trial:
        return Trial(asked.number, name, params, losses, state, time.perf_counter() - begun)

    for number, fold in enumerate(data.folds.parts):
        try:
            probability, loss = data.score(name, params, number, random_state=random_state)
        except (ValueError, ArithmeticError):  # a solver that did not get there: another trial may
            loss = float("nan")
        if not np.isfinite(loss):
            study.tell(asked, state=TrialState.FAIL)
            return told("failed"), None
        losses[fold.name] = loss
        parts.append(probability)
        asked.report(loss, number)
        if number + 1 < len(data.folds.parts) and asked.should_prune():
            study.tell(asked, state=TrialState.PRUNED)
            return told("pruned"), None
    trial = told("complete")
    study.tell(asked, trial.loss)
    return trial, np.concatenate(parts)


def _suggest(trial: optuna.Trial, name: EstimatorName) -> dict[str, float]:
    chosen: dict[str, float] = {}
    for key, one in SPACES[name].items():
        label = f"{name}.{key}"
        if one.whole:
            chosen[key] = trial.suggest_int(label, int(one.low), int(one.high), log=one.log)
        else:
            chosen[key] = trial.suggest_float(label, one.low, one.high, log=one.log)
    return chosen
