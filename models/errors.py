"""Errors a user can act on.

    PipelineError
    ├── ConfigError      charter, sources or settings that cannot be used
    ├── DataError        a source, a batch or a table that cannot be used
    ├── PlatformError    a port, a process or a service that is not as it should be
    └── ReleaseError     a release that cannot be built, started or routed

Each message is one line: what could not be done, the value seen, the limit, the next step. Commands
print it without a traceback and exit with 1. Drift, or a candidate that loses, is no error but an
answer (`models.decision.Decision`).
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Final

STDLIB: Final = Path(os.__file__).parent


class PipelineError(Exception):
    """Something the user can mend; the message is one line."""


class ConfigError(PipelineError):
    """The charter, the sources file or a setting cannot be used."""


class DataError(PipelineError):
    """A source, a batch or a table cannot be used."""


class PlatformError(PipelineError):
    """A port, a process or a service is not as it should be."""


class ReleaseError(PipelineError):
    """A release cannot be built, started or routed."""


def place_of(error: BaseException) -> str:
    """File and line an error came from, in our code if any of it was on the way: to find it, and none of its values."""
    ways = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [way for way in ways if way[0].suffix == ".py" and "site-packages" not in way[0].parts
            and not way[0].is_relative_to(STDLIB)]
    path, line = (ours or ways or [(Path("?"), 0)])[-1]
    return f"{path.name}:{line}" if ways else "?"


def describe(error: BaseException) -> str:
    """An error for ledger, artifacts, notifications and log: its kind, and what it says where that can be told.

    Our own say no customer's value, and those of files and imports name a file or a module: these with their first
    line. What pandas, Polars, DuckDB or a database say may quote a value (`could not convert string to float: ...`): of
    these the place.
    """
    told = isinstance(error, PipelineError | OSError | ImportError)
    return f"{type(error).__name__}" + (f": {error}".partition("\n")[0][:300] if told else f" at {place_of(error)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; nearest known: X` for a misspelt name, or the sorted list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"nearest known: {close[0]}" if close else f"known: {', '.join(names)}"
