"""Customers of the demo: requests to the API at a steady rate, from its own thread, and what came back, counted.

A few customers ask often and most seldom (Zipf), as they do anywhere; some send features, most are looked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

ZIPF: Final = 0.8  # weight of the customer of rank r is 1 / r**ZIPF
SHARE_POSTED: Final = 0.2
CONNECTIONS: Final = 8
PATIENCE: Final = 15.0  # seconds a client waits for an answer


@dataclass(frozen=True)
class Customer:
    """Who asks, and the features a caller would send for them."""

    entity: str
    features: Mapping[str, Any]


@dataclass
class Tally:
    """What came back so far. One thread writes, others read."""

    answered: int = 0  # with a score; every other request has failed
    failed: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    first_failure: str | None = None

    def fail(self, why: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or why


@contextlib.contextmanager
def traffic(host: str, port: int, customers: Sequence[Customer], *, rate: float, seed: int = 7) -> Iterator[Tally]:
    """Requests while the block runs, `rate` a second in all.

    A failed request is one without an answer within PATIENCE, or with any status but 200: the demo's customers exist
    and send what the contract asks for.
    """
    tally, stop = Tally(), threading.Event()
    everybody = asyncio.new_event_loop()

    def run() -> None:
        everybody.run_until_complete(_everybody(host, port, customers, rate, seed, tally, stop))
        everybody.close()

    thread = threading.Thread(target=run, name="traffic", daemon=True)
    thread.start()
    try:
        yield tally
    finally:
        stop.set()
        thread.join(PATIENCE + 5)


async def _everybody(
    host: str, port: int, customers: Sequence[Customer], rate: float, seed: int, tally: Tally, stop: threading.Event
) -> None:
    weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, len(customers) + 1)))
    await asyncio.gather(*(
        _client(host, port, customers, weights, CONNECTIONS / rate, random.Random(seed + number), tally, stop)
        for number in range(CONNECTIONS)))


async def _client(
    host: str, port: int, customers: Sequence[Customer], weights: Sequence[float], seconds: float,
    luck: random.Random, tally: Tally, stop: threading.Event,
) -> None:
    """One connection: a request, its answer, a pause of `seconds` on average."""
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not stop.is_set():
        await asyncio.sleep(luck.expovariate(1 / seconds))
        customer = luck.choices(customers, cum_weights=weights)[0]
        request = _post(host, customer) if luck.random() < SHARE_POSTED else _get(host, customer)
        try:
            async with asyncio.timeout(PATIENCE):
                connection = connection or await asyncio.open_connection(host, port)
                status, body, kept = await _ask(connection, request)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            tally.fail(f"{type(error).__name__}: {error}")
            _close(connection)
            connection = None
            continue
        tally.codes[status] += 1
        if status == 200:
            tally.answered += 1
            tally.releases[json.loads(body)["release_id"]] += 1
        else:
            tally.fail(f"status {status}: {body[:200].decode(errors='replace')}")
        if not kept:
            _close(connection)
            connection = None
    _close(connection)


def _get(host: str, customer: Customer) -> bytes:
    return f"GET /v1/customers/{customer.entity}/churn HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()


def _post(host: str, customer: Customer) -> bytes:
    body = json.dumps({"rows": [dict(customer.features)]}).encode()
    head = (f"POST /v1/score HTTP/1.1\r\nhost: {host}\r\nx-customer-id: {customer.entity}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n")
    return head.encode() + body


async def _ask(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes
) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection may be used again."""
    reader, writer = connection
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status, headers = int(head.split(" ", 2)[1]), dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
    body = await reader.readexactly(int(headers["content-length"])) if "content-length" in headers else b""
    return status, body, "content-length" in headers and headers.get("connection") != "close"


def _close(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if connection:
        connection[1].close()
