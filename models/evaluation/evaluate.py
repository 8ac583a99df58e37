"""Every score of one model on held-out rows, with its interval over customers; the same for each segment.

The rows are ordered once; each resample is a set of weights of the ordered rows, and many of them are worked through
at a time as one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd

from models.charter import Value
from models.evaluation.bootstrap import Interval, customer_weights
from models.evaluation.calibration import calibration_bins, calibration_line, log_losses, log_odds, squared_errors
from models.evaluation.curves import GRID, banded, gain_draws, profit_marks, roc_draws
from models.evaluation.inputs import refuse_unusable
from models.evaluation.ranks import (
    auc_of_runs,
    average_precision_of_runs,
    money,
    rank,
    run_sums,
    taken_by_budget,
    tie_starts,
)
from models.evaluation.result import SCORES, Curve, Evaluation, Segment
from models.evaluation.segments import ordered_levels

CELLS: Final = 200_000  # resamples x rows worked through at a time: what stays in a processor's cache
NO_SEGMENTS: Final[Mapping[str, np.ndarray]] = MappingProxyType({})


def evaluate_scores(
    y: np.ndarray,
    probability: np.ndarray,
    entities: np.ndarray,
    *,
    value: Value,
    segments: Mapping[str, np.ndarray] = NO_SEGMENTS,
    weight: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 200,
    random_state: int,
) -> Evaluation:
    """Scores, curves and segments of one model on held-out rows of one cut.

    Args:
        y: 1 where the customer churned, shape (n,); `probability` of it; `entities`: whose row it is.
        segments: column -> level of each row (see `models.evaluation.segments.segment_levels`).
        weight: how many customers a row stands for; the contact budget counts with it. None: one each.
        resamples: of the bootstrap over customers.

    Raises:
        DataError: no rows, one class only, probabilities that are none or all equal, or arrays of different length.
    """
    y, probability = np.asarray(y, dtype=float), np.asarray(probability, dtype=float)
    weight = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=float)
    refuse_unusable(y, probability, weight, {"entities": entities, **segments})
    order = rank(probability, entities)
    y, probability, weight = y[order], probability[order], weight[order]
    whole = _Rows.of(y, probability, slice(None))
    parts = {
        (column, level): _Rows.of(y, probability, where)
        for column, levels in segments.items() for level, where in _places(np.asarray(levels)[order]).items()
    }
    bins = calibration_bins(probability)
    seen = _pass(weight[None], whole, parts, bins, value, lines={})
    lines = {key: (float(scores["calibration_intercept"][0]), float(scores["calibration_slope"][0]))
             for key, scores in seen.scores.items()}
    draws = _Draws.joined([
        _pass(chunk * weight, whole, parts, bins, value, lines=lines)
        for chunk in _chunks(customer_weights(np.asarray(entities)[order], resamples=resamples,
                                              random_state=random_state), len(y))
    ])
    scores = {
        key: {name: Interval.of(float(found[name][0]), draws.scores[key][name], confidence=confidence)
              for name in SCORES}
        for key, found in seen.scores.items()
    }
    contacted = min(float(value.contact_budget), float(weight.sum()))
    return Evaluation(
        rows=len(y), churners=int(y.sum()), contacted=round(contacted), confidence=confidence,
        scores=scores[None],
        curves=_curves(seen, draws, y, probability, weight, bins, value, confidence),
        segments={
            column: tuple(
                Segment(column, level, len(rows.y), int(rows.y.sum()), float(seen.contacted[column, level][0]),
                        scores[column, level])
                for (of, level), rows in parts.items() if of == column
            )
            for column in segments
        },
    )


@dataclass(frozen=True)
class _Rows:
    """Some of the ordered rows, with what no set of weights changes."""

    where: Any  # their places among the ordered rows
    y: np.ndarray
    starts: np.ndarray
    log_odds: np.ndarray
    losses: np.ndarray  # (n, 2): what each row adds to Brier score and log loss

    @staticmethod
    def of(y: np.ndarray, probability: np.ndarray, where: Any) -> _Rows:
        y, probability = y[where], probability[where]
        losses = np.stack([squared_errors(y, probability), log_losses(y, probability)], axis=1)
        return _Rows(where, y, tie_starts(probability), log_odds(probability), losses)

    def scores(
        self, weight: np.ndarray, taken: np.ndarray, value: Value, line: tuple[float, float] | None
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Each of `SCORES`, shape (m,), and the weight of churners and stayers by run of ties, (m, runs)."""
        churned = weight * self.y
        positive, negative = run_sums(churned, self.starts), run_sums(weight - churned, self.starts)
        churners, total = positive.sum(axis=1), weight.sum(axis=1)
        found, contacted = taken @ self.y, taken.sum(axis=1)
        share, losses = _over(found, churners), weight @ self.losses
        if line is None:
            intercept, slope = calibration_line(self.y, self.log_odds, weight)
        else:
            intercept, slope = calibration_line(self.y, self.log_odds, weight, start=line, tolerance=1e-3)
        return {
            "auc": auc_of_runs(positive, negative),
            "average_precision": average_precision_of_runs(positive, negative),
            "brier": _over(losses[:, 0], total),
            "log_loss": _over(losses[:, 1], total),
            "calibration_slope": slope,
            "calibration_intercept": intercept,
            "lift": _over(_over(found, contacted), _over(churners, total)),
            "churners_found": share,
            "value": np.asarray(money(found, contacted, value)),
        }, positive, negative


