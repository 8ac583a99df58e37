"""The page of retraining decisions, and what Prefect shows of a check. Reads the ledger; writes one page, artifacts."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from models.card.document import Banner, Block, Bullets, Document, Picture, Section, Table, Text, to_html
from models.charter import Charter
from models.decision import Decision
from models.errors import describe
from tasks.figures import new_figure
from tasks.home import Home
from tasks.monitoring.why import Check, read_checks

PAGE: Final = "why-retrain.html"
# Told apart by everyone (Okabe and Ito), and by the letter in the cell.
COLOURS: Final = {"good": "#bfe3d5", "waiting": "#ececec", "bad": "#e69f00", "broken": "#d55e00", "nothing": "#f4f4f4",
                  "harmless": "#f0e442", "retrain": "#56b4e9", "alarm": "#d55e00", "yes": "#e69f00", "no": "#bfe3d5",
                  "not looked at": "#ffffff"}
SAYS: Final = {"good": "good", "waiting": "…", "bad": "bad", "broken": "broken", "yes": "flag", "no": "–",
               "not looked at": "", "nothing": "nothing", "harmless": "harm-\nless", "retrain": "retrain",
               "alarm": "alarm"}


def why_document(checks: Sequence[Check], charter: Charter) -> Document:
    """What the last check says, all of them at a glance, and each with its reason, newest first."""
    policy = charter.drift
    glance: tuple[Block, ...] = (Text("No check was made yet."),)
    if checks:
        last = checks[-1]
        glance = (
            Banner(f"{last.date}: {last.verdict}: {last.row.decision.reason}",
                   {"alarm": False, "nothing": True, "harmless": True}.get(last.verdict)),
            Picture(draw_timeline(checks), "Each check by date of the platform clock: what the parts saw, whether it "
                    "counted as a flag, and the verdict."),
            Table(("check", "verdict", "flags", "cool-down left, days", "budget left", "what followed"),
                  tuple((_unbroken(one.date), one.verdict, *map(_unbroken, one.counts), "; ".join(one.followed))
                        for one in reversed(checks)),
                  frozenset(number for number, one in enumerate(reversed(checks)) if one.verdict == "alarm")),
        )
    return Document(
        f"{charter.name}: why did it retrain, or not?",
        f"The last {len(checks)} checks. A retraining needs {policy.flags_to_act} of {policy.of_checks} checks, "
        f"each {policy.days_between_flags} days before the next, to flag drift that matters and did not prove "
        f"harmless, or performance or concept found bad; {policy.cooldown_days} days since the last one; and at most "
        f"{policy.retrainings_a_month} begin in 30 days.",
        (Section("At a glance", glance), *(_section(one) for one in reversed(checks))),
    )


def _section(check: Check) -> Section:
    decision = check.row.decision
    evidence = decision.evidence
    again = f" The date was checked {check.repeats + 1} times; this is the last." if check.repeats else ""
    blocks: list[Block] = [
        Banner(f"{decision.verdict}: {decision.reason}",
               {"alarm": False, "nothing": True, "harmless": True}.get(decision.verdict)),
        Text(f"Release {check.row.subject or 'none'}, decision {check.row.decision_id}.{again}"),
        Bullets(tuple(f"{name}: {state}{f': {reason}' if reason else ''}" for name, state, reason in check.signals)),
        Text("Columns that moved and matter: " + (str(evidence.get("mattering_columns") or "none")) + ". That moved: "
             + (str(evidence.get("flagged_columns") or "none")) + "."),
    ]
    if check.verdict == "retrain":
        blocks.append(Bullets(check.followed))
    return Section(f"{check.date}: {check.verdict}", tuple(blocks))


def draw_timeline(checks: Sequence[Check]) -> bytes:
    """A PNG: a column a check, a row a part."""
    from matplotlib.patches import Rectangle

    columns = [_cells(check) for check in checks]
    names = [name for name, _ in columns[0]]
    figure = new_figure(max(6.0, 2.2 + 0.62 * len(columns)), 3.6, dpi=150)
    axes = figure.subplots()
    for place, cells in enumerate(columns):
        for number, (_, state) in enumerate(cells):
            axes.add_patch(Rectangle((place - 0.47, number - 0.45), 0.94, 0.9, color=COLOURS.get(state, "#ffffff")))
            axes.text(place, number, SAYS.get(state, state), ha="center", va="center", fontsize=6.5, color="#111111")
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xticks(range(len(columns)), [check.date for check in checks], rotation=60, ha="right", fontsize=7)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _unbroken(text: str) -> str:
    """A date or a count stays on one line."""
    return text.replace("-", "\u2011").replace(" ", "\u00a0")


def _cells(check: Check) -> list[tuple[str, str]]:
    evidence = check.row.decision.evidence
    flag = evidence.get("flagged")
    if evidence.get("why") in ("drift", "memory"):
        flag = None  # it could not be judged, or is not remembered
    retrained = any(line.startswith("retrained at") for line in check.followed)
    return [
        *((name, state) for name, state, _ in check.signals),
        ("drift flag", "not looked at" if flag is None else "yes" if flag else "no"),
        ("verdict", check.verdict),
        ("followed", "done" if retrained else "open" if check.verdict == "retrain" else ""),
    ]


def write_why(engine: sa.Engine, charter: Charter, home: Home) -> Path:
    """Write the page; a reader finds the old one or the new one, and nobody else reads either.

    Raises:
        PlatformError: the ledger cannot be read.
    """
    page = home.reports / PAGE
    text = to_html(why_document(read_checks(engine, charter), charter))
    page.parent.mkdir(parents=True, exist_ok=True)
    beside = page.with_name(f".{page.stem}.{os.getpid()}.html")
    beside.touch(mode=0o600)
    beside.write_text(text, encoding="utf-8")
    beside.rename(page)
    return page


@task(name="publish-why", cache_policy=NO_CACHE)
def publish_why(engine: sa.Engine, charter: Charter, home: Home) -> None:
    """Write the page and link it. Where it cannot be written the verdict stands; an older page does not pass for it."""
    try:
        page = write_why(engine, charter, home)
        create_link_artifact(page.as_uri(), link_text=page.name, key="why-retrain",
                             description="why did it retrain, or not?")
    except Exception as error:
        get_run_logger().exception("the page of retraining decisions cannot be written")
        (home.reports / PAGE).unlink(missing_ok=True)
        create_markdown_artifact(f"There is no page: {describe(error)}", key="why-retrain",
                                 description="why did it retrain, or not: cannot be said")


@task(name="publish-decision", cache_policy=NO_CACHE)
def publish_decision(decision: Decision, as_of: object) -> None:
    """The verdict with all of its evidence, in the Prefect UI."""
    rows = "\n".join(f"| {name} | {'' if value is None else str(value).replace('|', '/')} |"
                     for name, value in decision.evidence.items())
    create_markdown_artifact(f"**{decision.verdict}**: {decision.reason}\n\n| evidence | |\n|---|---|\n{rows}",
                             key="retraining-decision", description=f"decision at {as_of:%Y-%m-%d}: {decision.verdict}")


@task(name="publish-alarm", cache_policy=NO_CACHE)
def publish_alarm(text: str) -> None:
    """An alarm that the ledger cannot hold: in the log and as an artifact; the run that calls this fails."""
    get_run_logger().error("alarm: %s", text)
    create_markdown_artifact(f"**alarm**: {text}", key="monitor-alarm", description="the check could not be recorded")
