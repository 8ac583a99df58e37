"""A release in processes of its own, over real HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.settings import REPO
from tests.release_payload import AS_OF, KEY, write_payload, write_store


@dataclass
class Serving:
    """A parent that forks servers, and where they write."""

    parent: subprocess.Popen[str]
    port: int
    log: Path  # predictions
    said: Path  # what its processes wrote to standard error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next_server(self) -> int:
        """The pid of the server that was forked last, once it answers."""
        assert self.parent.stdout is not None
        pid = int(self.parent.stdout.readline())
        self.wait()
        return pid

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/openapi.json", timeout=5):
                    return
            except OSError:
                assert time.monotonic() < deadline
                assert self.parent.poll() is None
                time.sleep(0.02)


@pytest.fixture(scope="module")
def release_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A payload, a feature store, and the files of a platform."""
    folder = tmp_path_factory.mktemp("release")
    write_payload(folder / "release")
    write_store(folder / "feast")
    (folder / "key").write_bytes(KEY)
    (folder / "clock").write_text(AS_OF.isoformat())
    return folder


def serve(folder: Path, port: int, **variables: str) -> Serving:
    """Start it; the caller ends `parent`."""
    log = folder / "predictions.jsonl"
    environment = {**os.environ, "CHURN_FEAST_REGISTRY": f"sqlite:///{folder}/feast/registry.db",
                   "CHURN_FEAST_ONLINE": str(folder / "feast/online.db"), "CHURN_FEAST_PROJECT": "churn",
                   "CHURN_CUSTOMER_KEY_FILE": str(folder / "key"), "CHURN_PREDICTION_LOG": str(log),
                   "CHURN_CLOCK_FILE": str(folder / "clock"), "OMP_NUM_THREADS": "1", **variables}
    said = folder / "said.log"
    with said.open("w") as errors:
        parent = subprocess.Popen([sys.executable, "-m", "tests.models.serving.release_process",
                                   str(folder / "release"), str(port)], cwd=REPO, env=environment,
                                  stdout=subprocess.PIPE, stderr=errors, text=True)
    return Serving(parent, port, log, said)


@pytest.fixture(scope="module")
def serving(release_folder: Path, request: pytest.FixtureRequest) -> Iterator[Serving]:
    """The release on the module's PORT, with its VARIABLES."""
    made = serve(release_folder, request.module.PORT, **getattr(request.module, "VARIABLES", {}))
    try:
        yield made
    finally:
        made.parent.kill()
        made.parent.wait()
