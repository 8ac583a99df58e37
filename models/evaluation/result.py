"""What is known of one model's scores: each with its interval, curves with bands, segments, the worst segment."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from models.evaluation.bootstrap import Interval

SCORES: Final = (
    "auc", "average_precision", "brier", "log_loss", "calibration_slope", "calibration_intercept", "lift",
    "churners_found", "value",
)
LEAST_OF_EACH: Final = 10  # churners and stayers below which a segment's AUC says nothing
WIDEST: Final = 0.25  # an AUC interval wider than this says nothing: it reaches from poor to good
# What MLflow takes in a metric's name, without the slash, which parts groups.
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_. -]+")


@dataclass(frozen=True)
class Curve:
    """A curve and its pointwise band, all of one shape; `marks` are places on the x axis with a name."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    marks: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        arrays = {name: [_finite(one) for one in getattr(self, name)] for name in ("x", "y", "low", "high")}
        return {**arrays, "marks": dict(self.marks)}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Curve:
        x, y, low, high = (np.array(raw[name], dtype=float) for name in ("x", "y", "low", "high"))
        return Curve(x, y, low, high, dict(raw["marks"]))


@dataclass(frozen=True)
class Segment:
    """The scores of the rows of one level of a column, contacted within the budget of all."""

    column: str
    level: str
    rows: int
    churners: int
    contacted: float  # customers of it among the top K of all
    scores: Mapping[str, Interval]

    @property
    def silent(self) -> str:
        """Why its AUC says nothing: in words; empty where it says something."""
        auc, least = self.scores["auc"], min(self.churners, self.rows - self.churners)
        if least < LEAST_OF_EACH:
            return f"too few to say: {self.rows:,} rows with {self.churners:,} churners"
        if not auc.high - auc.low <= WIDEST:
            return f"too few to say: AUC within [{auc.low:.2f}, {auc.high:.2f}] of {self.rows:,} rows"
        return ""

    @property
    def name(self) -> str:
        return f"{self.column}: {self.level}"

    def __str__(self) -> str:
        auc = self.scores["auc"]
        known = f"AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}] of {self.rows:,} rows"
        return f"{self.name}, {self.silent or known}"


@dataclass(frozen=True)
class Evaluation:
    """What held-out rows say about one model. `scores` has a key for each of `SCORES`.

    `value` is the money a cut that the top K of the contact budget really brought; `lift` and `churners_found` are
    of the same customers. `curves`: roc, calibration, gain, profit.
    """

    rows: int
    churners: int
    contacted: int
    confidence: float
    scores: Mapping[str, Interval]
    curves: Mapping[str, Curve]
    segments: Mapping[str, tuple[Segment, ...]]

    @property
    def worst(self) -> Segment | None:
        """The segment with the least AUC among those that have enough rows to say so; None where none has."""
        known = [segment for segment in self.all_segments() if not segment.silent]
        return min(known, key=lambda segment: segment.scores["auc"].value, default=None)

    @property
    def silent_segments(self) -> tuple[Segment, ...]:
        """Those nothing is known of: too few rows, one class, or a wide interval."""
        return tuple(segment for segment in self.all_segments() if segment.silent)

    def all_segments(self) -> Iterator[Segment]:
        for segments in self.segments.values():
            yield from segments

    def as_metrics(self) -> dict[str, float]:
        """Flat, by names that MLflow accepts: each score with its ends, and the AUC of each segment.

        A number that is none is left out.
        """
        found: dict[str, float] = {"rows": self.rows, "churners": self.churners, "contacted": self.contacted}
        for name, score in self.scores.items():
            found |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
        found |= {f"profit_{name}": place for name, place in self.curves["profit"].marks.items()}
        for segment in self.all_segments():
            path = f"segment/{_plain(segment.column)}/{_plain(segment.level)}"
            while f"{path}/auc" in found:  # two levels that differ by a foreign character only
                path += "_"
            found[f"{path}/auc"] = segment.scores["auc"].value
        if self.worst is not None:
            found["worst_segment_auc"] = self.worst.scores["auc"].value
        return {name: float(value) for name, value in found.items() if math.isfinite(value)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: a number that is none becomes null. `from_dict` reads it back."""
        return {
            "rows": self.rows, "churners": self.churners, "contacted": self.contacted, "confidence": self.confidence,
            "scores": _plain_scores(self.scores),
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
            "segments": {
                column: [
                    {"level": one.level, "rows": one.rows, "churners": one.churners,
                     "contacted": _finite(one.contacted), "scores": _plain_scores(one.scores), "silent": one.silent}
                    for one in segments
                ]
                for column, segments in self.segments.items()
            },
            "worst": None if self.worst is None else {"column": self.worst.column, "level": self.worst.level},
        }

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Evaluation:
        """What `to_dict` wrote."""
        return Evaluation(
            raw["rows"], raw["churners"], raw["contacted"], raw["confidence"], _read_scores(raw["scores"]),
            {name: Curve.from_dict(curve) for name, curve in raw["curves"].items()},
            {
                column: tuple(
                    Segment(column, one["level"], one["rows"], one["churners"], _number(one["contacted"]),
                            _read_scores(one["scores"]))
                    for one in segments
                )
                for column, segments in raw["segments"].items()
            },
        )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _plain(text: str) -> str:
    return _FOREIGN.sub("_", text).strip() or "_"


def _plain_scores(scores: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {name: {end: _finite(value) for end, value in asdict(score).items()} for name, score in scores.items()}


def _read_scores(raw: Mapping[str, Mapping[str, float | None]]) -> dict[str, Interval]:
    return {name: Interval(_number(one["value"]), _number(one["low"]), _number(one["high"]))
            for name, one in raw.items()}
