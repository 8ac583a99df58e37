"""Plots of training that are none of evaluation: what each feature carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tasks.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST: Final = 15  # features shown; more are not read


def draw_importance(importance: Mapping[str, float]) -> Figure:
    """The share of the model's ranking power each feature carries, the strongest on top."""
    from matplotlib.ticker import PercentFormatter

    top = sorted(importance.items(), key=lambda item: item[1])[-MOST:]
    figure = new_figure(6.4, 0.3 * len(top) + 1.6)
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in top], [value for _, value in top], color="#0072b2")
    axes.bar_label(bars, labels=[f"{value:.0%}" for _, value in top], padding=3, fontsize=8)
    axes.set_title("What each feature carries", loc="left", fontsize=12, fontweight="bold", pad=20)
    rest = len(importance) - len(top)
    axes.set_xlabel("share of the ranking power lost when shuffled")
    if rest:
        axes.annotate(f"{rest} more carry less", (0, 1), xycoords="axes fraction", xytext=(0, 6),
                      textcoords="offset points", fontsize=9, color="#444444")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    return figure
