"""Envoy's admin, on its Unix socket. Asks what it holds; writes nothing."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.home import Home


def admin_socket(home: Home) -> Path | None:
    """Envoy's admin address: in the short folder of the platform's sockets, or none where there is no such folder."""
    try:
        folder = Path((home.run / "sockets").read_text(encoding="utf-8").strip())
    except OSError:
        return None
    path = folder / "envoy.sock"
    return path if folder.is_dir() and len(os.fsencode(path)) <= 100 else None  # the kernel's limit is 108 bytes


def envoy_answers(home: Home) -> bool:
    """Whether the router of this home runs."""
    path = admin_socket(home)
    try:
        return bool(path and ask_admin(path, "/server_info"))
    except (OSError, ValueError, http.client.HTTPException):
        return False


def confirmed(
    home: Home, deadline: float, resource: str, said: Callable[[list[dict[str, Any]]], bool]
) -> bool:
    """Wait until Envoy's own dump of a resource says so; at once False where no Envoy answers.

    By content: Envoy keeps the old version number of what did not change.
    """
    path = admin_socket(home)
    while path and time.monotonic() < deadline:
        try:
            if said(json.loads(ask_admin(path, f"/config_dump?resource={resource}")).get("configs", [])):
                return True
        except (OSError, ValueError, LookupError, http.client.HTTPException):
            return False
        time.sleep(0.05)
    return False


def ask_admin(path: Path, target: str, *, method: str = "GET") -> bytes:
    """One answer of Envoy's admin.

    Raises:
        OSError, http.client.HTTPException: none came within 2 s.
    """
    connection = http.client.HTTPConnection("localhost", timeout=2)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(2)
    try:
        connection.sock.connect(str(path))
        connection.request(method, target)
        return connection.getresponse().read()
    finally:
        connection.close()
