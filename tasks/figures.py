"""Figures that processes without a screen draw. Reads and writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, *, dpi: int = 100) -> Figure:
    """An empty one; width and height in inches.

    Made without pyplot: figures that nobody closes would pile up in a long process, and pyplot is no thread's own.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # 0.3 s that most commands need not spend
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def new_axes(
    title: str, subtitle: str, x: str, y: str, *, size: tuple[float, float] = (6.4, 5.0)
) -> tuple[Figure, Axes]:
    """A figure of one pair of axes with a grid, two lines above and a name at each axis; size in inches."""
    figure = new_figure(*size)
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=20)
    axes.annotate(subtitle, (0, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", fontsize=9,
                  color="#444444")
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eaeaea", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes
