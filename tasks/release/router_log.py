"""Envoy's access log as files: the one it writes, and the pieces that were moved aside. Reads and writes `serving/`."""

from __future__ import annotations

import http.client
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from tasks.home import Home
from tasks.release.envoy_admin import admin_socket, ask_admin
from tasks.release.routing import access_log, routes_lock

LAST_WRITE_SECONDS = 0.2  # what Envoy was writing when it was told to let go


def access_logs(home: Home) -> list[Path]:
    """Every piece of the log that is still here, the oldest first; the last one is being written."""
    log = access_log(home)
    return [*sorted(log.parent.glob(f"{log.stem}-*.jsonl")), log]


def rotate_access_log(home: Home) -> Path | None:
    """Move the log aside and have Envoy go on in a new one, of mode 0600. Loses no line.

    Envoy opens the log anew before it writes the next line, so the piece does not grow after this returns. Who
    reads the evidence of an open rollout reads all `access_logs`.

    Returns:
        The piece, `access-<UTC time>-<n>.jsonl`; None where there is nothing to move, or where Envoy does not say
        that it lets go of it.
    """
    log, path = access_log(home), admin_socket(home)
    with routes_lock(home):
        if path is None or not log.exists() or log.stat().st_size == 0:
            return None
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        taken = len(list(log.parent.glob(f"{log.stem}-{stamp}-*.jsonl")))
        piece = log.with_name(f"{log.stem}-{stamp}-{taken}.jsonl")
        log.rename(piece)
        os.close(os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        try:
            ask_admin(path, "/reopen_logs", method="POST")
        except (ConnectionRefusedError, FileNotFoundError):
            return piece  # no Envoy runs: nobody has the file open
        except (OSError, http.client.HTTPException):
            piece.rename(log)
            return None
    time.sleep(LAST_WRITE_SECONDS)
    return piece
