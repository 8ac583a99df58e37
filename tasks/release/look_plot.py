"""Picture of a rollout. Reads its looks; writes one PNG: e-values over time against the limit, the stages as bands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tasks.release.looks import Look

# Told apart by everyone (Okabe and Ito); the same colour for the same monitor in every picture.
COLOURS: Final = {"failed": "#d55e00", "refused": "#e69f00", "slow": "#0072b2", "skew": "#cc79a7",
                  "sample_ratio": "#009e73", "missing": "#56b4e9"}
NAMES: Final = {"failed": "failed", "refused": "refused (4xx)", "slow": "slow", "skew": "scores apart from batch",
                "sample_ratio": "sample-ratio mismatch", "missing": "not answered by the shadow"}
LOWEST, HIGHEST = 1e-3, 1e6  # worths beyond are drawn at the edge: lost or proven is all that matters there
SHORTEST: Final = 0.1  # minutes on the axis
VERDICT_COLOURS: Final = {"roll back": "#b2182b", "advance": "#1b7837"}


def draw_looks(looks: Sequence[Look], path: Path, *, title: str, shares: Sequence[float]) -> Path:
    """Draw them; a reader finds the old picture or the new one.

    Args:
        shares: the canary's share in each stage.
    """
    figure = new_figure(9.0, 5.2)
    axes = figure.subplots()
    begun = _minutes_before(looks[0])
    minutes = [begun + (one.at - looks[0].at).total_seconds() / 60 for one in looks]
    end = max(minutes[-1] * 1.05, SHORTEST)
    _bands(axes, looks, minutes, shares, end)
    _worths(axes, looks, minutes, end)
    _verdicts(axes, looks, minutes)
    last = looks[-1]
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=34)
    axes.annotate(_wrapped(f"{last.verdict}: {last.reason}"), (0, 1), xycoords="axes fraction", xytext=(0, 6),
                  textcoords="offset points", fontsize=8, color=VERDICT_COLOURS.get(last.verdict, "#444444"))
    axes.set(xlabel="minutes since the first traffic", ylabel="e-value: worth of the bet against a harmless canary",
             yscale="log", ylim=(LOWEST / 2, HIGHEST * 2), xlim=(0, end))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(beside, format="png", dpi=110)
        beside.chmod(0o600)
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _minutes_before(first: Look) -> float:
    """How long a stage had traffic when it was first looked at; 0 where the look does not say."""
    before = first.evidence.get("minutes_in_stage")
    return max(float(before), 0.0) if isinstance(before, float | int) else 0.0


def _bands(
    axes: Axes, looks: Sequence[Look], minutes: Sequence[float], shares: Sequence[float], last: float
) -> None:
    groups = [list(group) for _, group in groupby(range(len(looks)), key=lambda at: (looks[at].state, looks[at].stage))]
    begins = [max(minutes[group[0]] - _minutes_before(looks[group[0]]), 0.0) for group in groups]
    for number, (group, begin, end) in enumerate(zip(groups, begins, [*begins[1:], last], strict=True)):
        axes.axvspan(begin, end, color="#000000", alpha=0.03 if number % 2 else 0.08, linewidth=0)
        one = looks[group[0]]
        share = shares[min(one.stage, len(shares) - 1)]
        axes.annotate("shadow" if one.state == "shadow" else f"{share:.0%}", ((begin + end) / 2, HIGHEST),
                      ha="center", va="center", fontsize=9, color="#444444")


def _worths(axes: Axes, looks: Sequence[Look], minutes: Sequence[float], last: float) -> None:
    """Every bet begins at 1, before the first request: so one look that settles it is a line too."""
    limits = [one.evidence.get("e_limit") for one in looks]
    drawn: Any = [float(limit) if isinstance(limit, float | int) else float("nan") for limit in limits]
    axes.plot([0.0, *minutes, last], [drawn[0], *drawn, drawn[-1]], color="#b2182b", linewidth=1.5,
              linestyle="--", label="limit: roll back")
    for name, colour in COLOURS.items():
        if any(name in one.e_values for one in looks):
            worths = [min(max(one.e_values[name], LOWEST), HIGHEST) if name in one.e_values else float("nan")
                      for one in looks]
            axes.plot([0.0, *minutes], [1.0, *worths], color=colour, linewidth=1.8, label=NAMES[name],
                      marker="o" if len(looks) < 40 else None, markersize=3)


def _verdicts(axes: Axes, looks: Sequence[Look], minutes: Sequence[float]) -> None:
    for one, minute in zip(looks, minutes, strict=True):
        if one.verdict != "hold":
            axes.axvline(minute, color=VERDICT_COLOURS[one.verdict], linewidth=1)
            axes.annotate(one.verdict, (minute, LOWEST), rotation=90, ha="right", va="bottom", fontsize=8,
                          color=VERDICT_COLOURS[one.verdict])


def _wrapped(text: str, width: int = 130) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder=" ..."))
