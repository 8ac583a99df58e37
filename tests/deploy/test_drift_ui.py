"""`make drift-ui`: Evidently's UI really starts, draws what the checks left, listens on loopback and ends on Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from flows.settings import REPO
from tasks.home import Home
from tasks.monitoring.workspace import project_id

PORT = 25610


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "CHURN_HOME": str(home), "CHURN_EVIDENTLY_PORT": str(PORT),
            "CHURN_CHARTER": str(REPO / "charter.yaml"), "CHURN_ENV_FILE": str(home / "env"), "CHURN_HOST": "0.0.0.0"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "charter-name").write_text("shop\n")
    return Home(tmp_path, "shop")


def ask(home: Home) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "deploy.local.drift_ui"], env=environment(home.root), cwd=REPO,
                          capture_output=True, text=True, check=False, timeout=120)


def leave_snapshots(home: Home) -> None:
    from evidently import Dataset, Report
    from pandas import DataFrame

    from tasks.monitoring.evidently_metrics import Reading
    from tasks.monitoring.workspace import keep_snapshot

    for month in (1, 2):
        as_of = datetime(2025, month, 1, tzinfo=UTC)
        run = Report([Reading(name="AUC", number=0.7 + month / 100)]).run(
            Dataset.from_pandas(DataFrame({"a": [1.0]})), None, timestamp=as_of)
        keep_snapshot(run, home, as_of)


@pytest.mark.service
def test_the_ui_starts_says_where_draws_one_line_and_ends_on_ctrl_c(home: Home) -> None:
    leave_snapshots(home)
    process = subprocess.Popen([sys.executable, "-m", "deploy.local.drift_ui"], env=environment(home.root), cwd=REPO,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "starting Evidently's UI over 2 snapshots (up to a minute)\n"
        assert process.stdout.readline().split() == ["ready", f"http://127.0.0.1:{PORT}/projects/{project_id(home)}"]
        address = f"http://127.0.0.1:{PORT}/api/projects/{project_id(home)}"
        assert httpx.get(f"{address}/info", timeout=20).json()["name"] == "shop"
        with socket.socket() as other, pytest.raises(OSError, match="refused"):  # loopback, whatever CHURN_HOST says
            other.connect(("127.0.0.2", PORT))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stdout.read().splitlines()[-1] == "ended"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/info", timeout=5)
    finally:
        process.kill()
        process.wait()


def test_without_a_snapshot_it_says_what_to_do(home: Home) -> None:
    answer = ask(home)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("error: cannot show drift over time: ")
    assert answer.stderr.endswith("Run `make run` first: each drift check leaves one\n")


def test_a_taken_port_names_the_variable(home: Home) -> None:
    folder = home.reports / "evidently" / str(project_id(home)) / "snapshots"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{}")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", PORT))
        holder.listen()
        answer = ask(home)
    assert answer.returncode == 1
    assert f"cannot use port {PORT}" in answer.stderr
    assert "set CHURN_EVIDENTLY_PORT" in answer.stderr
