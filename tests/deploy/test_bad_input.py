"""`make run` with bad input: one clear line, exit code 1, nothing half-written. The data's own faults: tests/tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.settings import REPO


def run(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What `make run` calls, in a home under `tmp_path`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CHURN_", "AS_OF"))}
    environment |= {"CHURN_HOME": str(tmp_path / "home"), "CHURN_ENV_FILE": str(tmp_path / ".env"), **variables}
    return subprocess.run([sys.executable, "-m", "deploy.local.run", *arguments], cwd=REPO, env=environment,
                          capture_output=True, text=True, timeout=60, check=False)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def charter(tmp_path: Path, **problem: object) -> str:
    document = yaml.safe_load((REPO / "charter.yaml").read_text(encoding="utf-8"))
    document["problem"] |= problem
    path = tmp_path / "charter.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def test_an_as_of_that_is_no_date(tmp_path):
    assert "cannot read AS_OF='soon': not a date" in refused(run(tmp_path, AS_OF="soon"))
    assert not (tmp_path / "home").exists()


def test_a_charter_with_an_unknown_key(tmp_path):
    said = refused(run(tmp_path, CHURN_CHARTER=charter(tmp_path, horizont_days=30)))
    assert "unknown key 'problem.horizont_days'; nearest known: horizon_days" in said
    assert not (tmp_path / "home").exists()


def test_a_charter_with_a_horizon_of_zero(tmp_path):
    assert "problem.horizon_days is 0" in refused(run(tmp_path, CHURN_CHARTER=charter(tmp_path, horizon_days=0)))


def test_a_home_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(run(tmp_path, CHURN_HOME=str(tmp_path / "file/home")))
    assert "cannot write CHURN_HOME=" in said
    assert "Set CHURN_HOME" in said


def test_a_home_of_another_charter(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/charter-name").write_text("other\n")
    assert "it holds the charter 'other', not 'shop'" in refused(run(tmp_path))


@pytest.mark.parametrize(("name", "value"), [("CHURN_API_PORT", "http"), ("CHURN_API_PORT", "0")])
def test_a_port_that_is_none(tmp_path, name, value):
    assert f"cannot use {name}='{value}'" in refused(run(tmp_path, **{name: value}))


def test_a_port_that_is_taken(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = refused(run(tmp_path, CHURN_API_PORT=str(taken.getsockname()[1]), CHURN_PREFECT_PORT="24490",
                           CHURN_MLFLOW_PORT="24491", CHURN_METRICS_PORT="24492", CHURN_RELEASE_PORT="24480"))
    assert "CHURN_API_PORT" in said
    assert str(os.getpid()) in said


def test_a_sources_file_that_is_missing(tmp_path):
    said = refused(run(tmp_path, CHURN_SOURCES=str(tmp_path / "none.yaml")))
    assert "none.yaml does not exist. Set CHURN_SOURCES" in said
    assert not (tmp_path / "home/run/supervisord.conf").exists(), "found out before anything is started"


def test_a_source_file_that_is_missing(tmp_path):
    sources = tmp_path / "sources.yaml"
    sources.write_text((REPO / "examples/cdnow/sources.yaml").read_text(encoding="utf-8"))
    said = refused(run(tmp_path, CHURN_SOURCES=str(sources), CDNOW_FOLDER=str(tmp_path / "nowhere")))
    assert "no file matches" in said
    assert not (tmp_path / "home/run/supervisord.conf").exists()


@pytest.mark.parametrize(("variable", "value", "told"), [
    ("CHURN_ONLINE_STORE", "redis://127.0.0.1:1/0", "cannot use the online store redis://127.0.0.1:1/0: "),
    ("CHURN_FEATURE_REGISTRY", "postgresql://me@127.0.0.1:1/churn", "cannot use the feature registry "),
])
def test_a_store_that_does_not_answer_is_told_before_anything_starts(tmp_path, variable, value, told):
    said = refused(run(tmp_path, **{variable: value}))
    assert told in said
    assert said.endswith(f"Start it, or mend {variable}")
    assert not (tmp_path / "home/run").exists()
