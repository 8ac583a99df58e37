"""The floors of the promotion gate: what a candidate must hold whatever it earns.

Each floor answers None, or in words why it does not hold; what is missing, too little or no number does not
hold. A loss or a gap that chance alone explains is none: with twenty segments, one always looks bad.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist, median
from typing import Any, Final

import numpy as np
import pandas as pd

from models.charter import Value
from models.contract import Contract
from models.evaluation.calibration import calibration_line, log_odds
from models.evaluation.delong import auc_gain
from models.evaluation.metrics import rank
from models.limits import PromotionGate
from models.serving.scorer import predict

Evidence = dict[str, float | int | str | None]
TIMED_ROWS: Final = 1000  # a batch the API takes
TIMES: Final = 7


@dataclass(frozen=True)
class HeldOut:
    """The rows the gate judges on, and what each model says of them; every array has the shape (n,)."""

    y: np.ndarray
    candidate: np.ndarray
    champion: np.ndarray | None
    entities: np.ndarray
    weight: np.ndarray | None = None  # what a row counts, where contacted ones are left out
    segments: Mapping[str, np.ndarray] = field(default_factory=dict)  # column -> level of each row
    protected: Mapping[str, np.ndarray] = field(default_factory=dict)
    scoring_ms: float | None = None  # a row

    @property
    def weights(self) -> np.ndarray:
        return np.ones(len(self.y)) if self.weight is None else self.weight


def first_fault(
    rows: HeldOut, limits: PromotionGate, value: Value, *, segments: tuple[str, ...], protected: tuple[str, ...]
) -> tuple[str | None, Evidence]:
    """The first floor that does not hold, in words, and what all of them saw.

    Args:
        segments: columns whose levels must have been handed over; `protected` likewise.
    """
    found = [
        _calibration(rows, limits),
        _segments(rows, limits, segments),
        _protected(rows, limits, value, protected),
        _scoring(rows, limits),
    ]
    evidence: Evidence = {name: seen for _, part in found for name, seen in part.items()}
    return next((fault for fault, _ in found if fault is not None), None), evidence


def scoring_ms(pipeline: Any, rows: pd.DataFrame, contract: Contract) -> float:
    """CPU milliseconds a row: the median of repeated predictions of up to `TIMED_ROWS` rows, in this process.

    By the clock, a busy machine would keep a good model out.
    """
    batch = rows.head(TIMED_ROWS)
    predict(pipeline, batch, contract)
    taken = []
    for _ in range(TIMES):
        begun = time.process_time()
        predict(pipeline, batch, contract)
        taken.append(time.process_time() - begun)
    return median(taken) * 1000 / len(batch)


def _calibration(rows: HeldOut, limits: PromotionGate) -> tuple[str | None, Evidence]:
    intercepts, slopes = calibration_line(rows.y, log_odds(rows.candidate), rows.weights[None, :])
    slope, intercept = float(slopes[0]), float(intercepts[0])
    least, most = limits.calibration_slope
    fault = None if least <= slope <= most else f"calibration slope {slope:.2f} is not between {least:g} and {most:g}"
    return fault, {"calibration_slope": slope, "calibration_intercept": intercept}


def _segments(rows: HeldOut, limits: PromotionGate, needed: tuple[str, ...]) -> tuple[str | None, Evidence]:
    """Against the champion: AUC lost in any level. Without one: AUC of any level below the floor."""
    judged: list[tuple[float, float, str]] = []  # short of the floor by, standard error, name
    small = 0
    for column in needed:
        levels = rows.segments.get(column)
        if levels is None or len(levels) != len(rows.y):
            return f"the test rows say no levels of the segment column {column}", {}
        before = len(judged)
        for level, here in _levels(levels):
            if not _enough(rows.y[here], limits):
                small += 1
                continue
            other = None if rows.champion is None else rows.champion[here]
            gain, error = auc_gain(rows.y[here], rows.candidate[here], other, rows.entities[here], rows.weights[here])
            floor = limits.least_segment_auc if other is None else 0.0
            judged.append((floor - gain, error, f"{column} {level}"))
        if len(judged) == before:
            return (f"no level of the segment column {column} has {limits.least_segment_rows:,} rows with "
                    f"{limits.least_segment_churners:,} churners and as many who stayed"), {}
    if not judged:
        return None, {}
    chance = _chance(limits, len(judged))
    allowed = 0.0 if rows.champion is None else limits.max_segment_loss
    worst, _, name = max(judged, key=lambda one: np.inf if np.isnan(one[0]) else one[0])
    seen = limits.least_segment_auc - worst if rows.champion is None else worst
    key = "worst_segment_auc" if rows.champion is None else "worst_segment_loss"
    evidence: Evidence = {"worst_segment": name, key: seen, "segments_judged": len(judged), "segments_too_small": small}
    for short, error, name in sorted(judged, reverse=True):
        if short <= allowed or short <= chance * error:
            continue
        if rows.champion is None:
            floor = limits.least_segment_auc
            return f"AUC {floor - short:.3f} in the segment {name} is below the floor of {floor:.3f}", evidence
        return (f"AUC {short:.3f} less than the champion's in the segment {name}, at most "
                f"{limits.max_segment_loss:.3f} may be lost"), evidence
    return None, evidence


def _protected(
    rows: HeldOut, limits: PromotionGate, value: Value, needed: tuple[str, ...]
) -> tuple[str | None, Evidence]:
    """Who would be contacted, and which churners found, between the levels of each protected column."""
    fault, evidence = None, Evidence()
    taken = _taken(rows, value)
    for column in needed:
        levels = rows.protected.get(column)
        if levels is None or len(levels) != len(rows.y):
            fault = fault or f"the test rows say no levels of the protected column {column}"
            continue
        groups = _levels(levels)
        contacted = {level: Share.of(taken[here], rows.weights[here]) for level, here in groups
                     if here.sum() >= limits.least_segment_rows}
        found = {level: Share.of((taken * rows.y)[here], (rows.weights * rows.y)[here]) for level, here in groups
                 if _enough(rows.y[here], limits)}
        for what, name, shares, limit in (
            ("contacted", "contact", contacted, limits.max_contact_gap),
            ("of churners found", "found", found, limits.max_found_gap),
        ):
            if len(shares) < min(2, len(groups)):
                fault = fault or (f"too few rows to compare the levels of the protected column {column}: "
                                  f"{len(shares)} of {len(groups)} have {limits.least_segment_rows:,} rows with "
                                  f"{limits.least_segment_churners:,} churners and as many who stayed")
                continue
            low, high = min(shares, key=lambda one: shares[one].value), max(shares, key=lambda one: shares[one].value)
            gap = shares[high].value - shares[low].value
            pairs = max(len(shares) * (len(shares) - 1) // 2, 1)
            evidence[f"{name}_gap.{column}"] = gap
            evidence[f"{name}_too_small.{column}"] = len(groups) - len(shares)
            if not (gap <= limit or gap <= _chance(limits, pairs) * shares[high].error_to(shares[low])):
                fault = fault or (f"{what}: {shares[high].value:.0%} of {column} {high} but {shares[low].value:.0%} of "
                                  f"{low}, at most {limit:.0%} apart")
    return fault, evidence


@dataclass(frozen=True)
class Share:
    """A weighted share, and of how many rows of equal weight it is as sure."""

    value: float
    rows: float

    @staticmethod
    def of(part: np.ndarray, weight: np.ndarray) -> Share:
        """`part` of each row's `weight`; the number of rows is Kish's (Survey Sampling, 1965)."""
        return Share(float(part.sum() / weight.sum()), float(weight.sum() ** 2 / (weight**2).sum()))

    def error_to(self, other: Share) -> float:
        """Standard error of the difference; with a success and a failure more each (Agresti & Caffo, 2000), for of
        none found in twenty it would be zero.
        """
        squares = 0.0
        for one in (self, other):
            share = (one.value * one.rows + 1) / (one.rows + 2)
            squares += share * (1 - share) / (one.rows + 2)
        return float(np.sqrt(squares))


def _chance(limits: PromotionGate, looks: int) -> float:
    """Standard errors that chance alone exceeds in none of so many looks, at the charter's confidence (Bonferroni)."""
    return NormalDist().inv_cdf(1 - (1 - limits.confidence) / looks)


