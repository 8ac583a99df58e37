"""The scorecard over time as a picture. Reads scorecards; writes one PNG into the reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.figures import new_figure

from models.gates.quality import DIMENSIONS, Scorecard
from tasks.home import Home

COLOURS = dict(zip(DIMENSIONS, ("#0072b2", "#e69f00", "#009e73", "#cc79a7"), strict=True))  # told apart by everyone
MARKERS = dict(zip(DIMENSIONS, ("o", "s", "^", "D"), strict=True))
LATEST = 60  # loads shown


def draw_quality(home: Home, cards: Sequence[Scorecard]) -> Path | None:
    """Scores by dimension and new rows, load by load; None where no load had anything to judge.

    Each dimension is drawn at its lowest table. A load without new rows leaves a gap in the line.
    """
    shown = [card for card in cards if card.overall is not None][-LATEST:]
    if not shown:
        return None
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    figure = new_figure(10, 5.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    places = range(len(shown))
    few = len(shown) <= 12
    upper.plot(places, [card.overall for card in shown], color="#bbbbbb", linewidth=6, solid_capstyle="round",
               marker="o" if len(shown) == 1 else None, markersize=16, label="overall (the weakest)")
    for dimension in DIMENSIONS:
        upper.plot(places, [_number(card.worst(dimension)) for card in shown], color=COLOURS[dimension],
                   marker=MARKERS[dimension], markersize=6 if few else 3, linewidth=1.3, label=dimension)
    lowest = min(_number(card.overall) for card in shown)
    upper.set_ylim(max(0.0, lowest - 0.15 * (1 - lowest) - 0.002), 1 + 0.1 * (1 - lowest) + 0.0005)
    upper.set_ylabel("share of rows without a fault")
    last = f"last ({shown[-1].as_of:%Y-%m-%d}): {_short(shown[-1].line)}"
    upper.set_title(f"Data quality by load\n{last}", loc="left", fontsize=10)
    upper.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    upper.grid(axis="y", color="#e5e5e5")
    tables = sorted({score.table for card in shown for score in card.scores})
    totals = [sum(score.rows for score in card.scores if score.dimension == DIMENSIONS[0]) for card in shown]
    lower.bar(places, totals, color="#7f7f7f", width=0.15 if len(shown) == 1 else 0.8)
    lower.set_ylabel("new rows")
    if max(totals) > 20 * max(1, min(totals)):  # the first load brings the history: beside it others would vanish
        lower.set_yscale("log")
        lower.set_ylim(bottom=1)
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    lower.yaxis.set_minor_formatter(NullFormatter())
    lower.set_xlabel(f"load (as of); tables: {', '.join(tables)}")
    step = max(1, -(-len(shown) // 12))
    ticks = list(places)[::step]
    lower.set_xticks(ticks, [f"{shown[place].as_of:%Y-%m-%d}" for place in ticks], rotation=30, ha="right")
    lower.set_xlim(-0.6, len(shown) - 0.4)
    home.reports.mkdir(parents=True, exist_ok=True)
    path = home.reports / "quality.png"
    beside = path.with_name(".quality.tmp.png")
    beside.touch(mode=0o600)
    figure.savefig(beside, dpi=110)
    beside.rename(path)
    return path


def _number(score: float | None) -> float:
    return float("nan") if score is None else score


def _short(text: str, limit: int = 110) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
