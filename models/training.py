"""Fit the candidates, choose one, and say how good it is; no orchestrator, no tracking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, field_validator, model_validator

from models.charter import Charter
from models.contract import Contract
from models.cuts import CutPlan
from models.errors import DataError
from models.estimators import ESTIMATORS, Baseline, EstimatorName, best_single_column, make_pipeline, out_of_fold
from models.metrics import Metrics, auc, budget_threshold, evaluate
from models.scorer import feature_frame, predict


class TrainingConfig(BaseModel, frozen=True, extra="forbid"):
    """Choices that change the model; all of them are logged to the run."""

    train_cuts: int | None = Field(None, gt=0, description="latest training cuts; null: the charter's")
    window: Literal["combined", "new"] = Field("combined", description="new: only cuts from `not_before` on")
    not_before: datetime | None = Field(None, description="first cut of a `new` window")
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
    pipeline: Any
    threshold: float  # contact from this probability on; chosen on training rows the model had not seen
    metrics: Metrics
    probability: np.ndarray  # of the test rows, shape (n,)
    baseline: Baseline
    baseline_auc: float
    importance: Mapping[str, float]
    validation_loss: Mapping[str, float]


def split_rows(rows: pd.DataFrame, plan: CutPlan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`(train, test)` by the plan's cuts; each sorted as given, index renewed."""
    train = rows[rows["event_timestamp"].isin(list(plan.train))].reset_index(drop=True)
    test = rows[rows["event_timestamp"].isin(list(plan.test))].reset_index(drop=True)
    return train, test


def check_enough(train: pd.DataFrame, test: pd.DataFrame, contract: Contract, charter: Charter, *, as_of: datetime,
                 next_as_of: datetime) -> None:
    """Refuse to train on too little.

    Raises:
        DataError: too few mature labels, or too few of one class; says how many there are, how many are
            needed, and the first `as_of` that could do.
    """
    needs = charter.training
    churners = min(int(part[contract.label].sum()) for part in (train, test))
    stayed = min(int((1 - part[contract.label]).sum()) for part in (train, test))
    if len(train) >= needs.least_rows and min(churners, stayed) >= needs.least_churners:
        return
    raise DataError(
        f"cannot train as of {as_of:%Y-%m-%d}: {len(train):,} mature training labels, needed are {needs.least_rows:,}; "
        f"fewest churners {churners:,} and stayers {stayed:,} in training or test, needed are {needs.least_churners:,} "
        f"each. The first AS_OF with one more cut is {next_as_of:%Y-%m-%d}"
    )


def fit_candidate(
    train: pd.DataFrame, test: pd.DataFrame, contract: Contract, charter: Charter, config: TrainingConfig
) -> Candidate:
    """Fit every estimator, keep the one with the least cross-validated log loss, and score the test rows once.

    The choice and the threshold use out-of-fold scores of training rows, so the test rows judge a model
    that was chosen without them.
    """
    from sklearn.metrics import log_loss
    from threadpoolctl import threadpool_limits

    y = train[contract.label].to_numpy()
    with threadpool_limits(limits=1):  # two OpenMP threads on two busy cores are slower than one, and vary
        folds = {
            name: out_of_fold(name, train, y, contract, random_state=config.random_state) for name in ESTIMATORS
        }
        losses: dict[str, float] = {name: float(log_loss(y, scores)) for name, scores in folds.items()}
        best = min(ESTIMATORS, key=lambda name: losses[name])
        pipeline = make_pipeline(best, contract, random_state=config.random_state)
        pipeline.fit(feature_frame(train, contract), y)
        probability = predict(pipeline, test, contract)
        importance = permutation_importance(pipeline, test, contract, random_state=config.random_state)
    latest = (train["event_timestamp"] == train["event_timestamp"].max()).to_numpy()
    baseline = best_single_column(train, y, contract)
    return Candidate(
        estimator=best,
        pipeline=pipeline,
        threshold=budget_threshold(folds[best][latest], charter.value.contact_budget),
        metrics=evaluate(test, probability, label=contract.label, entity=contract.entity_key, value=charter.value),
        probability=probability,
        baseline=baseline,
        baseline_auc=auc(test[contract.label].to_numpy(), baseline.score(test)),
        importance=importance,
        validation_loss=losses,
    )


def permutation_importance(
    pipeline: Any, rows: pd.DataFrame, contract: Contract, *, random_state: int, most_rows: int = 4000
) -> dict[str, float]:
    """Share of the model's ranking power each feature carries: AUC lost when it is shuffled, summing to 1.

    Permutation importance (Breiman, Random Forests, 2001), negative losses taken as none.
    """
    sample = rows.sample(min(len(rows), most_rows), random_state=random_state)
    y = sample[contract.label].to_numpy()
    rng = np.random.default_rng(random_state)
    X = feature_frame(sample, contract)
    whole = auc(y, pipeline.predict_proba(X)[:, 1])
    lost = {}
    for name in contract.feature_names:
        shuffled = X.assign(**{name: X[name].to_numpy()[rng.permutation(len(X))]})
        lost[name] = max(whole - auc(y, pipeline.predict_proba(shuffled)[:, 1]), 0.0)
    total = sum(lost.values())
    return {name: value / total if total else 0.0 for name, value in lost.items()}
