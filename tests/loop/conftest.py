"""One real platform for the whole loop, started by `make run` under a home and ports of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tasks.home import Home
from tasks.state import open_state

REPO = Path(__file__).parents[2]
RAN = Path(tempfile.gettempdir()) / f"churn-commands-{os.getpid()}"  # what the README's test looks up
PORT_NAMES = ("CHURN_API_PORT", "CHURN_PREFECT_PORT", "CHURN_MLFLOW_PORT")


@dataclass(frozen=True)
class Loop:
    """A home, its environment, and the commands a user types."""

    home: Home
    environment: Mapping[str, str]
    repo: Path

    def make(self, *words: str, check: bool = True, seconds: float = 420) -> subprocess.CompletedProcess[str]:
        """`make WORDS` with this home's environment; stdout and stderr as text."""
        started = self.start(*words)
        try:
            stdout, stderr = started.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            started.kill()
            raise
        assert started.returncode == 0 or not check, f"make {' '.join(words)}\n{stdout}\n{stderr}"
        return subprocess.CompletedProcess(words, started.returncode, stdout, stderr)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The same, not waited for."""
        with RAN.open("a", encoding="utf-8") as file:
            file.write(" ".join(["make", *words]) + "\n")
        return subprocess.Popen(["make", "--no-print-directory", *words], cwd=self.repo, env=dict(self.environment),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.make("status", "JSON=1").stdout))

    def flow(self, code: str, seconds: float = 300) -> str:
        """Python in a shell of the repo, as a user of the flows would run it."""
        # What Prefect reads from `.env` in the repo's root, where `make run` writes it for a plain shell.
        file = Path(self.environment["CHURN_ENV_FILE"])
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        prefect = {name: value.strip("'\"") for name, value in found.items()}
        done = subprocess.run([str(REPO / ".venv/bin/python"), "-c", code], cwd=self.repo,
                              env={**self.environment, **prefect}, capture_output=True, text=True,
                              timeout=seconds, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """A request to the API through Envoy: status and JSON."""
        return self._ask(path, None, dict(headers or {}))

    def post(self, path: str, document: Any, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """The same with a body."""
        return self._ask(path, json.dumps(document).encode(), {**(headers or {}), "content-type": "application/json"})

    def _ask(self, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.environment['CHURN_API_PORT']}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def prefect(self, path: str, body: Mapping[str, Any]) -> Any:
        """The Prefect API, with the password `make run` wrote down."""
        import base64

        secret = (self.home.run / "prefect-auth").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.environment['CHURN_PREFECT_PORT']}/api{path}", data=json.dumps(body).encode(),
            headers={"content-type": "application/json",
                     "authorization": "Basic " + base64.b64encode(secret.encode()).decode()})
        # On SQLite the server answers nobody for half a minute after a burst of task runs.
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    @property
    def engine(self) -> sa.Engine:
        return open_state(self.home.state_url)


def make_loop(
    folder: Path, first_port: int, *, repo: Path = REPO, shared_venvs: Path | None = None, **variables: str
) -> Loop:
    """A loop under `folder` on ports from `first_port` on, with a `$HOME` of its own that must stay empty.

    Args:
        shared_venvs: where several homes keep the releases' environment, which takes half a minute to build.
    """
    if shared_venvs is not None:
        (folder / "home").mkdir(parents=True)
        (folder / "home/venvs").symlink_to(shared_venvs)
    dollar_home = folder / "dollar-home"
    dollar_home.mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items()
            if not re.match(r"(CHURN_|PREFECT_|MLFLOW_|BENTOML_|MAKE|MFLAGS|AS_OF)", name)}
    ports = {name: str(first_port + number) for number, name in enumerate(PORT_NAMES)}
    cache = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache/uv")
    environment = {
        **kept, **ports, "CHURN_RELEASE_PORT": str(first_port + 10), "CHURN_HOME": str(folder / "home"),
        "CHURN_ENV_FILE": str(folder / ".env"), "HOME": str(dollar_home), "UV_CACHE_DIR": cache,
        "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(repo), **variables,
    }
    return Loop(Home(folder / "home"), environment, repo)


def shop_charter(folder: Path) -> Path:
    """The repo's charter with a rollout that a few hundred requests can decide."""
    document = yaml.safe_load((REPO / "charter.yaml").read_text(encoding="utf-8"))
    # Latencies of a machine that runs tests beside it say little: only a canary many times as slow is one.
    document["rollout"] |= {"stages": [0.3, 0.5], "least_customers": 40, "max_error_excess": 0.15,
                            "max_slow_excess": 0.4, "max_latency_ratio": 4, "time_limit_minutes": 30}
    path = folder / "charter.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def shop_loop(tmp_path_factory: pytest.TempPathFactory, shared_venvs: Path) -> Iterator[Loop]:
    """The sample world's platform; the tests of this folder move it through time, in order."""
    folder = tmp_path_factory.mktemp("shop-loop")
    loop = make_loop(folder, 24400, shared_venvs=shared_venvs, CHURN_CHARTER=str(shop_charter(folder)),
                     ROLLOUT_DEMO_HOME=str(folder / "home"))
    try:
        yield loop
    finally:
        loop.make("down", check=False)
