"""Clients that ask without a pause, and remember every answer that was not as it should be.

16 connections, kept open; four in five requests are `GET` of a customer, one in five `POST` of a row, most of
those for a customer. A request fails where the answer is not 200, breaks off, comes from a release that may not answer
this customer, or carries another probability than that release gives. A connection that is refused was no request yet:
the client tries to connect again, and the time it waited is counted.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

CONNECTIONS: Final = 16
NOBODY_SHARE: Final = 0.25  # of the POSTs, which are a fifth
PATIENCE_SECONDS: Final = 30.0  # how long a client tries to connect


@dataclass
class Outcome:
    """What all clients saw."""

    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # by what was wrong
    failed_begun: list[float] = field(default_factory=list)  # when each request that failed was sent; time.monotonic()
    answered_by: Counter[str] = field(default_factory=Counter)
    refused: int = 0  # attempts to connect that were refused
    waited_seconds: float = 0.0  # the longest a client waited to connect
    slowest_seconds: float = 0.0


Expected = Callable[[str | None, str], float | None]  # (customer, release id) -> probability; None: may not answer


class Load:
    """Clients in threads, from `start` to `stop`."""

    def __init__(
        self, port: int, *, rows: Mapping[str, dict[str, Any]], expected: Expected,
        whose: str, connections: int = CONNECTIONS,
    ) -> None:
        """`rows` by customer; `whose` is the customer whose row is sent as nobody's."""
        self.port, self.expected, self.whose = port, expected, whose
        self.customers = list(rows)
        self.bodies = {customer: json.dumps({"rows": [row]}).encode() for customer, row in rows.items()}
        self.outcome = Outcome()
        self.killed_at: float | None = None  # a drill's: when it killed the router, and when that was gone
        self.gone_at: float | None = None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,), daemon=True)
                         for number in range(connections)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> Outcome:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.outcome

    def wait_for(self, requests: int) -> None:
        """Until so many were asked in all.

        Raises:
            TimeoutError: nothing more was answered for a minute.
        """
        last, since = -1, time.monotonic()
        while self.outcome.asked < requests:
            if self.outcome.asked != last:
                last, since = self.outcome.asked, time.monotonic()
            elif time.monotonic() - since > 60:
                raise TimeoutError(f"no answer for a minute after {last:,} requests")
            time.sleep(0.02)

    def _client(self, seed: int) -> None:
        dice, connection = random.Random(seed), None
        while not self._stop.is_set():
            if connection is None:
                connection = self._connect()
                if connection is None:
                    return
            customer = dice.choice(self.customers)
            post = dice.random() < 0.2
            named = not post or dice.random() >= NOBODY_SHARE
            begin = time.monotonic()
            try:
                fault, by = self._ask(connection, customer if named else None, post=post)
            except (OSError, http.client.HTTPException) as error:
                fault, by = f"broken off: {type(error).__name__}", ""
                connection.close()
                connection = None
            taken = time.monotonic() - begin
            with self._lock:
                self.outcome.asked += 1
                self.outcome.slowest_seconds = max(self.outcome.slowest_seconds, taken)
                self.outcome.answered_by[by] += 1
                if fault:
                    self.outcome.failed[fault] += 1
                    self.outcome.failed_begun.append(begin)
        if connection:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, customer: str | None, *, post: bool) -> tuple[str, str]:
        if post:
            headers = {"content-type": "application/json", **({"x-customer-id": customer} if customer else {})}
            connection.request("POST", "/v1/score", self.bodies[customer or self.whose], headers)
        else:
            connection.request("GET", f"/v1/customers/{customer}/churn")
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            return f"{answer.status} {text[:120].decode(errors='replace')}", ""
        document = json.loads(text)
        by = document["release_id"]
        seen = (document["predictions"][0] if post else document)["churn_probability"]
        wanted = self.expected(customer, by)
        if wanted is None:
            return f"answered by {by}, which may not", by
        return ("" if abs(seen - wanted) < 1e-9 else f"{by} gives {seen}, not {wanted}"), by

    def _connect(self) -> http.client.HTTPConnection | None:
        begin, refused = time.monotonic(), 0
        try:
            while not self._stop.is_set() and time.monotonic() - begin < PATIENCE_SECONDS:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
                try:
                    connection.connect()
                    return connection
                except OSError:
                    refused += 1
                    connection.close()
                    time.sleep(0.02)
            return None
        finally:
            with self._lock:
                self.outcome.refused += refused
                if refused:
                    self.outcome.waited_seconds = max(self.outcome.waited_seconds, time.monotonic() - begin)
