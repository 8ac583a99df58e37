"""Resident memory of the platform, as PSS: `python -m deploy.local.memory`. Reads /proc (Linux only)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psutil

from deploy.local.command import command
from flows.settings import load_place, load_settings
from models.errors import PlatformError
from tasks.home import Home
from tasks.release.processes import owned_pids, programs
from tasks.release.supervisord import PROGRAM

LIMIT_MIB, LIMIT_ROLLOUT_MIB = 1536, 2048  # with the champion only; while a canary runs beside it


def pss_mib(pid: int) -> float:
    """Proportional set size of a process in MiB: its own pages, and its share of those it shares; 0 once it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) / 1024 if found else 0.0


def memory_by_program(home: Home) -> dict[str, tuple[int, float]]:
    """Program -> (processes, PSS in MiB); supervisord itself under its own name.

    Raises:
        PlatformError: no /proc, or the platform does not run.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise PlatformError("cannot measure PSS on this system: it has no /proc/PID/smaps_rollup. Use Linux")
    found = dict.fromkeys(programs(home), (0, 0.0))
    for pid in sorted(owned_pids(home)):
        try:
            name = psutil.Process(pid).environ().get(PROGRAM, "supervisord")
        except psutil.Error:
            continue
        processes, mib = found.get(name, (0, 0.0))
        found[name] = (processes + 1, mib + pss_mib(pid))
    return found


def table(found: dict[str, tuple[int, float]]) -> str:
    """One row a program; the last row is the sum, what it may be, and `ok` or `missed`."""
    releases = len(found.keys() - {"supervisord", "prefect-server", "worker", "mlflow-ui", "envoy", "watchdog",
                                   "exporter"})
    limit = LIMIT_MIB if releases <= 1 else LIMIT_ROLLOUT_MIB
    rows = [f"{name:<34} {processes:>9} {mib:>9.0f}" for name, (processes, mib) in sorted(found.items())]
    total = sum(mib for _processes, mib in found.values())
    verdict = "ok" if total <= limit else "missed"
    count = sum(processes for processes, _mib in found.values())
    return "\n".join([
        f"{'program':<34} {'processes':>9} {'PSS, MiB':>9}", *rows,
        f"{f'all, {releases} release(s)':<34} {count:>9} {total:>9.0f}   limit {limit} MiB   {verdict}",
    ])


@command()
def main() -> int:
    _charter, home = load_place(load_settings())
    print(table(memory_by_program(home)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
