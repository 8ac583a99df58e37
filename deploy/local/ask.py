"""Small HTTP questions to the platform's own servers: standard library only, and never by a proxy."""

from __future__ import annotations

import base64
import http
import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Final

PATIENCE: Final = 60.0  # seconds
BETWEEN: Final = 0.5  # seconds between two tries
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy


@dataclass(frozen=True)
class PrefectApi:
    """A Prefect server and the secret it asks for."""

    url: str  # ends in /api
    auth_string: str

    def ask(
        self, path: str, body: Any = None, *, timeout: float = 10, method: str | None = None, patience: float = PATIENCE
    ) -> Any:
        """GET, or POST where there is a body and no other method is named; the decoded JSON.

        Args:
            timeout: seconds for one answer.
            patience: seconds in which a server that says 503 is asked again: it did nothing, its database was busy.

        Raises:
            OSError: not reachable, too slow, no HTTP, or a status of 400 and up (`urllib.error.HTTPError` is one).
        """
        until = time.monotonic() + patience
        while True:
            try:
                return self._ask_once(path, body, timeout=timeout, method=method)
            except urllib.error.HTTPError as error:
                if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() + BETWEEN > until:
                    raise
            time.sleep(BETWEEN)

    def _ask_once(self, path: str, body: Any, *, timeout: float, method: str | None) -> Any:
        token = base64.b64encode(self.auth_string.encode()).decode()
        request = urllib.request.Request(
            f"{self.url}{path}", data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"}, method=method,
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
