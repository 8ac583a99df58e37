"""Questions to Prefect's API, asked of a real HTTP server that is busy for a while."""

from __future__ import annotations

import threading
import urllib.error
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.local.ask import PrefectApi


class Busy(BaseHTTPRequestHandler):
    """Says each of the server's `statuses` once, then 200 with {"asked": how often}."""

    server: BusyServer

    def do_GET(self) -> None:
        self.server.asked += 1
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        body = f'{{"asked": {self.server.asked}}}'.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest shows what failed."""


class BusyServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Busy)
        self.statuses: list[int] = []
        self.asked = 0


@pytest.fixture
def server() -> Iterator[BusyServer]:
    with BusyServer() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def api(server: BusyServer) -> PrefectApi:
    return PrefectApi(f"http://127.0.0.1:{server.server_port}", "admin:secret")


def test_a_busy_server_is_asked_again(server: BusyServer) -> None:
    server.statuses = [503, 503]
    assert api(server).ask("/health") == {"asked": 3}


def test_a_server_that_stays_busy_is_an_error_when_the_time_is_up(server: BusyServer) -> None:
    server.statuses = [503] * 100
    with pytest.raises(urllib.error.HTTPError, match="503"):
        api(server).ask("/health", patience=1.2)
    assert 2 <= server.asked <= 4


def test_another_fault_is_told_at_once(server: BusyServer) -> None:
    server.statuses = [500, 500]
    with pytest.raises(urllib.error.HTTPError, match="500"):
        api(server).ask("/health")
    assert server.asked == 1
