"""Processes of the local platform. Reads and writes `home.run`: one file a program, and supervisord's socket.

supervisord restarts what dies; this module only tells it what there should be. A program's command
and environment stand in a shell script beside its supervisor section: supervisor's own ini format
cannot hold every value (`%`, `;`, quotes, line breaks), a quoted shell word can. Files are 0600, since
the environment carries secrets.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.errors import PlatformError, nearest
from tasks.home import Home
from tasks.release.supervisord import (
    MARK,
    SUPERVISORD,
    allowed,
    end_leftovers,
    forget_sockets,
    kill,
    make_sockets,
    owned,
    server_url,
    supervisor,
    write_private,
)

SECTION = """\
[program:{name}]
command=/bin/sh programs/{name}.sh
environment=CHURN_PROGRAM="{digest}"
umask=077
autorestart=true
startsecs=1
startretries=20
stopwaitsecs={stop_seconds}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=5MB
stdout_logfile_backups=2
"""


@dataclass(frozen=True)
class ProgramInfo:
    """What supervisord knows of a program."""

    state: str  # supervisor's own word: "RUNNING", "STARTING", "BACKOFF", "STOPPED", "EXITED", "FATAL"
    pid: int | None
    since: datetime | None  # UTC; when it reached a running state


def start_supervisor(home: Home) -> None:
    """Start supervisord in a session of its own; nothing to do where it answers.

    Programs whose files are still in `home.run/programs` come up with it.

    Raises:
        PlatformError: it does not answer within 15 s.
    """
    if supervisor_running(home):
        return
    end_leftovers(home)  # of a supervisord that was killed: its programs still hold the ports
    forget_sockets(home)
    for folder in (home.run, home.run / "programs", home.run / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    sockets = make_sockets()
    write_private(home.run / "supervisord.conf", SUPERVISORD % {"sockets": str(sockets)})
    write_private(home.run / "sockets", f"{sockets}\n")
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
                   if name in os.environ}
    started = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"], cwd=home.run,
        env={**environment, MARK: server_url(sockets)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        start_new_session=True, umask=0o077, check=False,
    )
    deadline = time.monotonic() + 15
    while not supervisor_running(home):
        if started.returncode or time.monotonic() > deadline:
            said = (started.stderr or started.stdout).strip().splitlines()
            raise PlatformError(f"cannot start supervisord: {said[-1] if said else 'no answer for 15 s'}. "
                                f"See {home.run / 'logs' / 'supervisord.log'}")
        time.sleep(0.05)


def supervisor_running(home: Home) -> bool:
    """Whether supervisord answers on its socket."""
    try:
        with supervisor(home) as server:
            return bool(server.getState()["statename"] == "RUNNING")
    except PlatformError:
        return False


def start_program(
    home: Home, name: str, command: list[str], *, environment: Mapping[str, str], directory: Path,
    stop_seconds: int = 5,
) -> None:
    """Have supervisord keep a program running; restarted where command or environment changed.

    Args:
        home: whose supervisord.
        name: letters, digits, `-`, `_` and `.`; names the log file too.
        command: argument vector; the program must stay in the foreground.
        environment: all it gets, beside what supervisord itself was started with (PATH, HOME, locale).
        directory: working directory.
        stop_seconds: time between SIGTERM and SIGKILL, both to its whole process group.

    Raises:
        PlatformError: the name cannot be used, or supervisord does not run.
    """
    if not name or not all(sign.isascii() and (sign.isalnum() or sign in "-_.") for sign in name):
        raise PlatformError(f"cannot start a program named {name!r}: use letters, digits, '-', '_' and '.'")
    script = _script(command, environment, directory)
    digest = hashlib.sha256(script.encode()).hexdigest()[:16]
    programs_folder = home.run / "programs"
    with supervisor(home) as server:
        write_private(programs_folder / f"{name}.sh", script)
        write_private(programs_folder / f"{name}.conf",
                       SECTION.format(name=name, digest=digest, stop_seconds=stop_seconds))
        _added, changed, _removed = server.reloadConfig()[0]
        if name in changed:
            _remove_group(server, home, name)
        with allowed("ALREADY_ADDED"):
            server.addProcessGroup(name)
            return
        if server.getProcessInfo(name)["statename"] in ("STOPPED", "EXITED", "FATAL"):
            with allowed("ALREADY_STARTED"):
                server.startProcess(name, False)


def started_with(home: Home, name: str, environment: Mapping[str, str]) -> bool:
    """Whether a program's file sets each of these variables to just this value."""
    try:
        lines = (home.run / "programs" / f"{name}.sh").read_text(encoding="utf-8")
    except OSError:
        return False
    return all(f"{_export(variable, value)}\n" in lines for variable, value in environment.items())


def stop_program(home: Home, name: str) -> None:
    """Stop a program and everything it started, and forget it; nothing to do where there is none."""
    with supervisor(home) as server:
        for suffix in (".conf", ".sh"):
            (home.run / "programs" / f"{name}{suffix}").unlink(missing_ok=True)
        server.reloadConfig()
        _remove_group(server, home, name)


def programs(home: Home) -> dict[str, ProgramInfo]:
    """Every program by name.

    Raises:
        PlatformError: supervisord does not run.
    """
    with supervisor(home) as server:
        return {info["name"]: ProgramInfo(info["statename"], info["pid"] or None,
                                          datetime.fromtimestamp(info["start"], UTC) if info["start"] else None)
                for info in server.getAllProcessInfo()}


def program(home: Home, name: str) -> ProgramInfo:
    """One program.

    Raises:
        PlatformError: supervisord does not run, or knows no such program.
    """
    known = programs(home)
    if name not in known:
        raise PlatformError(f"no program {name!r} runs under {home.root}: {nearest(name, known)}")
    return known[name]


def stop_supervisor(home: Home) -> None:
    """Stop all programs side by side, then supervisord; leaves no process of theirs.

    The programs' files stay: the next `start_supervisor` brings them up again.
    """
    if supervisor_running(home):
        with contextlib.suppress(PlatformError), supervisor(home) as server:
            server.stopAllProcesses()
            server.shutdown()
        deadline = time.monotonic() + 5
        while owned(home, name="") and time.monotonic() < deadline:
            time.sleep(0.05)
    end_leftovers(home)
    forget_sockets(home)


def owned_pids(home: Home) -> set[int]:
    """Process ids of supervisord and of all it started, orphans too."""
    return {process.pid for process in owned(home)}


def log_file(home: Home, name: str) -> Path:
    """Where a program's output goes."""
    return home.run / "logs" / f"{name}.log"


def last_log_line(home: Home, name: str, *, error: bool = False) -> str:
    """The last line a program wrote, cut to 300 characters; empty where it wrote none.

    With `error` the last line that names one, if there is such a line: what follows it is often no help.
    """
    try:
        with log_file(home, name).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    telling = [line for line in lines if error and ("Error" in line or "error:" in line)]
    return (telling or lines or [""])[-1][:300]


def _remove_group(server: Any, home: Home, name: str) -> None:
    with allowed("BAD_NAME"):
        server.stopProcessGroup(name)
        kill(owned(home, name=name))  # flow runs and workers may have left the process group
        server.removeProcessGroup(name)


def _script(command: list[str], environment: Mapping[str, str], directory: Path) -> str:
    exports = [_export(name, value) for name, value in sorted(environment.items())]
    return "\n".join([*exports, f"cd {shlex.quote(str(directory))} || exit 1", f"exec {shlex.join(command)}", ""])


def _export(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"
