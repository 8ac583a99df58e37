"""The demo's world: its files delivered month by month, and what is planted in which month.

Reads the world's files, kept beside the landing folder; writes the landing folder.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from examples.shop.broken import write_broken
from examples.shop.generate import write_world
from examples.shop.law import World
from tasks.home import Home

Event = Literal["data drift begins", "concept drift begins", "broken delivery", "healed delivery", "bad candidate"]
BROKEN_TABLE: Final = "orders"


@dataclass(frozen=True)
class Story:
    """Which months are lived through, and what happens to the pipeline in which; the world has its own drifts."""

    first: int  # month of the world; its cut is the clock's first day
    last: int  # the last one lived through
    broken: int  # its delivery is refused; the next one brings the rows as they should be
    bad_candidate: int  # an old version is released by hand, and hangs
    world: World

    @property
    def months(self) -> range:
        return range(self.first, self.last + 1)

    def as_of(self, month: int) -> datetime:
        """The clock in a month: its first instant."""
        return self.world.cut(month)

    def events(self, month: int) -> tuple[Event, ...]:
        """What happens in a month that the pipeline is not told."""
        planted: tuple[tuple[Event, int], ...] = (
            ("broken delivery", self.broken), ("healed delivery", self.broken + 1),
            ("data drift begins", self.world.data_drift_month),
            ("bad candidate", self.bad_candidate), ("concept drift begins", self.world.concept_drift_month),
        )
        return tuple(event for event, when in planted if when == month)


# The concept changes in month 19; its labels are mature in 21, two cuts after it in 22: what is learnt from them is
# worth something from 23 on.
FULL: Final = Story(first=14, last=23, broken=15, bad_candidate=23, world=World(months=25))
# For CI: the same events closer together, in a world of its own. It begins after February: that cut's window reaches
# into the next, so the detector, which counts a customer once a window, would pass over a change in March.
SHORT: Final = Story(first=14, last=19, broken=16, bad_candidate=19,
                     world=World(months=21, concept_drift_month=15, data_drift_month=16))


def world_folder(home: Home) -> Path:
    """All months of the world's files, and its truth; nothing of the pipeline reads here."""
    return home.root / "world"


def write_files(home: Home, story: Story) -> None:
    """The whole world, once; nothing of it is delivered yet."""
    write_world(world_folder(home), story.world)
    home.landing.mkdir(parents=True, exist_ok=True)


def deliver(home: Home, story: Story, month: int) -> int:
    """Put what had arrived by the month's first day into the landing folder; returns how many files are new.

    The file of the month before is broken where the story says so, and delivered again a month later.
    """
    until, count = f"{story.as_of(month):%Y-%m}", 0
    for clean in sorted(world_folder(home).glob("*/*.csv")):
        table, arrived = clean.parent.name, clean.stem
        to = home.landing / table / clean.name
        if table == "truth" or arrived >= until:
            continue
        late = arrived == f"{story.as_of(story.broken - 1):%Y-%m}" and table == BROKEN_TABLE
        if late and month == story.broken:
            write_broken(clean, to)
        elif not to.exists() or (late and to.read_bytes() != clean.read_bytes()):
            to.parent.mkdir(parents=True, exist_ok=True)
            beside = to.with_name(f".{to.name}.tmp")
            shutil.copyfile(clean, beside)
            beside.rename(to)
        else:
            continue
        count += 1
    return count
