"""Maturity: which schedules and triggers a level switches on, and what else it lets happen by itself.

The levels are Google's for MLOps: 1 manual, 2 development is automated, 3 deployment too. The README's table is
written from `table`, and a test holds the two together.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from tasks.maturity import DEPLOYMENT, DEVELOPMENT, MANUAL

RELEASES_BY_ITSELF: Final = DEPLOYMENT  # from this level on the loop opens a rollout without asking
ALARMS: Final = "announce"  # to tell is not to act: on at every level, where CHURN_NOTIFY says whom


def deployments_at(level: int, document: Mapping[str, Any], *, notify: bool) -> dict[str, Any]:
    """prefect.yaml as a level deploys it: schedules and triggers that are not on stand there switched off.

    Args:
        document: prefect.yaml; left as it is.
        notify: whether anybody wants to be told.
    """
    made = copy.deepcopy(dict(document))
    for one in made["deployments"]:
        off = not notify if one["name"] == ALARMS else level == MANUAL
        for part, key in (("schedules", "active"), ("triggers", "enabled")):
            for entry in one.get(part, ()):
                entry[key] = bool(entry.get(key, True)) and not off
    return made


def table(document: Mapping[str, Any]) -> str:
    """What is on at each level, in Markdown."""
    levels = {level: {one["name"]: one for one in deployments_at(level, document, notify=True)["deployments"]}
              for level in (MANUAL, DEVELOPMENT, DEPLOYMENT)}
    rows = []
    for one in document["deployments"]:
        name = one["name"]
        starts = [f"`{name}` on a schedule ({' and '.join(str(entry['cron']) for entry in one['schedules'])} UTC)"
                  if any("cron" in entry for entry in one.get("schedules", ())) else "",
                  f"`{name}` when its event comes" if one.get("triggers") else ""]
        for what, part, key in zip(starts, ("schedules", "triggers"), ("active", "enabled"), strict=True):
            if what:
                marks = ["on" if any(entry[key] for entry in levels[level][name][part]) else "" for level in levels]
                rows.append((f"{what}{', with `CHURN_NOTIFY`' if name == ALARMS else ''}", *marks))
    rows += [("the judge of an open rollout, each minute; the watchdog", "on", "on", "on"),
             ("`monitor` is missed when it does not complete in a day", *("on" if watched(level) else "" for level in
                                                                       levels)),
             ("a version that won is released without asking", *("on" if releases(level) else "" for level in levels)),
             ("`make run`, every deployment in the UI, `make release` and the other commands", "on", "on", "on")]
    head = "| what | 1 manual | 2 development | 3 development and deployment |\n|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def releases(level: int) -> bool:
    """Whether the loop opens a rollout by itself."""
    return level >= RELEASES_BY_ITSELF


def watched(level: int) -> bool:
    """Whether Prefect misses a nightly check that does not come: where none is scheduled none is missing."""
    return level > MANUAL
