"""`make drift-ui`: Evidently's UI over the snapshots of this home, until Ctrl-C. Needs no running platform.

It listens on loopback alone, whatever CHURN_HOST says: it asks nobody who they are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO

import httpx

from deploy.local.command import command
from deploy.local.ports import check_port
from deploy.local.status import existing_place
from flows.settings import Settings, load_settings
from models.errors import DataError, PlatformError
from tasks.home import Home
from tasks.monitoring.workspace import project_id, workspace_folder

READY_SECONDS = 180  # it takes ten on a machine that does nothing else


@command()
def main() -> int:
    """0 after Ctrl-C; 1 with one line where there is nothing to show, or it does not start."""
    settings = load_settings()
    _charter, home = existing_place(settings)
    show(settings, home)
    return 0


def show(settings: Settings, home: Home) -> None:
    """Serve until Ctrl-C.

    Raises:
        DataError: no check has left a snapshot yet.
        PlatformError: the port is taken, or the UI does not start.
    """
    folder = workspace_folder(home)
    count = len(list((folder / str(project_id(home)) / "snapshots").glob("*.json")))
    if not count:
        raise DataError(f"cannot show drift over time: {folder} holds no snapshot. Run `make run` first: each drift "
                        "check leaves one")
    port = settings.evidently_port
    check_port("127.0.0.1", port, "CHURN_EVIDENTLY_PORT")
    print(f"starting Evidently's UI over {count} snapshots (up to a minute)", flush=True)
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "evidently.cli", "ui", "--workspace", str(folder), "--host", "127.0.0.1",
             "--port", str(port)],
            env={**os.environ, "DO_NOT_TRACK": "1"}, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/api/version", said)
            print(f"ready     http://127.0.0.1:{port}/projects/{project_id(home)}\nCtrl-C ends it", flush=True)
            process.wait()
            raise PlatformError(f"Evidently's UI ended by itself: {_last_line(said)}")
        except KeyboardInterrupt:
            print("ended", flush=True)
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, said: IO[str]) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise PlatformError(f"cannot start Evidently's UI: {_last_line(said)}")
        try:
            if httpx.get(address, timeout=2).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise PlatformError(f"cannot start Evidently's UI: it has not answered {address} for {READY_SECONDS} s. Try "
                        "again on a quieter machine")


def _last_line(said: IO[str]) -> str:
    said.seek(0)
    lines = said.read().strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended like by Ctrl-C, so the UI ends too
    sys.exit(main())
