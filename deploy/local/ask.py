"""Small HTTP questions to the platform's own servers: standard library only, and never by a proxy."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy


@dataclass(frozen=True)
class PrefectApi:
    """A Prefect server and the secret it asks for."""

    url: str  # ends in /api
    auth_string: str

    def ask(self, path: str, body: Any = None, *, timeout: float = 10) -> Any:
        """GET, or POST where there is a body; the decoded JSON.

        Raises:
            OSError: not reachable, too slow, no HTTP, or a status of 400 and up (`urllib.error.HTTPError` is one).
        """
        token = base64.b64encode(self.auth_string.encode()).decode()
        request = urllib.request.Request(
            f"{self.url}{path}", data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
        )
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                content = answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"{self.url} does not speak HTTP: {error!r}") from None
        return json.loads(content) if content else None


def answers(url: str, *, timeout: float = 2) -> bool:
    """Whether a server answers at all; any status below 500 will do, and 503 of a router without a release."""
    try:
        with _OPENER.open(url, timeout=timeout):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500 or error.code == 503
    except (OSError, http.client.HTTPException):
        return False