@dataclass(frozen=True)
class _Draws:
    """What one pass, or all of them, found for each set of weights; `None` stands for all rows."""

    scores: Mapping[Any, Mapping[str, np.ndarray]]
    contacted: Mapping[Any, np.ndarray]
    roc: np.ndarray
    gain: np.ndarray
    profit: np.ndarray
    calibration: np.ndarray  # share that churned in each bin

    @staticmethod
    def joined(passes: list[_Draws]) -> _Draws:
        def join(name: str) -> np.ndarray:
            return np.concatenate([getattr(one, name) for one in passes])

        return _Draws(
            {key: {name: np.concatenate([one.scores[key][name] for one in passes]) for name in SCORES}
             for key in passes[0].scores},
            {}, join("roc"), join("gain"), join("profit"), join("calibration"),
        )


def _pass(
    weight: np.ndarray, whole: _Rows, parts: Mapping[tuple[str, str], _Rows], bins: np.ndarray, value: Value, *,
    lines: Mapping[Any, tuple[float, float]],
) -> _Draws:
    """All scores and curves for each set of weights of the ordered rows, shape (m, n)."""
    taken = taken_by_budget(weight, value.contact_budget)
    found, positive, negative = whole.scores(weight, taken, value, lines.get(None))
    scores: dict[Any, dict[str, np.ndarray]] = {None: found}
    contacted: dict[Any, np.ndarray] = {}
    for key, rows in parts.items():
        theirs = taken.take(rows.where, axis=1)  # in rows, where an index gives columns that are slow to sum
        scores[key], _, _ = rows.scores(weight.take(rows.where, axis=1), theirs, value, lines.get(key))
        contacted[key] = theirs.sum(axis=1)
    churned = weight * whole.y
    gain = gain_draws(weight, churned)
    profit = money(gain * churned.sum(axis=1, keepdims=True), GRID * weight.sum(axis=1, keepdims=True), value)
    observed = _over(np.add.reduceat(churned, bins, axis=1), np.add.reduceat(weight, bins, axis=1))
    return _Draws(scores, contacted, roc_draws(positive, negative), gain, profit, observed)


def _curves(
    seen: _Draws, draws: _Draws, y: np.ndarray, probability: np.ndarray, weight: np.ndarray, bins: np.ndarray,
    value: Value, confidence: float,
) -> dict[str, Curve]:
    marks = profit_marks(weight, weight * y, value)
    said = np.add.reduceat(weight * probability, bins) / np.maximum(np.add.reduceat(weight, bins), 1e-300)
    total = float(weight.sum())
    return {
        "roc": banded(GRID, seen.roc[0], draws.roc, confidence=confidence),
        "calibration": banded(said, seen.calibration[0], draws.calibration, confidence=confidence),
        "gain": banded(GRID, seen.gain[0], draws.gain, confidence=confidence,
                       marks={"budget": marks["budget"] / total}),
        "profit": banded(GRID * total, seen.profit[0], draws.profit, confidence=confidence, marks=marks),
    }


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0))


def _places(levels: np.ndarray) -> dict[str, np.ndarray]:
    """Where each level stands, in the order in which levels are shown."""
    codes, known = pd.factorize(levels.astype(str).astype(object))
    number = {level: code for code, level in enumerate(known)}
    return {level: np.flatnonzero(codes == number[level]) for level in ordered_levels(known)}


def _chunks(weights: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    while chunk := list(islice(weights, max(1, CELLS // rows))):
        yield np.stack(chunk)
