"""The demo's lines and picture: a month in one line, the sum, value and AUC by month with what happened marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.local.demo_months import Month
from deploy.local.demo_value import MonthValue, totals
from models.gates.drift import PREDICTION
from tasks.data.lake import beside
from tasks.figures import new_figure
from tasks.release.rollouts import RolloutRow
from tasks.state import LedgerRow

QUIET: Final = ("ignore", "nothing")  # of the gate `drift`
HARMLESS: Final = "harmless"
LONGEST: Final = 72  # characters of a reason
MOVED: Final = re.compile(r"moved: [^;]+")
REFUSED: Final = re.compile(r"^cannot accept (\w+) as of [\d-]+: ")
MADE, FIRST, MARK = "#1f77b4", "#b0752c", "#8a8a8a"
RED: Final = "#b03030"


def head() -> str:
    """Above the months."""
    return f"{'month':<9}{'took':>7}  seen | decided | done"


def line(month: Month) -> str:
    """A month in one line: what was seen, decided and done, and how long it took."""
    planted = "".join(f"[{event}] " for event in month.planted)
    return (f"{month.as_of:%Y-%m}  {month.seconds:6.1f} s  {planted}{seen(month)} | {decided(month)} | {done(month)}")


def seen(month: Month) -> str:
    """What the data and the monitor showed."""
    refused = _last(month, "data", "refuse")
    if refused is not None:
        return shortened(REFUSED.sub(r"\1: ", refused.decision.reason))
    check = _last(month, "drift")
    if check is None:
        return "no check"
    moved = [name for name in str(check.decision.evidence.get("mattering_columns") or "").split(",") if name]
    kind = check.decision.evidence.get("kind")
    if check.decision.verdict in QUIET:
        return "quiet"
    if check.decision.verdict == HARMLESS and not moved and kind in (None, "data"):
        return "nothing moved that matters"
    named = [name.replace(PREDICTION, "the score") for name in moved[:4]] + (["..."] if len(moved) > 4 else [])
    if named and kind in (None, "data"):
        told = MOVED.search(check.decision.reason)  # the same names with their numbers
        return shortened(told[0]) if told and len(moved) == 1 else f"moved: {', '.join(named)}"
    return (f"{kind}: " if kind else "") + shortened(check.decision.reason)


def decided(month: Month) -> str:
    """The verdicts that were not a plain yes."""
    words = [f"data: {verdict}" for verdict in month.verdicts("data") if verdict != "accept"]
    words += [_drift(row) for row in [_last(month, "drift")] if row is not None]
    words += [f"{gate}: {verdict}" for gate in ("retrain", "promotion", "bake") for verdict in month.verdicts(gate)
              if verdict not in ("hold", "done")]
    return ", ".join(words) or "nothing"


def _drift(row: LedgerRow) -> str:
    flags, checks = row.decision.evidence.get("flags"), row.decision.evidence.get("checks")
    return f"drift: {row.decision.verdict}" + (f" ({flags} of {checks} checks)" if flags and checks else "")


def done(month: Month) -> str:
    """What was changed."""
    parts: list[str] = []
    if month.trained:
        parts.append("trained" + (f", {month.event_seconds:.0f} s after the event" if month.event_seconds else ""))
    elif month.event_seconds:
        parts.append(f"not trained, {month.event_seconds:.0f} s after the event")
    released = [row for row in month.ledger if row.decision.gate == "release" and row.decision.verdict == "release"]
    if released and not month.rollouts:
        parts.append(f"{version_of(released[-1].subject)} is champion")
    parts += [ending(one) for one in month.rollouts]
    if month.listed_as_of == month.as_of:
        parts.append("listed")
    else:
        parts.append(f"the list of {month.listed_as_of:%Y-%m} stands")
    return "; ".join(parts)


def ending(rollout: RolloutRow) -> str:
    """How a rollout ended."""
    why = f" ({shortened(rollout.reason or '', 70)})" if rollout.state != "champion" else " by canary"
    return f"{version_of(rollout.release_id)} {rollout.state}{why}"


def version_of(release_id: str | None) -> str:
    """`churn:v2-1a2b3c4d` -> `v2`."""
    found = re.search(r":(v\d+)", release_id or "")
    return found[1] if found else str(release_id)


def shortened(text: str, longest: int = LONGEST) -> str:
    """A reason in one line of a terminal."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 3].rstrip() + "..."


def _last(month: Month, gate: str, verdict: str | None = None) -> LedgerRow | None:
    rows = [row for row in month.ledger if row.decision.gate == gate and verdict in (None, row.decision.verdict)]
    return rows[-1] if rows else None


def value_lines(values: Sequence[MonthValue]) -> list[str]:
    """What each month was worth by both policies, and the sum."""
    lines = [f"{'month':<9}{'list by':>9}{'contacted':>11}{'found':>7}{'earned':>9}{'AUC':>7}   "
             f"{'never retrained:':<16}{'found':>7}{'earned':>9}{'AUC':>7}{'gain':>9}"]
    for one in values:
        mine, other = one.retrained, one.never
        lines.append(f"{one.as_of:%Y-%m}  {version_of(one.release_id):>9}{mine.contacted:>11,}{mine.found:>7,}"
                     f"{mine.value:>9,.0f}{mine.auc:>7.3f}   {'':<16}{other.found:>7,}{other.value:>9,.0f}"
                     f"{other.auc:>7.3f}{one.gain:>+9,.0f}")
    made, never = totals(list(values))
    lines.append(f"earned {made:,.0f}; never retrained {never:,.0f}; retraining brought {made - never:+,.0f} in "
                 f"{len(values)} months")
    return lines


def draw(values: Sequence[MonthValue], months: Sequence[Month], to: Path) -> Path:
    """Money and AUC by month, by both policies, with what was planted above and what was done below."""
    figure = new_figure(11, 8.2, dpi=110)
    money, area = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    made, never = totals(list(values))
    figure.suptitle(f"Retraining brought {made - never:+,.0f} in {len(values)} months: {made:,.0f} earned, "
                    f"{never:,.0f} never retrained", x=0.01, ha="left", fontsize=12, fontweight="bold")
    names = [f"{one.as_of:%Y-%m}" for one in values]
    at = range(len(values))
    for axes, what, label in ((money, "value", "money a month"), (area, "auc", "AUC")):
        for policy, colour, name in (("never", FIRST, "never retrained"), ("retrained", MADE, "as it was lived")):
            axes.plot(at, [getattr(getattr(one, policy), what) for one in values], color=colour, marker="o",
                      markersize=4, label=name)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eaeaea", linewidth=0.8)
    money.axhline(0, color=MARK, linewidth=0.8)
    top, bottom = money.get_ylim()[1], money.get_ylim()[0]
    money.set_ylim(bottom, top + 0.45 * (top - bottom))  # room for the words
    for place, month in enumerate(months):
        words = [*month.planted, *(f"{version_of(one.release_id)} {one.state}" for one in month.rollouts)]
        for axes in (money, area) if words else ():
            axes.axvline(place, color=RED if month.planted else MARK, linewidth=0.8, linestyle=":")
        if words:
            money.annotate("\n".join(words), (place, top + 0.02 * (top - bottom)), fontsize=8, rotation=90, ha="right",
                           va="bottom", color=RED if month.planted else "#333333")
    money.legend(frameon=False, loc="lower right")
    area.set_xticks(list(at), names, rotation=45, ha="right")
    with beside(to) as file:
        figure.savefig(file, format="png")
    return to
