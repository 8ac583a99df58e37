"""The supervisor library, against a real supervisord under tmp_path."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from models.errors import PlatformError
from tasks.home import Home
from tasks.release.processes import (
    last_log_line,
    owned_pids,
    program,
    programs,
    start_program,
    start_supervisor,
    stop_program,
    stop_supervisor,
    supervisor_running,
)
from tests.waiting import wait_for

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("a home with 100% odd; #signs"))
    start_supervisor(home)
    yield home
    stop_supervisor(home)


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[Home]:
    """For tests that stop or kill supervisord itself; nothing stays behind when they fail."""
    yield Home(tmp_path)
    stop_supervisor(Home(tmp_path))


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def running_pid(home: Home, name: str) -> int:
    wait_for(lambda: program(home, name).state == "RUNNING")
    pid = program(home, name).pid
    assert pid is not None
    return pid


@pytest.mark.service
def test_a_killed_program_comes_back(home: Home) -> None:
    start_program(home, "sleeper", SLEEP, environment={}, directory=home.root)
    first = running_pid(home, "sleeper")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: programs(home)["sleeper"].pid not in (first, None))
    assert running_pid(home, "sleeper") != first
    stop_program(home, "sleeper")


@pytest.mark.service
def test_starting_again_leaves_an_unchanged_program_alone_and_restarts_a_changed_one(home: Home) -> None:
    start_program(home, "again", SLEEP, environment={"COLOUR": "red"}, directory=home.root)
    first = running_pid(home, "again")
    start_program(home, "again", SLEEP, environment={"COLOUR": "red"}, directory=home.root)
    assert running_pid(home, "again") == first
    start_program(home, "again", SLEEP, environment={"COLOUR": "blue"}, directory=home.root)
    assert running_pid(home, "again") != first
    assert not psutil.pid_exists(first)
    stop_program(home, "again")


def test_any_value_reaches_a_program_unchanged(home: Home) -> None:
    value = "50 % ; # it's \"quoted\" $HOME `date` \\ %(here)s\nand a second line ä"
    code = "import os, time; print(ascii(os.environ['ODD']), os.getcwd(), flush=True); time.sleep(600)"
    start_program(home, "odd", [sys.executable, "-c", code], environment={"ODD": value}, directory=home.root)
    running_pid(home, "odd")
    wait_for(lambda: last_log_line(home, "odd") == f"{value!a} {home.root}")
    stop_program(home, "odd")


def test_secrets_stand_in_no_file_others_can_read(home: Home) -> None:
    start_program(home, "secret", SLEEP, environment={"PASSWORD": "x"}, directory=home.root)
    running_pid(home, "secret")
    files = [path for path in home.run.rglob("*") if path.is_file()]
    assert {"secret.sh", "secret.conf", "secret.log", "supervisord.conf", "sockets"} <= {path.name for path in files}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    folder = Path((home.run / "sockets").read_text().strip())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    stop_program(home, "secret")


@pytest.mark.service
def test_stopping_a_program_ends_even_children_that_left_its_process_group(home: Home) -> None:
    code = ("import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'], start_new_session=True); "
            "print(child.pid, flush=True); time.sleep(600)")
    start_program(home, "parent", [sys.executable, "-c", code], environment={}, directory=home.root)
    running_pid(home, "parent")
    wait_for(lambda: last_log_line(home, "parent").isdigit())
    child = int(last_log_line(home, "parent"))
    assert child in owned_pids(home)
    stop_program(home, "parent")
    assert not alive(child)
    assert "parent" not in programs(home)
    stop_program(home, "parent")  # nothing to do


def test_an_unknown_program_is_answered_with_the_nearest_name(home: Home) -> None:
    start_program(home, "worker", SLEEP, environment={}, directory=home.root)
    with pytest.raises(PlatformError, match="nearest known: worker"):
        program(home, "wroker")
    with pytest.raises(PlatformError, match="'a/b'"):
        start_program(home, "a/b", SLEEP, environment={}, directory=home.root)
    stop_program(home, "worker")


@pytest.mark.service
def test_stop_leaves_no_process_and_a_new_supervisord_brings_the_programs_back(own_home: Home) -> None:
    home = own_home
    deaf = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]
    start_supervisor(home)
    start_supervisor(home)  # idempotent
    for number in range(3):
        start_program(home, f"deaf-{number}", deaf, environment={}, directory=home.root, stop_seconds=2)
    for number in range(3):
        running_pid(home, f"deaf-{number}")
    pids = owned_pids(home)
    sockets = Path((home.run / "sockets").read_text().strip())
    begin = time.monotonic()
    stop_supervisor(home)
    assert time.monotonic() - begin < 4.8  # 2 s of grace for all three at once, not for one after the other
    assert not any(alive(pid) for pid in pids)
    assert not supervisor_running(home)
    assert not sockets.exists()
    start_supervisor(home)
    running_pid(home, "deaf-1")
    stop_supervisor(home)


@pytest.mark.service
def test_programs_of_a_killed_supervisord_are_ended_before_a_new_one_starts(own_home: Home) -> None:
    home = own_home
    start_supervisor(home)
    start_program(home, "orphan", SLEEP, environment={}, directory=home.root)
    orphan = running_pid(home, "orphan")
    sockets = Path((home.run / "sockets").read_text().strip())
    os.kill(int((sockets / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: not supervisor_running(home))
    assert psutil.pid_exists(orphan)
    start_supervisor(home)
    assert not alive(orphan)
    assert running_pid(home, "orphan") != orphan
    stop_supervisor(home)


def test_without_supervisord_the_error_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="make run"):
        programs(Home(tmp_path))
    stop_supervisor(Home(tmp_path))  # nothing to do


def test_ctrl_c_in_the_terminal_does_not_reach_supervisord(home: Home) -> None:
    folder = Path((home.run / "sockets").read_text().strip())
    pid = int((folder / "supervisord.pid").read_text())
    assert os.getsid(pid) != os.getsid(0)
    ours = subprocess.run(["ps", "-o", "tty=", "-p", str(pid)], capture_output=True, text=True, check=False)
    assert ours.stdout.strip() in ("?", "??")
