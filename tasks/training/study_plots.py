"""Pictures of the study. Reads what it found; writes nothing: it returns figures, or one as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.evaluation.bootstrap import Interval
from models.study.groups import Step
from models.study.retraining_policy import Age, Earned
from tasks.figures import new_axes
from tasks.training.plots import BASELINE, GREY, MODEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_ages(ages: Sequence[Age]) -> Figure:
    """What a frozen model loses against a fresh one, in AUC and money, by its age."""
    figure, axes = new_axes("A frozen model against a fresh one", "the same rows; bands: intervals over customers",
                            "months since it was trained", "AUC lost", size=(7.4, 4.2))
    months = [age.months for age in ages]
    _band(axes, months, [age.auc_lost for age in ages], MODEL, "AUC lost (left)")
    axes.axhline(0, color=GREY, linewidth=0.8)
    money = axes.twinx()
    _band(money, months, [age.value_lost for age in ages], BASELINE, "money lost a month (right)")
    money.set_ylabel("money lost a month")
    money.spines["top"].set_visible(False)
    _align_zero(axes, money)
    handles = [*axes.get_lines()[:1], *money.get_lines()[:1]]
    axes.legend(handles, [str(one.get_label()) for one in handles], frameon=False, loc="upper left")
    axes.set_xticks(months if len(months) <= 13 else months[::2])
    return figure


def draw_earned(earned: Sequence[Earned], recommended: str) -> Figure:
    """How far each policy stays behind the best."""
    figure, axes = new_axes("Behind the best policy", "after the cost of retraining; intervals over customers",
                            "money a month", "", size=(7.4, 0.9 + 0.42 * len(earned)))
    for place, one in enumerate(reversed(earned)):
        chosen = one.policy.text == recommended
        colour = BASELINE if chosen else GREY if one.surely_worse else MODEL
        axes.plot([one.behind.low, one.behind.high], [place, place], color=colour, linewidth=3, alpha=0.5)
        axes.plot(one.behind.value, place, "o", color=colour, markersize=8 if chosen else 6)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(earned)), [
        f"{one.policy.text}{' (recommended)' if one.policy.text == recommended else ''}" for one in reversed(earned)])
    axes.grid(visible=False, axis="y")
    return figure


def draw_groups(steps: Sequence[Step]) -> Figure:
    """AUC group by group; the first group stands by itself."""
    figure, axes = new_axes("AUC as groups are added", "bars: interval of what the group adds", "", "AUC",
                            size=(7.4, 4.0))
    places = range(len(steps))
    axes.plot(places, [step.auc for step in steps], color=MODEL, linewidth=2, marker="o")
    for place, step in zip(places, steps, strict=True):
        if place:
            before = step.auc - step.auc_added.value
            axes.plot([place, place], [before + step.auc_added.low, before + step.auc_added.high],
                      color=MODEL if step.adds else GREY, linewidth=5, alpha=0.35, solid_capstyle="butt")
    axes.set_xticks(places, [f"+ {step.group}" if place else step.group for place, step in enumerate(steps)])
    axes.margins(x=0.08)
    return figure


def _band(axes: Axes, months: Sequence[int], intervals: Sequence[Interval], colour: str, label: str) -> None:
    axes.fill_between(months, [one.low for one in intervals], [one.high for one in intervals], color=colour, alpha=0.18,
                      linewidth=0)
    axes.plot(months, [one.value for one in intervals], color=colour, linewidth=2, marker="o", markersize=4,
              label=label)


def _align_zero(left: Axes, right: Axes) -> None:
    """Zero at one height on both sides, so that two scales do not pretend a difference."""
    ends = np.array([left.get_ylim(), right.get_ylim()], dtype=float)
    share = max(float(-low / max(high, -low, 1e-12)) if low < 0 else 0.0 for low, high in ends)
    share = min(max(share, 0.05), 4.0)
    for axes, (low, high) in zip((left, right), ends, strict=True):
        top = max(high, -low / share, 1e-12)
        axes.set_ylim(-share * top, top)


def png(figure: Figure) -> bytes:
    """A figure's bytes, to stand in a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
