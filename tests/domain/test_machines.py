"""Another domain on the same code: only `feature_repo/` and the charter are replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.release import rollouts
from tasks.state import read_decisions
from tests.domain.readings import write_readings
from tests.loop.conftest import REPO, make_loop

pytestmark = pytest.mark.service

MACHINES = Path(__file__).parent / "machines"
ROOMS = ("flows", "tasks", "models", "feature_repo", "deploy", "examples")


def test_another_domain_needs_nothing_but_feature_repo_and_a_charter(tmp_path, shared_venvs):
    repo = tmp_path / "repo"
    for room in ROOMS:
        shutil.copytree(REPO / room, repo / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "uv.lock", "prefect.yaml", "Makefile"):
        shutil.copy(REPO / name, repo / name)
    for name in ("contract.py", "snapshot.sql", "labels.sql", "sources.yaml"):
        shutil.copy(MACHINES / name, repo / "feature_repo" / name)
    shutil.copy(MACHINES / "charter.yaml", repo / "charter.yaml")
    (repo / ".venv").symlink_to(REPO / ".venv")
    write_readings(tmp_path / "data/readings.csv")
    loop = make_loop(tmp_path, 24450, repo=repo, shared_venvs=shared_venvs,
                     READINGS_FOLDER=str(tmp_path / "data"))
    try:
        printed = loop.make("run").stdout
        decision = read_decisions(loop.engine, gate="promotion")[0].decision
        assert decision.verdict == "promote", decision.reason
        assert rollouts.champion(loop.engine) is not None
        machine = printed.strip().splitlines()[-1].split("/")[-2]
        assert machine.startswith("m")
        code, answer = loop.get(f"/v1/customers/{machine}/churn")
        assert (code, answer["customer_id"]) == (200, machine)
        assert read_decisions(loop.engine, gate="drift")[0].decision.verdict in ("nothing", "harmless")
    finally:
        loop.make("down", check=False)
