"""The level in force: what is said, else what the home holds; a home that lost it is manual, and says so."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.local.parts import make_secrets, watchdog_environment, worker_environment
from flows.settings import Settings, load_place, load_settings
from models.decision import Decision
from tasks.home import Home
from tasks.maturity import keep_level, note_level, read_level
from tasks.state import open_state, record_decision


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a home that nobody has used."""
    monkeypatch.delenv("CHURN_MATURITY", raising=False)
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def started() -> int:
    """The level that `make run` starts with in this shell."""
    settings = load_settings()
    _, home = load_place(settings)
    return keep_level(home, settings.maturity).number


def test_a_plain_start_keeps_the_level_that_was_said_before_though_run_was_emptied(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started() == 3  # a new home
    monkeypatch.setenv("CHURN_MATURITY", "2")
    assert started() == 2
    monkeypatch.delenv("CHURN_MATURITY")
    shutil.rmtree(root / "run", ignore_errors=True)
    assert started() == 2


@pytest.mark.usefixtures("root")
def test_a_new_home_is_noted_with_the_level_of_its_first_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURN_MATURITY", "1")
    load_place(load_settings())
    monkeypatch.delenv("CHURN_MATURITY")
    assert started() == 1


@pytest.mark.parametrize("marks", [("maturity",), ("maturity", "charter-name")])
def test_a_home_with_state_that_lost_its_note_is_manual_until_a_level_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, marks: tuple[str, ...]
) -> None:
    assert started() == 3
    record_decision(open_state(Home(root).state_url), Decision("data", "accept", "fine"),
                    as_of=datetime(2025, 1, 1, tzinfo=UTC))
    for mark in marks:
        (root / mark).unlink()
    assert [started(), started()] == [1, 1]
    fault = read_level(Home(root)).fault or ""
    assert fault.startswith(f"the maturity level cannot be read from {root}/maturity (No such file or directory)")
    assert "`CHURN_MATURITY=2 make run`" in fault
    monkeypatch.setenv("CHURN_MATURITY", "3")
    assert started() == 3
    monkeypatch.delenv("CHURN_MATURITY")
    assert (started(), read_level(Home(root)).fault) == (3, None)


@pytest.mark.parametrize("note", [b"", b"9", b"0", b"\xff", b"2.0", b"2 3"])
def test_a_note_that_says_no_level_is_manual_and_says_so_but_what_is_said_counts(tmp_path: Path, note: bytes) -> None:
    home = Home(tmp_path)
    (tmp_path / "maturity").write_bytes(note)
    level = read_level(home)
    assert (level.number, "it holds none of 1, 2 and 3" in (level.fault or "")) == (1, True)
    assert read_level(home, 3).number == 3


def test_the_programs_of_the_platform_go_by_the_note_whatever_their_shell_said(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHURN_MATURITY", "3")
    settings = Settings(home=root, maturity=3)
    _, home = load_place(settings)
    make_secrets(home)
    for environment in (worker_environment(settings, home), watchdog_environment(settings, home)):
        assert "CHURN_MATURITY" not in environment
        assert "CHURN_API_PORT" in environment
    note_level(home, 1)
    assert read_level(home).number == 1
