"""The platform clock as a file: whole for who reads it, whoever writes it at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.clock import publish_clock
from tasks.home import Home
from tasks.state import open_state
from tests.decision_world import CHARTER


def test_two_processes_that_publish_the_clock_at_once_do_not_take_each_others_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nightly ingest and `make run`: the second one ended with FileNotFoundError, and readers saw an empty file."""
    engine, home = open_state(f"sqlite:///{tmp_path}/state.db"), Home(tmp_path / "home", "shop")
    rename, mine = Path.rename, os.getpid()

    def after_another_process(beside: Path, to: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: mine + 1)
            publish_clock(engine, CHARTER, home)
        return rename(beside, to)

    monkeypatch.setattr(Path, "rename", after_another_process)
    publish_clock(engine, CHARTER, home)
    assert CHARTER.problem.first_as_of is not None
    assert (home.run / "clock").read_text(encoding="utf-8") == CHARTER.problem.first_as_of.isoformat()
    assert [path.name for path in home.run.iterdir()] == ["clock"]
