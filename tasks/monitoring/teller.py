"""Sends what nobody sent. Reads the ledger; starts `tasks.monitoring.notify` beside a process that has no Prefect."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from tasks.home import Home
from tasks.monitoring.outbox import open_rows, send_events

LEFT_TO_FLOW: Final = 60.0  # seconds in which a flow run may tell what happened
BETWEEN: Final = 120.0  # seconds between two tries: an address that refuses is not asked every check


@dataclass(frozen=True)
class Teller:
    """The process that tells, or told last, and when it was started (monotonic seconds)."""

    process: subprocess.Popen[bytes] | None = None
    since: float = float("-inf")


def catch_up(home: Home, engine: sa.Engine, charter: Path, charter_name: str, teller: Teller) -> Teller:
    """Send events that others could not, and notifications that `announce` has not sent within a minute.

    Nobody else would: a worker that is dead does not say so itself. Where CHURN_NOTIFY is not set nothing is sent.

    Args:
        charter: its file.
        teller: what the call before returned; while its process works there is no second.
    """
    send_events(engine, charter_name=charter_name)
    busy = teller.process is not None and teller.process.poll() is None
    if busy or not os.environ.get("CHURN_NOTIFY") or time.monotonic() - teller.since < BETWEEN:
        return teller
    border = (datetime.now(UTC) - timedelta(seconds=LEFT_TO_FLOW)).isoformat(timespec="microseconds")
    if not any(row.at <= border for row in open_rows(engine, "notification")):
        return teller
    command = [sys.executable, "-m", "tasks.monitoring.notify", "--charter", str(charter), "--older-than",
               str(LEFT_TO_FLOW)]
    environment = {**os.environ, "CHURN_NOTIFY_STATE": home.state_url}
    return Teller(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL), time.monotonic())
