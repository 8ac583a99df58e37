"""Pictures of an evaluation. Reads an `Evaluation`; writes nothing: it returns figures."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.evaluation.result import Curve, Evaluation, Segment
from tasks.figures import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODEL: Final = "#0072b2"  # told apart by everyone (Okabe and Ito)
BASELINE: Final = "#e69f00"
GREY: Final = "#8a8a8a"
MOST_SEGMENTS: Final = 40  # drawn: the worst of more


def draw_evaluation(
    evaluation: Evaluation, *, baseline: Mapping[str, Curve] | None = None, baseline_name: str = "best single column",
) -> dict[str, Figure]:
    """Figures by name: roc, calibration, gain, profit and, where there are segments, segments.

    Args:
        baseline: curves drawn beside the model's (`models.evaluation.curves.ranking_curves`, or another's).
    """
    beside = dict(baseline or {})
    drawn = {
        "roc": _roc(evaluation, beside.get("roc"), baseline_name),
        "calibration": _calibration(evaluation),
        "gain": _gain(evaluation, beside.get("gain"), baseline_name),
        "profit": _profit(evaluation, beside.get("profit"), baseline_name),
    }
    if any(evaluation.all_segments()):
        drawn["segments"] = _segments(evaluation)
    return drawn


def _line(axes: Axes, curve: Curve, label: str, colour: str = MODEL, **style: Any) -> None:
    if np.isfinite(curve.low).any():
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(curve.x, curve.y, color=colour, linewidth=2, label=label, **style)


def _number(evaluation: Evaluation, name: str, digits: int = 3) -> str:
    one = evaluation.scores[name]
    return f"{one.value:,.{digits}f} [{one.low:,.{digits}f}, {one.high:,.{digits}f}]"


def _roc(evaluation: Evaluation, beside: Curve | None, name: str) -> Figure:
    figure, axes = new_axes("ROC curve", f"AUC {_number(evaluation, 'auc')}, {evaluation.rows:,} rows",
                            "share of those who stayed", "share of churners found")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="by chance")
    if beside is not None:
        _line(axes, beside, name, BASELINE)
    _line(axes, evaluation.curves["roc"], "model")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.set_aspect("equal")
    axes.legend(loc="lower right", frameon=False)
    return figure


def _calibration(evaluation: Evaluation) -> Figure:
    curve = evaluation.curves["calibration"]
    figure, axes = new_axes("Calibration", f"slope {_number(evaluation, 'calibration_slope', 2)}, intercept "
                            f"{_number(evaluation, 'calibration_intercept', 2)}, Brier "
                            f"{evaluation.scores['brier'].value:.3f}",
                            "probability said (mean of each tenth of the rows)", "share that churned")
    top = 1.08 * float(np.nanmax(np.r_[curve.x, curve.high, curve.y, 0.05]))
    axes.plot([0, top], [0, top], color=GREY, linestyle="--", linewidth=1, label="said is what happens")
    known = np.isfinite(curve.low)
    axes.vlines(curve.x[known], curve.low[known], curve.high[known], color=MODEL, alpha=0.45, linewidth=3)
    axes.plot(curve.x, curve.y, color=MODEL, marker="o", markersize=5, linewidth=1.2, label="model")
    axes.set(xlim=(0, min(top, 1.01)), ylim=(0, min(top, 1.01)))
    axes.set_aspect("equal")
    axes.legend(loc="upper left", frameon=False)
    return figure


def _gain(evaluation: Evaluation, beside: Curve | None, name: str) -> Figure:
    curve, budget = evaluation.curves["gain"], evaluation.curves["gain"].marks["budget"]
    figure, axes = new_axes("Gain", f"the {evaluation.contacted:,} customers of the budget hold "
                            f"{evaluation.scores['churners_found'].value:.0%} of the churners: lift "
                            f"{_number(evaluation, 'lift', 2)}",
                            "share of customers contacted, highest score first", "share of churners found")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="by chance")
    rate = evaluation.churners / evaluation.rows
    axes.plot([0, rate, 1], [0, 1, 1], color=GREY, linestyle=":", linewidth=1, label="all known beforehand")
    if beside is not None:
        _line(axes, beside, name, BASELINE)
    _line(axes, curve, "model")
    _mark_budget(axes, budget, curve)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="lower right", frameon=False)
    return figure


def _profit(evaluation: Evaluation, beside: Curve | None, name: str) -> Figure:
    from matplotlib.ticker import StrMethodFormatter

    curve = evaluation.curves["profit"]
    marks = curve.marks
    figure, axes = new_axes("Profit by contact depth", f"at the budget {_number(evaluation, 'value', 0)} a cut; most, "
                            f"{marks['best_value']:,.0f}, at {marks['best_depth']:,.0f} (seen afterwards)",
                            "customers contacted, highest score first", "money a cut", size=(7.6, 4.8))
    axes.axhline(0, color="#444444", linewidth=0.8)
    if beside is not None:
        _line(axes, beside, name, BASELINE)
    _line(axes, curve, "model")
    _mark_budget(axes, marks["budget"], curve)
    axes.plot(marks["best_depth"], marks["best_value"], marker="D", color="#009e73", linestyle="none", markersize=7,
              label="best depth")
    axes.set_xlim(0, float(curve.x[-1]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(loc="best", frameon=False, fontsize=9)
    return figure


def _mark_budget(axes: Axes, place: float, curve: Curve) -> None:
    axes.axvline(place, color="#333333", linestyle=":", linewidth=1.3, label="contact budget")
    axes.plot(place, float(np.interp(place, curve.x, curve.y)), marker="o", color="#333333", markersize=6)


def _segments(evaluation: Evaluation) -> Figure:
    """AUC of each segment with its interval, by column; those too small to say anything are grey and hollow."""
    shown = list(evaluation.all_segments())
    dropped = len(shown) - MOST_SEGMENTS
    if dropped > 0:
        kept = sorted(shown, key=lambda one: (bool(one.silent), one.scores["auc"].value))[:MOST_SEGMENTS]
        shown = [one for one in shown if one in kept]
    worst = evaluation.worst
    told = "no segment has enough rows to say" if worst is None else f"worst: {worst}"
    figure, axes = new_axes("AUC by segment", told + (f"; {dropped} better ones not drawn" if dropped > 0 else ""),
                            f"AUC, {evaluation.confidence:.0%} interval", "", size=(8.2, 1.6 + 0.27 * len(shown)))
    whole = evaluation.scores["auc"]
    axes.axvspan(whole.low, whole.high, color=MODEL, alpha=0.12, linewidth=0)
    axes.axvline(whole.value, color=MODEL, linewidth=1, label="all rows")
    gaps = [1.0 if segment.column == before.column else 1.6 for before, segment in pairwise([shown[0], *shown])]
    places = np.cumsum(gaps)
    for place, segment in zip(places, shown, strict=True):
        _segment(axes, place, segment, "#d55e00" if segment == worst else MODEL)
    axes.set_yticks(places, [f"{one.name} ({one.rows:,})" for one in shown], fontsize=8)
    axes.set_ylim(places[-1] + 0.8, places[0] - 0.8)
    ends = [end for one in shown if not one.silent for end in (one.scores["auc"].low, one.scores["auc"].high)]
    least = min([whole.low, *ends], default=0.5)
    axes.set_xlim(max(0.0, min(0.5, least - 0.03)), min(1.0, max([whole.high, *ends]) + 0.03))
    axes.grid(axis="y", visible=False)
    return figure


def _segment(axes: Axes, place: float, segment: Segment, colour: str) -> None:
    auc = segment.scores["auc"]
    if segment.silent:
        axes.annotate(segment.silent, (0.01, place), xycoords=("axes fraction", "data"), fontsize=7, color=GREY,
                      va="center")
        return
    axes.plot([auc.low, auc.high], [place, place], color=colour, linewidth=2.2, alpha=0.6, solid_capstyle="round")
    axes.plot(auc.value, place, marker="o", color=colour, markersize=5)
