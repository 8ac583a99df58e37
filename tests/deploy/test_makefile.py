"""The Makefile: what it needs, and what it says where that is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.settings import REPO


def make(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False,
                          env=environment | ({"PATH": path} if path else {}))


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A clone without .venv, as far as setting up reads it."""
    for name in ("Makefile", "uv.lock", "pyproject.toml"):
        shutil.copy(REPO / name, tmp_path / name)
    shutil.copytree(REPO / "deploy", tmp_path / "deploy")
    return tmp_path


def test_every_command_is_listed_with_what_it_does(fresh: Path) -> None:
    said = make(fresh).stdout
    for command in ("run", "test", "check", "status", "down", "release"):
        assert f"make {command} " in said


@pytest.mark.parametrize(("code", "words"), [
    (11, "no Python 3.11 or 3.12 found"), (12, "has no venv module. Install it (Debian: apt install python3-venv)"),
    (13, "on the moon"), (127, "no Python 3.11 or 3.12 found"),
])
def test_without_a_fitting_python_there_is_one_clear_line_and_no_half_made_venv(
    fresh: Path, code: int, words: str
) -> None:
    python = fresh / "some-python"
    python.write_text(f"#!/bin/sh\necho on the moon\nexit {code}\n")
    python.chmod(0o755)
    done = make(fresh, "run", f"PYTHON={python}")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert len(errors) == 1
    assert words in errors[0]
    assert not (fresh / ".venv").exists()


def test_the_pinned_uv_is_found_in_the_lock(fresh: Path) -> None:
    python = fresh / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho \"$@\" >> called\n[ \"$3\" = install ] && exit 1\nexit 0\n")
    python.chmod(0o755)
    make(fresh, "install")
    version = subprocess.run([REPO / ".venv" / "bin" / "uv", "--version"], capture_output=True, text=True, check=True)
    assert f"uv=={version.stdout.split()[1]}" in (fresh / "called").read_text()
