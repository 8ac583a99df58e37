"""Performance by cohort as a picture. Reads what cohorts came to; writes nothing: it returns a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from models.evaluation.cohort import Cohort
from models.gates.performance import Floors
from tasks.figures import new_figure
from tasks.training.plots import BASELINE, GREY, MODEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIMIT: Final = "#d55e00"
LATEST: Final = 24  # cohorts drawn


def draw_cohorts(cohorts: Sequence[Cohort], floors: Floors, *, least_label_coverage: float) -> Figure:
    """AUC and Brier score with their intervals against the floors, what was said beside what happened, and coverage.

    Args:
        cohorts: newest last; those that are waited for, or cannot be judged, are drawn as gaps that say so.
    """

    shown = list(cohorts[-LATEST:])
    figure = new_figure(9.6, 8.6)
    auc, brier, rates, coverage = figure.subplots(4, 1, sharex=True, height_ratios=(3, 2, 2, 1))
    auc.set_title("Performance by date of prediction", loc="left", fontsize=12, fontweight="bold", pad=22)
    auc.annotate("95 % intervals over customers; customers whom nobody contacted, weighted for those who were",
                 (0, 1), xycoords="axes fraction", xytext=(0, 7), textcoords="offset points", fontsize=9,
                 color="#444444")
    _score(auc, shown, "auc", floors.least_auc, "AUC", above=False)
    _score(brier, shown, "brier", floors.max_brier, "Brier score", above=True)
    _rates(rates, shown)
    _coverage(coverage, shown, least_label_coverage)
    step = max(1, -(-len(shown) // 12))
    ticks = list(range(len(shown)))[::step]
    coverage.set_xticks(ticks, [f"{shown[place].cut:%Y-%m-%d}" for place in ticks], rotation=30, ha="right")
    coverage.set_xlabel("cohort (date of the features that were scored)")
    coverage.set_xlim(-0.6, max(len(shown) - 0.4, 0.6))
    for axes in (auc, brier, rates, coverage):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eaeaea", linewidth=0.8)
        axes.set_axisbelow(True)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles, labels, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _score(axes: Axes, cohorts: Sequence[Cohort], name: str, floor: float, label: str, *, above: bool) -> None:
    known = [(place, one.measured.whole.score(name)) for place, one in enumerate(cohorts) if one.measured]
    asked = f"at most {floor:g}" if above else f"at least {floor:g}"
    axes.axhline(floor, color=LIMIT, linestyle="--", linewidth=1.5, label=asked)
    for place, score in known:
        beyond = score.low > floor if above else score.high < floor
        colour = LIMIT if beyond else MODEL
        axes.plot([place, place], [score.low, score.high], color=colour, linewidth=4, alpha=0.35,
                  solid_capstyle="butt")
        axes.plot(place, score.value, "s" if beyond else "o", color=colour, markersize=6)
    axes.plot([place for place, _ in known], [score.value for _, score in known], color=MODEL, linewidth=1.2,
              label=label)
    ends = [end for _, score in known for end in (score.low, score.high) if np.isfinite(end)]
    low, high = min([floor, *ends]), max([floor, *ends])
    margin = 0.12 * (high - low) + 0.005
    axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel(label)
    for place, one in enumerate(cohorts):
        if one.measured is None:
            axes.annotate("not judged" if one.fault else "waits", (place, 0.5), xycoords=("data", "axes fraction"),
                          ha="center", va="center", fontsize=8, color=LIMIT if one.fault else GREY, rotation=90)


def _rates(axes: Axes, cohorts: Sequence[Cohort]) -> None:
    known = [(place, one.measured.whole) for place, one in enumerate(cohorts) if one.measured]
    places = [place for place, _ in known]
    axes.plot(places, [whole.churn_rate for _, whole in known], color="#222222", marker="o", markersize=5,
              linewidth=1.5, label="share that churned")
    axes.plot(places, [whole.mean_probability for _, whole in known], color=BASELINE, marker="^", markersize=5,
              linewidth=1.5, label="mean probability said")
    axes.margins(y=0.2)
    axes.set_ylabel("share")


def _coverage(axes: Axes, cohorts: Sequence[Cohort], least: float) -> None:
    mature = [(place, one.coverage) for place, one in enumerate(cohorts) if one.measured or one.fault]
    axes.bar([place for place, _ in mature], [share for _, share in mature], width=0.5,
             color=[GREY if share >= least else LIMIT for _, share in mature], label="share with a label")
    axes.axhline(least, color=LIMIT, linestyle="--", linewidth=1.5, label=f"at least {least:g}")
    axes.set_ylim(0, 1.08)
    axes.set_ylabel("labels")
