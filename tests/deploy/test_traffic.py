"""The demo's customers: every answer is counted, and nothing that failed is left out."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from deploy.local.traffic import Customer, Tally, traffic

PEOPLE = [Customer(f"c{number}", {"visits": number}) for number in range(20)]


@contextmanager
def server(answer: Callable[[str, str, bytes], tuple[int, dict[str, str]] | None]) -> Iterator[int]:
    """An HTTP server on a free port; `answer` takes method, path and body; None closes the connection."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline().decode():
                method, path, _ = line.split(" ")
                headers = {}
                while (header := self.rfile.readline().decode().strip()):
                    name, value = header.split(": ")
                    headers[name] = value
                found = answer(method, path, self.rfile.read(int(headers.get("content-length", 0))))
                if found is None:
                    return
                body = json.dumps(found[1]).encode()
                self.wfile.write(f"HTTP/1.1 {found[0]} x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    class Threads(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Threads(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield int(running.server_address[1])
        running.shutdown()


def run_until(port: int, enough: Callable[[Tally], bool]) -> Tally:
    with traffic("127.0.0.1", port, PEOPLE, rate=400) as tally:
        deadline = time.monotonic() + 20
        while not enough(tally) and time.monotonic() < deadline:
            time.sleep(0.01)
    return tally


def test_a_few_customers_ask_often_and_both_ways_and_every_answer_counts_for_its_release():
    asked: Counter[str] = Counter()
    posted = []

    def answer(method: str, path: str, body: bytes) -> tuple[int, dict[str, str]]:
        asked[path.split("/")[3] if method == "GET" else "posted"] += 1
        if method == "POST":
            posted.append(json.loads(body))
        return 200, {"release_id": "churn:a" if method == "GET" else "churn:b"}

    with server(answer) as port:
        tally = run_until(port, lambda tally: tally.answered >= 300)
    assert (tally.failed, tally.codes) == (0, {200: tally.answered})
    assert tally.releases["churn:a"] + tally.releases["churn:b"] == tally.answered
    assert 0.05 < tally.releases["churn:b"] / tally.answered < 0.5
    assert asked["c0"] > 2 * asked["c19"]
    assert posted[0]["rows"][0].keys() == {"visits"}


@pytest.mark.parametrize(("code", "words"), [(503, "status 503"), (404, "status 404"), (None, "IncompleteReadError")])
def test_an_answer_that_is_no_score_and_a_connection_that_breaks_are_failures(code: int | None, words: str):
    with server(lambda *_: None if code is None else (code, {})) as port:
        tally = run_until(port, lambda tally: tally.failed >= 3)
    assert tally.failed >= 3
    assert tally.answered == 0  # nothing is counted twice
    assert tally.first_failure.startswith(words)
    assert not tally.releases


def test_where_nobody_listens_every_request_is_a_failure():
    with server(lambda *_: None) as port:
        pass
    assert run_until(port, lambda tally: tally.failed >= 3).answered == 0
