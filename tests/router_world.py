"""The real Envoy before small programs that stand for releases: what the tests of routing share."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.home import Home
from tasks.release.routing import Upstream, access_log, envoy_command, write_bootstrap

BACKEND = Path(__file__).parent / "tasks/release/release_backend.py"


@dataclass
class World:
    home: Home
    api: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def ask(
        self, path: str, *, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, Any, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.api, timeout=10)
        connection.request("POST" if body is not None else "GET", path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        try:
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(text)
        except ValueError:
            return answer.status, {}, text

    def who(self, customer: object, **more: Any) -> str:
        return str(self.ask(f"/v1/customers/{customer}/churn", **more)[2]["release_id"])

    def mode(self, upstream: Upstream, mode: str) -> None:
        beside = self.home.root / "mode.tmp"
        beside.write_text(mode)
        beside.rename(self.mode_file(upstream))

    def mode_file(self, upstream: Upstream) -> Path:
        return self.home.root / f"mode-{upstream.port}"

    def start(self, upstream: Upstream) -> None:
        self.processes[upstream.release_id] = subprocess.Popen(
            [sys.executable, str(BACKEND), str(upstream.port), upstream.release_id, str(self.mode_file(upstream))])
        wait(lambda: answers(upstream.port))

    def heal(self, *upstreams: Upstream) -> None:
        """All run, and none misbehaves."""
        for upstream in upstreams:
            self.mode_file(upstream).unlink(missing_ok=True)
            if self.processes[upstream.release_id].poll() is not None:
                self.start(upstream)

    def asked(self, upstream: Upstream) -> list[str]:
        """What a release was asked for, oldest first."""
        path = self.home.root / f"mode-{upstream.port}.asked"
        return path.read_text().splitlines() if path.exists() else []

    def log(self) -> list[dict[str, Any]]:
        time.sleep(0.7)  # Envoy flushes twice a second
        return [json.loads(line) for line in access_log(self.home).read_text().splitlines()]


@contextlib.contextmanager
def running(api: int, *upstreams: Upstream, rate_limit: int = 0) -> Iterator[World]:
    """Envoy on port `api`, and a program for each upstream."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(prefix="churn-") as sockets:
        home = Home(Path(folder))
        home.run.mkdir()
        (home.run / "sockets").write_text(f"{sockets}\n")
        write_bootstrap(home, host="127.0.0.1", api_port=api, rate_limit=rate_limit)
        world = World(home, api)
        world.processes["envoy"] = subprocess.Popen(envoy_command(home), stderr=subprocess.DEVNULL)
        try:
            wait(lambda: answers(api))
            for upstream in upstreams:
                world.start(upstream)
            yield world
        finally:
            for process in world.processes.values():
                process.kill()
                process.wait()


def answers(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/readyz")
        return connection.getresponse().status in (200, 404)
    except OSError:
        return False


def wait(ready: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)
