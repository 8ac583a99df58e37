"""Picture of a bake. Reads the judge's pairs and verdict; writes one PNG."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Final

import numpy as np

from models.decision import Decision
from models.gates.bake import PairedLoss, confidence_bounds
from tasks.figures import new_figure
from tasks.training.plots import GREY, MODEL

LIMIT: Final = "#d55e00"
POINTS: Final = 40


def draw_bake(loss: PairedLoss, decision: Decision, to: Path, *, alpha: float, champion: str, previous: str) -> Path:
    """The running mean of the paired loss with its confidence sequence, against the limit; (n,) customers by cut."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    axes.set_title(f"{champion} against {previous}: {decision.verdict}", loc="left", fontsize=12, fontweight="bold",
                   pad=32)
    axes.annotate(textwrap.fill(decision.reason, 105, max_lines=2), (0, 1), xycoords="axes fraction", xytext=(0, 6),
                  textcoords="offset points", fontsize=8, color="#444444")
    limit = float(decision.evidence["max_brier_excess"] or 0)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.axhline(limit, color=LIMIT, linewidth=1.5, linestyle="--", label=f"limit {limit:+g}")
    if loss.customers:
        at = np.unique(np.geomspace(1, loss.customers, POINTS).astype(int))
        mean = np.cumsum(loss.difference)[at - 1] / at
        bounds = np.array([confidence_bounds(PairedLoss(loss.difference[:n], loss.reach[:n]), alpha=alpha) for n in at])
        axes.fill_between(at, bounds[:, 0], bounds[:, 1], color=MODEL, alpha=0.18, linewidth=0,
                          label=f"confidence sequence, each end {1 - alpha:.0%} at every look")
        axes.plot(at, mean, color=MODEL, linewidth=2, label="mean of the customers so far")
        least = 4 * max(limit, float(np.abs(mean[-1])))
        axes.set_ylim(max(bounds[:, 0].min(), -max(least, 8 * limit)), min(bounds[:, 1].max(), max(least, 8 * limit)))
        if loss.customers > 1:
            axes.set_xlim(max(1, min(10, loss.customers - 1)), loss.customers)
    else:
        axes.annotate("no customer with a mature label yet", (0.5, 0.3), xycoords="axes fraction", ha="center",
                      color="#444444")
        axes.set(xticks=[], ylim=(-4 * limit, 4 * limit))
    axes.set(xlabel="customers with mature labels", ylabel="Brier loss, champion minus previous\n(below 0 the "
             "champion is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eaeaea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    to.parent.mkdir(parents=True, exist_ok=True)
    beside = to.with_name(f".{to.stem}.{os.getpid()}.png")
    figure.savefig(beside, dpi=130)
    beside.rename(to)
    return to
