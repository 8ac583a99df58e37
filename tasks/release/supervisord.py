"""supervisord itself: its configuration, its socket, and which processes are its own. Reads and writes `home.run`.

Every process supervisord starts carries its address in the environment, and so does what that one
starts: by this mark an orphan is found when both are long dead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from models.errors import PlatformError
from tasks.home import Home

MARK = "SUPERVISOR_SERVER_URL"  # supervisord gives it to every child, so even an orphan says whose it is
PROGRAM = "SUPERVISOR_PROCESS_NAME"
LONGEST_SOCKET = 100  # a Unix socket's path may have 107 bytes on Linux and 103 on macOS
SUPERVISORD = """\
[unix_http_server]
file=%(sockets)s/supervisor.sock
chmod=0600
[supervisord]
pidfile=%(sockets)s/supervisord.pid
logfile=logs/supervisord.log
logfile_maxbytes=1MB
logfile_backups=2
childlogdir=logs
umask=077
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[include]
files=programs/*.conf
"""


def write_private(path: Path, text: str) -> None:
    """Write beside and rename; readable by the owner from the first byte."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    beside.rename(path)


def make_sockets() -> Path:
    """A new 0700 folder whose path is short enough for a socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="churn-"))  # 0700
    if len(os.fsencode(folder / "supervisor.sock.12345678")) > LONGEST_SOCKET:  # TMPDIR may be long; /tmp is not
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="churn-", dir="/tmp"))
    return folder


def _sockets(home: Home) -> Path | None:
    try:
        text = (home.run / "sockets").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return Path(text) if text else None


def sockets(home: Home) -> Path:
    """The short 0700 folder for Unix sockets; it lives as long as supervisord.

    Raises:
        PlatformError: supervisord was not started.
    """
    folder = _sockets(home)
    if folder is None:
        raise PlatformError(f"the platform of {home.root} does not run. Start it with `make run`")
    return folder


def forget_sockets(home: Home) -> None:
    """Remove the folder of the sockets, and the file that names it."""
    folder = _sockets(home)
    if folder is not None and folder.name.startswith("churn-"):  # never a folder somebody else wrote in here
        shutil.rmtree(folder, ignore_errors=True)
    (home.run / "sockets").unlink(missing_ok=True)


def server_url(folder: Path) -> str:
    """Where supervisord listens; the mark of its processes."""
    return f"unix://{folder}/supervisor.sock"


@contextlib.contextmanager
def supervisor(home: Home) -> Iterator[Any]:
    """supervisord's XML-RPC interface; every failure to reach it is one PlatformError."""
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(serverurl=server_url(sockets(home)))
    try:
        yield xmlrpc.client.ServerProxy("http://supervisor", transport=transport).supervisor
    except (OSError, xmlrpc.client.Error) as error:
        said = getattr(error, "faultString", None) or getattr(error, "strerror", None) or str(error)
        raise PlatformError(f"cannot reach supervisord of {home.root}: {said}. Start it with `make run`") from None
    finally:
        transport.close()


@contextlib.contextmanager
def allowed(*faults: str) -> Iterator[None]:
    """Pass over the named faults: the wanted state is reached already, perhaps by another caller."""
    from supervisor.xmlrpc import Faults

    try:
        yield
    except xmlrpc.client.Fault as fault:
        if fault.faultCode not in {getattr(Faults, name) for name in faults}:
            raise


def owned(home: Home, *, name: str | None = None) -> list[psutil.Process]:
    """Processes that carry this supervisord's mark; with `name` those of one program, "" supervisord itself."""
    folder = _sockets(home)
    if folder is None:
        return []
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if environment.get(MARK) == server_url(folder) and name in (None, environment.get(PROGRAM, "")):
                found.append(process)
    return [process for process in found if _alive(process)]


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL, and wait up to 5 s until they are gone (a zombie is gone: it holds nothing)."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + 5
    while any(_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def end_leftovers(home: Home) -> None:
    """Kill supervisord first, so that it restarts nothing, then whatever carries its mark."""
    kill(owned(home, name=""))
    kill(owned(home))
