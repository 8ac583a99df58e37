"""Walk-forward over history: what models of each date, from each window, answer at every later cut.

A model of a cut knows the labels that are mature then, and no more: it is what a retraining on that day would
have given (Hyndman & Athanasopoulos, FPP3, section 5.10, with a rolling origin). Its *age* at a later cut is the
months between the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, field_validator

from models.charter import Problem, Value
from models.contract import Contract
from models.cuts import regular_cuts
from models.errors import DataError
from models.evaluation.bootstrap import customer_weights
from models.evaluation.metrics import Ranked, rank, realised_value
from models.training.contacts import row_weights
from models.training.estimators import EstimatorName

Scorer = Callable[[pd.DataFrame], np.ndarray]
Fit = Callable[[pd.DataFrame], Scorer]


class StudyConfig(BaseModel, frozen=True, extra="forbid"):
    """Choices of the study of history; one estimator with fixed parameters, so that only time differs."""

    estimator: EstimatorName = Field("logistic", description="what is fitted again and again; nothing is searched")
    every_months: tuple[Literal[1, 2, 3, 6, 12], ...] = Field((1, 2, 3, 6, 12), min_length=1, description="months "
                                                              "between retrainings that are compared")
    least_train_cuts: int = Field(3, gt=0, description="cuts the first model is trained on")
    least_test_cuts: int = Field(4, gt=1, description="cuts it must be seen at; fewer say nothing of its ageing")
    tolerable_loss: float = Field(0.05, gt=0, lt=1, description="share of the best policy's money that the policy "
                                  "recommended may lose for all that is known; more: no answer")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(200, ge=100)
    max_seconds: float = Field(600, gt=0, description="no further date is fitted after that; the study ends there")
    random_state: int = 7

    @field_validator("every_months")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"every_months is {list(value)}; it must rise strictly")
        return value


@dataclass(frozen=True, order=True)
class Model:
    """A model of history: the number of the cut it was trained at, and on how many of the latest mature cuts."""

    origin: int
    train_cuts: int


@dataclass(frozen=True)
class History:
    """Labels at every cut from the first model on, and what each model answers there.

    `scores[model][i]` are the probabilities at `cuts[model.origin + i]`.
    """

    cuts: tuple[datetime, ...]
    months: tuple[int, ...]  # since the first of `cuts`
    known: tuple[int, ...]  # how many cuts had mature labels at each of `cuts`
    y: tuple[np.ndarray, ...]
    entities: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]  # what each row counts: 1 where nobody was contacted (`models.training.contacts`)
    scores: Mapping[Model, tuple[np.ndarray, ...]]
    seconds: Mapping[Model, float] = field(default_factory=dict)  # CPU, of fitting
    cut_short: str = ""  # why it ends before the last cut

    def window(self, origin: int, train_cuts: int) -> Model:
        """The model of a cut on at most so many of the latest mature cuts."""
        return Model(origin, min(train_cuts, self.known[origin]))

    def score(self, model: Model, cut: int) -> np.ndarray:
        return self.scores[model][cut - model.origin]


def study_cuts(problem: Problem, *, first_event: datetime, as_of: datetime) -> list[datetime]:
    """Every cut whose label is mature."""
    return [cut for cut in regular_cuts(problem, first_event=first_event, until=as_of)
            if cut + problem.maturity <= as_of]


def first_origin(cuts: Sequence[datetime], problem: Problem, config: StudyConfig, *, as_of: datetime) -> int:
    """The number of the first cut at which a model could be trained.

    Raises:
        DataError: too few cuts are left to see it age; says how many there are and how many are needed.
    """
    for number, cut in enumerate(cuts):
        if known_at(cuts, cut, problem) >= config.least_train_cuts:
            if len(cuts) - number >= config.least_test_cuts:
                return number
            break
    else:
        number = len(cuts)
    raise DataError(
        f"cannot study history as of {as_of:%Y-%m-%d}: {len(cuts)} cuts have mature labels, {len(cuts) - number} of "
        f"them after the first {config.least_train_cuts} a model could learn from, needed are "
        f"{config.least_test_cuts}. Use a later AS_OF, or ingest a longer range"
    )


def known_at(cuts: Sequence[datetime], moment: datetime, problem: Problem) -> int:
    """How many of the cuts have mature labels at a moment."""
    return sum(cut + problem.maturity <= moment for cut in cuts)


def walk_forward(
    rows: pd.DataFrame, contract: Contract, problem: Problem, fit: Fit, *, config: StudyConfig, windows: Sequence[int],
    as_of: datetime, progress: Callable[[str], None] = lambda _: None,
) -> History:
    """Train at every cut on each window, and score every cut from there on.

    Args:
        rows: (n, k) labels and features, one row a customer and cut; a column `contacts.WEIGHT` weighs them.
        fit: from training rows to what gives a probability a row.
        windows: how many of the latest mature cuts a model is trained on.

    Raises:
        DataError: too few cuts, or one whose rows are all of one class.
    """
    cuts = sorted(rows["event_timestamp"].unique())
    start = first_origin(cuts, problem, config, as_of=as_of)
    by_cut = {cut: part.reset_index(drop=True) for cut, part in rows.groupby("event_timestamp")}
    labels = [by_cut[cut][contract.label].to_numpy(dtype=float) for cut in cuts]
    for cut, y in zip(cuts, labels, strict=True):
        if len(np.unique(y)) < 2:
            raise DataError(f"cannot study history: at the cut {cut:%Y-%m-%d} all {len(y):,} rows are of one class. "
                            "Ingest what is missing, or see whether the label fits the data")
    begun, origins = time.monotonic(), cuts[start:]
    scores: dict[Model, tuple[np.ndarray, ...]] = {}
    seconds: dict[Model, float] = {}
    known = tuple(known_at(cuts, cut, problem) for cut in origins)
    reached, cut_short = len(origins), ""
    for number, cut in enumerate(origins):
        if time.monotonic() - begun > config.max_seconds and number >= config.least_test_cuts:
            reached = number
            cut_short = (f"stopped after {config.max_seconds:g} s with {number} of {len(origins)} dates; later cuts "
                         "are left out (max_seconds)")
            break
        for train_cuts in sorted({min(window, known[number]) for window in windows}):
            train = pd.concat([by_cut[one] for one in cuts[known[number] - train_cuts:known[number]]],
                              ignore_index=True)
            before = time.process_time()
            scorer = fit(train)
            seconds[Model(number, train_cuts)] = time.process_time() - before
            scores[Model(number, train_cuts)] = tuple(scorer(by_cut[one]) for one in origins[number:])
        progress(f"study {number + 1} of {len(origins)}: models of {cut:%Y-%m-%d} trained and seen to "
                 f"{origins[-1]:%Y-%m-%d}")
    kept = slice(0, reached)
    return History(
        tuple(origins[kept]), tuple(months_between(origins[0], cut) for cut in origins[kept]), known[kept],
        tuple(labels[start:][kept]), tuple(by_cut[cut][contract.entity_key].to_numpy() for cut in origins[kept]),
        tuple(_weights(by_cut[cut]) for cut in origins[kept]),
        {model: answers[: reached - model.origin] for model, answers in scores.items()}, seconds, cut_short,
    )


def _weights(rows: pd.DataFrame) -> np.ndarray:
    weights = row_weights(rows)
    return np.ones(len(rows)) if weights is None else weights


def months_between(first: datetime, second: datetime) -> int:
    """Calendar months from one first of a month to another."""
    return (second.year - first.year) * 12 + second.month - first.month


@dataclass(frozen=True)
class Draws:
    """AUC and money of models at cuts, shape (1 + resamples,): of all rows first, then of each resample."""

    auc: Mapping[tuple[Model, int], np.ndarray]
    value: Mapping[tuple[Model, int], np.ndarray]


def draw(history: History, wanted: Sequence[tuple[Model, int]], value: Value, *, resamples: int,
         random_state: int) -> Draws:
    """Score every pair of model and cut in every resample of customers: the same customers for all of them.

    Args:
        wanted: models and the number of the cut each is judged at.
    """
    ends = np.cumsum([len(y) for y in history.y])
    spans = [slice(end - len(y), end) for end, y in zip(ends, history.y, strict=True)]
    prepared = [(model, cut, Ranked.of(history.score(model, cut)),
                 rank(history.score(model, cut), history.entities[cut])) for model, cut in dict.fromkeys(wanted)]
    found: tuple[dict[tuple[Model, int], list[float]], ...] = ({}, {})
    counts = np.concatenate(history.weights)
    drawn = customer_weights(np.concatenate(history.entities), resamples=resamples, random_state=random_state)
    for weight in chain([counts], (counts * one for one in drawn)):
        for model, cut, ranked, order in prepared:
            own, y = weight[spans[cut]], history.y[cut]
            found[0].setdefault((model, cut), []).append(ranked.auc(y, own))
            found[1].setdefault((model, cut), []).append(realised_value(y, order, value, own))
    return Draws(*({key: np.array(one) for key, one in part.items()} for part in found))
