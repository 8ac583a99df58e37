"""The platform clock as a file: whole for who reads it, whoever writes it at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.clock import publish_clock
from tasks.home import Home
from tasks.state import open_state, read_clock, set_clock
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


def test_two_that_move_the_clock_at_once_both_succeed(state_url: str) -> None:
    """On PostgreSQL one of them ended with a violated key: neither saw the row that the other had put in."""
    engine, dates = open_state(state_url), [datetime(2025, month, 1, tzinfo=UTC) for month in range(1, 13)]
    set_clock(engine, dates[0])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda moment: set_clock(engine, moment), dates * 20))
    assert read_clock(engine) in dates
