"""The maturity level in force: what happens by itself. Reads and writes the note `maturity` of the home.

The note lies beside the home's other state, not in `run`: what the platform holds back must not be let go because a
folder of locks and logs was emptied.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.home import Home

MANUAL, DEVELOPMENT, DEPLOYMENT = 1, 2, 3
NEW: Final = DEPLOYMENT  # of a home that nobody gave another one


@dataclass(frozen=True)
class Level:
    """1, 2 or 3; where it is 1 because nobody knows which, `fault` says so and what to do."""

    number: int
    fault: str | None = None


def read_level(home: Home, said: int | None = None) -> Level:
    """What is said now, else what was last said of this home; a note that is missing or unreadable is level 1.

    Args:
        said: CHURN_MATURITY, of a command; the programs of the platform go by the note alone.
    """
    if said is not None:
        return Level(said)
    path = _note(home)
    try:
        found = path.read_bytes().strip()
    except OSError as error:
        return _unknown(path, error.strerror or type(error).__name__)
    known = {str(level).encode(): level for level in (MANUAL, DEVELOPMENT, DEPLOYMENT)}
    return Level(known[found]) if found in known else _unknown(path, "it holds none of 1, 2 and 3")


def keep_level(home: Home, said: int | None) -> Level:
    """The level a platform is started with: one that is said is written down, none leaves what stands there."""
    if said is not None:
        note_level(home, said)
    return read_level(home)


def note_level(home: Home, level: int) -> None:
    """Write down which level is in force until another one is said."""
    path = _note(home)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(f"{level}\n", encoding="ascii")
    beside.rename(path)


def _note(home: Home) -> Path:
    return home.root / "maturity"


def _unknown(path: Path, why: str) -> Level:
    return Level(MANUAL, f"the maturity level cannot be read from {path} ({why}): taken for {MANUAL}, nothing happens "
                 "by itself. Say which it is: `CHURN_MATURITY=2 make run` (1, 2 or 3)")
