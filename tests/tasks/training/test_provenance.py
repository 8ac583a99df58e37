from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.training import provenance as module
from tasks.training.provenance import Provenance, compare, provenance
from tests.tasks.training.experiment import MADE_WITH


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with one file that can change a number, and one that cannot."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/a.py").write_text("x = 1\n")
    (tmp_path / "README.md").write_text("hello\n")
    (tmp_path / "uv.lock").write_text("numpy\n")
    for words in (["init", "-q"], ["add", "."],
                  ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


def test_a_clean_tree_is_told_by_its_commit(repo):
    found = provenance(repo)
    head = subprocess.run(["git", "-C", str(repo), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert (found.commit, found.clean, found.git) == (head.stdout.strip(), True, "clean")
    assert list(found.files) == ["models/a.py"]
    assert found.libraries["numpy"].count(".") == 2


def test_a_changed_and_a_new_file_make_it_unclean_and_are_named(repo):
    (repo / "models/a.py").write_text("x = 2\n")
    (repo / "models/b.py").write_text("y = 1\n")
    (repo / "README.md").write_text("other\n")  # changes no number
    found = provenance(repo)
    assert (found.clean, found.git) == (False, "changed: models/a.py, models/b.py")


def test_without_a_repository_it_says_so_and_still_knows_the_files(repo):
    import shutil

    shutil.rmtree(repo / ".git")
    found = provenance(repo)
    assert (found.commit, found.clean) == (None, None)
    assert "not a git repository" in found.git
    assert list(found.files) == ["models/a.py"]


def test_without_git_it_says_so(repo, monkeypatch):
    monkeypatch.setenv("PATH", str(repo))
    assert provenance(repo).git == "git is not installed"


def test_a_git_that_hangs_is_no_reason_to_hang(repo, monkeypatch):
    (repo / "git").write_text("#!/bin/sh\nexec sleep 30\n")
    (repo / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{repo}:/usr/bin:/bin")
    monkeypatch.setattr(module, "GIT_SECONDS", 0.1)
    assert "did not answer" in provenance(repo).git


def test_the_same_is_the_same():
    assert compare(MADE_WITH, Provenance.of(MADE_WITH.to_dict())) == []


def test_every_difference_is_named_with_both_values():
    now = Provenance("def", False, "changed", {"models/training/fit.py": "999", "models/new.py": "1"}, None,
                     {"numpy": "2.1", "scipy": "1.0"}, "3.12", "Linux")
    assert [one.line for one in compare(MADE_WITH, now)] == [
        "code commit: abc when it was recorded, def now",
        "code file models/new.py: absent when it was recorded, 1 now",
        "code file models/training/fit.py: 111 when it was recorded, 999 now",
        "lock file uv.lock: 222 when it was recorded, absent now",
        "library numpy: 2.0 when it was recorded, 2.1 now",
        "library scipy: absent when it was recorded, 1.0 now",
        "Python: 3.11 when it was recorded, 3.12 now",
    ]


def test_a_commit_that_cannot_be_told_is_a_difference_with_the_reason():
    assert compare(MADE_WITH, replace(MADE_WITH, commit=None, git="git is not installed"))[0].now == (
        "git is not installed")
