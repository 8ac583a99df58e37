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
from collections.abc import Iterable
from pathlib import Path


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
    """File and line an error came from: enough to find it, and none of its values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"


def describe(error: Exception) -> str:
    """An error for the ledger and the log: our own with its message, of others type and place.

    What pandas, Polars or DuckDB say may quote a customer's value, and the ledger is not erased.
    """
    said = f": {error}".partition("\n")[0][:300] if isinstance(error, PipelineError) else f" at {place_of(error)}"
    return f"{type(error).__name__}{said}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`; nearest known: X` for a misspelt name, or the sorted list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"nearest known: {close[0]}" if close else f"known: {', '.join(names)}"
