"""A cohort: all customers who were scored with the features of one cut, and how well, once their labels are mature.

Contacted customers are not among those who are judged: a contact changes the outcome. Those alike who were left
alone count for them (`models.training.contacts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np

from models.charter import Value
from models.errors import DataError
from models.evaluation.bootstrap import Interval
from models.evaluation.evaluate import NO_SEGMENTS, evaluate_scores
from models.evaluation.result import Evaluation, Segment

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 200


@dataclass(frozen=True)
class Part:
    """Some customers of a cohort whose labels are mature; rates are weighted like the scores.

    Attributes:
        rows: customers.
        evaluation: scores with intervals; None where they cannot be taken, and then `fault` says why, or where
            they are not wanted: of contacted customers.
    """

    name: str
    rows: int
    churn_rate: float
    mean_probability: float
    evaluation: Evaluation | None = None
    fault: str | None = None

    def score(self, name: str) -> Interval:
        """A score with its interval; NaN where there is none."""
        if self.evaluation is None:
            return Interval(math.nan, math.nan, math.nan)
        return self.evaluation.scores[name]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `from_dict` reads it back."""
        churn_rate, mean_probability = (value if math.isfinite(value) else None
                                        for value in (self.churn_rate, self.mean_probability))
        return {"name": self.name, "rows": self.rows, "churn_rate": churn_rate, "mean_probability": mean_probability,
                "fault": self.fault,
                "evaluation": None if self.evaluation is None else self.evaluation.to_dict()}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Part:
        found = raw["evaluation"]
        churn_rate, mean_probability = (math.nan if raw[name] is None else float(raw[name])
                                        for name in ("churn_rate", "mean_probability"))
        evaluation = None if found is None else Evaluation.from_dict(found)
        return Part(raw["name"], raw["rows"], churn_rate, mean_probability, evaluation, raw["fault"])


@dataclass(frozen=True)
class Measured:
    """What the mature labels of a cohort say: of all who count, by release, of the hold-out, of the contacted."""

    whole: Part
    releases: tuple[Part, ...] = ()
    holdout: Part | None = None
    contacted: Part | None = None
    no_segments: str | None = None  # why there are none

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `from_dict` reads it back."""
        return {"whole": self.whole.to_dict(), "releases": [one.to_dict() for one in self.releases],
                "holdout": self.holdout and self.holdout.to_dict(),
                "contacted": self.contacted and self.contacted.to_dict(), "no_segments": self.no_segments}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Measured:
        holdout, contacted = (Part.from_dict(raw[name]) if raw[name] else None for name in ("holdout", "contacted"))
        return Measured(Part.from_dict(raw["whole"]), tuple(map(Part.from_dict, raw["releases"])), holdout, contacted,
                        raw["no_segments"])


@dataclass(frozen=True)
class Cohort:
    """One cohort, and what is known of it.

    Attributes:
        cut: the date of the features; UTC.
        mature_at: from then on its labels may be read.
        served: of its `rows`, those a client got an answer for; the others stood in the batch.
        labelled: rows with a label; 0 before the cohort is mature.
        churners: of those, how many churned.
        contacted: rows that somebody contacted within the label window.
        measured: None before enough labels are there; then `fault` says what is missing, where something is.
    """

    cut: datetime
    mature_at: datetime
    rows: int
    served: int
    labelled: int = 0
    churners: int = 0
    contacted: int = 0
    releases: tuple[str, ...] = ()
    measured: Measured | None = None
    fault: str | None = None

    @property
    def coverage(self) -> float:
        """Share of the customers with a label."""
        return self.labelled / self.rows if self.rows else 0.0

    @property
    def counted(self) -> int:
        """Customers the scores are of."""
        return 0 if self.measured is None else self.measured.whole.rows


def measure_part(
    name: str, y: np.ndarray, probability: np.ndarray, entities: np.ndarray, weight: np.ndarray, *, value: Value,
    segments: Mapping[str, np.ndarray] = NO_SEGMENTS,
) -> Part:
    """Scores of some rows of one cohort; all arrays have the shape (n,).

    Where no score can be taken (nobody, one class, equal probabilities) the part says why.
    """
    churn_rate, mean_probability = (
        float(np.average(values, weights=weight)) if len(y) and weight.sum() > 0 else math.nan
        for values in (y, probability))
    try:
        found = evaluate_scores(y, probability, entities, value=value, segments=segments, weight=weight,
                                confidence=CONFIDENCE, resamples=RESAMPLES, random_state=0)
    except DataError as error:
        return Part(name, len(y), churn_rate, mean_probability, fault=str(error))
    return Part(name, len(y), churn_rate, mean_probability, found)


def worst_of(evaluation: Evaluation, columns: Sequence[str]) -> Segment | None:
    """The level with the least AUC among those of some columns that have enough rows to say so."""
    known = [one for one in evaluation.all_segments() if one.column in columns and not one.silent]
    return min(known, key=lambda one: one.scores["auc"].value, default=None)
