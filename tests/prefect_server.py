"""A real Prefect server with every deployment of prefect.yaml, and a worker, as `make run` would start them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.waiting import wait_for

REPO: Final = Path(__file__).resolve().parents[1]
START_SECONDS: Final = 300  # its database is made first; two cores may be shared with other tests


@dataclass(frozen=True)
class Server:
    """Where it answers, whose home its flows work in, and the environment of who talks to it."""

    url: str
    home: Path
    environment: Mapping[str, str]

    def find(self, what: str, **query: Any) -> Any:
        """What a filter finds.

        Raises:
            OSError: no answer within a minute: just after it is given deployments, a server on SQLite is that busy.
        """
        try:
            return httpx.post(f"{self.url}/{what}/filter", json=query, timeout=60).raise_for_status().json()
        except httpx.TransportError as error:
            raise OSError(repr(error)) from error

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.find("flow_runs", deployments={"name": {"any_": [deployment]}})
        return found


@contextmanager
def server(folder: Path, port: int, **settings: str) -> Iterator[Server]:
    """Started in `folder` with these settings of Prefect; ended with the block.

    Raises:
        AssertionError: it does not answer in time, or refuses a deployment; the error says what it printed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CHURN_"))}
    environment = {
        **kept, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "CHURN_HOME": str(folder / "home"), "CHURN_REPO": str(REPO), "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_WORKER_QUERY_SECONDS": "2", **settings,
    }
    there = Server(environment["PREFECT_API_URL"], folder / "home", environment)
    prefect = [sys.executable, "-m", "prefect"]
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        with (folder / f"{words[0]}.log").open("wb") as log:
            started.append(subprocess.Popen([*prefect, *words], env=environment, cwd=REPO, stdout=log, stderr=log))

    try:
        start("server", "start", "--host", "127.0.0.1", "--port", str(port))
        wait_for(lambda: _answers(there.url), START_SECONDS, say=(folder / "server.log").read_text)
        for words in (("work-pool", "create", "--type", "process", "local"),
                      ("gcl", "create", "retrain", "--limit", "1"), ("--no-prompt", "deploy", "--all")):
            done = subprocess.run([*prefect, *words], env=environment, cwd=REPO, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        start("worker", "start", "--pool", "local")
        yield there
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=10).is_success
    except httpx.TransportError:
        return False