def _scoring(rows: HeldOut, limits: PromotionGate) -> tuple[str | None, Evidence]:
    seen: Evidence = {"scoring_ms": rows.scoring_ms}
    if rows.scoring_ms is None:
        return "the time to score a row was not measured", seen
    if not rows.scoring_ms <= limits.max_scoring_ms:
        return f"scoring takes {rows.scoring_ms:.3f} ms of CPU a row, at most {limits.max_scoring_ms:g} may it", seen
    return None, seen


def _taken(rows: HeldOut, value: Value) -> np.ndarray:
    """What part of each row's weight the contact budget has room for, by the candidate's ranking, shape (n,)."""
    order, taken = rank(rows.candidate, rows.entities), np.zeros(len(rows.y))
    ordered = rows.weights[order]
    taken[order] = np.clip(value.contact_budget - (np.cumsum(ordered) - ordered), 0, ordered)
    return taken


def _levels(levels: np.ndarray) -> list[tuple[Any, np.ndarray]]:
    named = np.asarray(levels).astype(str)
    return [(level, named == level) for level in np.unique(named)]


def _enough(y: np.ndarray, limits: PromotionGate) -> bool:
    churned = int(y.sum())
    return len(y) >= limits.least_segment_rows and min(churned, len(y) - churned) >= limits.least_segment_churners
