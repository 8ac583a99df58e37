"""The demo's fault on a real process: it hangs while the block runs, and never afterwards."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from deploy.local import demo_faults
from deploy.local.demo_faults import hanging
from tasks.home import Home
from tasks.release.processes import start_program, start_supervisor, stop_supervisor
from tasks.release.release_process import program_name
from tasks.release.supervisord import owned


@pytest.mark.service
def test_a_release_that_is_named_hangs_and_goes_on_and_nobody_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_faults, "ANSWERS", 0.1)
    home = Home(tmp_path)
    start_supervisor(home)
    try:
        for release_id in ("churn:a", "churn:b"):
            start_program(home, program_name(release_id), ["/bin/sleep", "60"], environment={}, directory=tmp_path)

        def states(release_id: str) -> set[str]:
            return {process.status() for process in owned(home, name=program_name(release_id))}

        with hanging(home, lambda: "churn:a"):
            deadline = time.monotonic() + 20
            while states("churn:a") != {psutil.STATUS_STOPPED} and time.monotonic() < deadline:
                time.sleep(0.05)
            assert (states("churn:a"), psutil.STATUS_STOPPED in states("churn:b")) == ({psutil.STATUS_STOPPED}, False)
        assert psutil.STATUS_STOPPED not in states("churn:a")
    finally:
        stop_supervisor(home)
