"""What Envoy counts, as Envoy writes it. Asks its admin, a Unix socket, for a chosen set of its statistics."""

from __future__ import annotations

import http.client
from typing import Final
from urllib.parse import quote

from models.errors import PlatformError
from tasks.home import Home
from tasks.release.envoy_admin import admin_socket, ask_admin
from tasks.release.routing import CANARY_ARM, SHADOW_ARM, STABLE_ARM

# By the raw names of its statistics. Not only what was used: a counter that appears with its first event has no rate.
CHOSEN: Final = "|".join((
    rf"^cluster\.({CANARY_ARM}|{STABLE_ARM}|{SHADOW_ARM})/.*\.("
    r"upstream_rq_(total|active|timeout|retry|retry_success|pending_overflow|retry_overflow|[1-5]xx)"
    r"|upstream_cx_(total|active|connect_fail|rx_bytes_total|tx_bytes_total)|membership_(healthy|total))$",
    r"^http\.api\.(downstream_rq_(total|active|[1-5]xx)|downstream_cx_(total|active|rx_bytes_total|tx_bytes_total))$",
    r"^client\.http_local_rate_limit\.(rate_limited|ok)$",
    r"^server\.(live|uptime|memory_allocated|memory_physical_size)$",
))


def router_text(home: Home) -> bytes:
    """The chosen statistics in Prometheus' text format.

    Raises:
        PlatformError: Envoy does not answer.
    """
    path = admin_socket(home)
    try:
        if path is None:
            raise FileNotFoundError("it has no socket")
        text = ask_admin(path, f"/stats?format=prometheus&filter={quote(CHOSEN, safe='')}")
    except (OSError, http.client.HTTPException) as error:
        raise PlatformError(f"cannot ask Envoy of {home.root}: {error}. Start it with `make run`") from None
    if b"# TYPE envoy_" not in text:
        raise PlatformError(f"cannot read Envoy's statistics: it answers {text[:100]!r}. See run/logs/envoy.log")
    return text
