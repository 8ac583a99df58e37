"""What holds for every file of the repo."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from flows.settings import REPO

ROOMS = ("flows", "tasks", "models", "feature_repo")
TOP = {"flows", "tasks", "models", "feature_repo", "data", "examples", "tests", "deploy", "docs"}
MODULES = sorted(path for room in ROOMS for path in (REPO / room).rglob("*.py"))
# Feast's objects, the service, metrics that are Evidently's: only what needs them imports them
LAST = ("definitions.py", "service.py", "evidently_metrics.py")
HEAVY = {"mlflow", "feast", "evidently", "bentoml", "sklearn", "matplotlib", "optuna"}


def tracked() -> list[Path]:
    """What git knows, or without git every file; caches and the data apart."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [REPO / name for name in listed.stdout.split("\n") if name]
    return [path for path in REPO.rglob("*") if path.is_file() and ".venv" not in path.parts]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPO)))
def test_every_module_says_what_it_is_for(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert path.stat().st_size == 0 or ast.get_docstring(tree)


@pytest.mark.parametrize("path", [path for path in MODULES if path.name not in LAST],
                         ids=lambda path: str(path.relative_to(REPO)))
def test_heavy_libraries_are_imported_where_they_are_used(path):
    """Importing Feast, MLflow, Evidently or scikit-learn costs seconds in every flow run."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & HEAVY


def test_no_file_names_a_path_of_one_machine():
    found = [path for path in tracked() if path.suffix in (".py", ".yaml", ".md", ".toml", ".sql", "")
             and path.name != "uv.lock" and path.is_file()
             and re.search(r"/(home|root|Users)/[a-z]", path.read_text(encoding="utf-8", errors="ignore"))]
    assert [str(path.relative_to(REPO)) for path in found if path != Path(__file__)] == []


def test_the_data_folder_holds_no_data():
    assert [path.name for path in tracked() if path.is_relative_to(REPO / "data")] == ["README.md"]


def test_the_top_level_is_what_the_readme_draws():
    assert {path.relative_to(REPO).parts[0] for path in tracked() if len(path.relative_to(REPO).parts) > 1} <= TOP | {
        ".ci"}


def test_ci_calls_what_a_user_would_call():
    lines = [line for line in (REPO / ".ci/run").read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")]
    assert lines[-1] == "exec make test"
    assert not any(re.search(r"\b(pip|apt-get|uv)\b", line) for line in lines)
