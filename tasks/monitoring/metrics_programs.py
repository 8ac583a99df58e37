"""What the platform's processes use, as metrics. Reads supervisord and /proc."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tasks.home import Home
from tasks.release.processes import ProgramInfo, programs
from tasks.release.supervisord import sockets

SUPERVISORD: Final = "supervisord"
PSS_EVERY: Final = 60.0  # seconds
FOLDERS: Final = ("lake", "serving", "run")


@dataclass
class Usage:
    """What all processes of a program use together."""

    processes: int = 0
    cpu_seconds: float = 0.0
    rss: int = 0
    pss: int = 0
    open_files: int = 0


@dataclass
class Restarts:
    """How often each program was seen with another process than before; a restart between two looks counts once."""

    counts: dict[str, int] = field(default_factory=dict)
    _pids: dict[str, int] = field(default_factory=dict)

    def see(self, found: dict[str, ProgramInfo]) -> None:
        for name, info in found.items():
            self.counts.setdefault(name, 0)
            if info.pid is not None:
                self.counts[name] += self._pids.get(name, info.pid) != info.pid
                self._pids[name] = info.pid


@dataclass
class Shares:
    """PSS of each process, measured once a minute: the kernel walks all its pages for it, 4 ms of CPU each, and holds
    up what the process would map meanwhile."""

    _measured: dict[int, tuple[float, int]] = field(default_factory=dict)  # pid -> monotonic second, bytes

    def of(self, pid: int) -> int:
        """In bytes."""
        at, known = self._measured.get(pid, (-PSS_EVERY, 0))
        if time.monotonic() - at < PSS_EVERY:
            return known
        self._measured[pid] = (time.monotonic(), _pss(pid))
        return self._measured[pid][1]

    def forget(self, living: Collection[int]) -> None:
        """Processes that have ended."""
        self._measured = {pid: value for pid, value in self._measured.items() if pid in living}


def program_metrics(home: Home, restarts: Restarts, shares: Shares) -> Iterator[Metric]:
    """Each program under supervisord, and supervisord itself.

    Raises:
        PlatformError: supervisord does not answer.
    """
    found = programs(home)
    restarts.see(found)
    up, started, restarted = (
        GaugeMetricFamily("churn_program_up", "whether supervisord says RUNNING", labels=["program"]),
        GaugeMetricFamily("churn_program_start_time_seconds", "UNIX time of its start", labels=["program"]),
        CounterMetricFamily("churn_program_restarts", "restarts seen since the exporter runs", labels=["program"]))
    for name, info in found.items():
        up.add_metric([name], info.state == "RUNNING")
        restarted.add_metric([name], restarts.counts[name])
        if info.since:
            started.add_metric([name], info.since.timestamp())
    yield from (up, started, restarted)
    usage = {name: Usage() for name in (*found, SUPERVISORD)}
    processes = list(_processes(home, found))
    shares.forget({process.pid for _, process in processes})
    for name, process in processes:
        _add(usage[name], process, shares)
    for metric, text, attribute in (
        ("churn_program_processes", "processes", "processes"),
        ("churn_program_memory_rss_bytes", "resident memory; pages that are shared count in each process", "rss"),
        ("churn_program_memory_pss_bytes", "the same, shared pages divided; at most a minute ago", "pss"),
        ("churn_program_open_files", "open files and sockets", "open_files"),
    ):
        gauge = GaugeMetricFamily(metric, text, labels=["program"])
        for name, used in usage.items():
            gauge.add_metric([name], getattr(used, attribute))
        yield gauge
    cpu = CounterMetricFamily("churn_program_cpu_seconds", "CPU, user and system, ended children too",
                              labels=["program"])
    for name, used in usage.items():
        cpu.add_metric([name], used.cpu_seconds)
    yield cpu


def _processes(home: Home, found: dict[str, ProgramInfo]) -> Iterator[tuple[str, psutil.Process]]:
    """Every process below supervisord with its program, by who started whom: one look at the table of processes."""
    root = int((sockets(home) / "supervisord.pid").read_text(encoding="ascii"))
    named = {info.pid: name for name, info in found.items() if info.pid} | {root: SUPERVISORD}
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process)
        if process.pid == root:
            yield SUPERVISORD, process
    waiting = [(SUPERVISORD, child) for child in children.get(root, [])]
    while waiting:
        parent, process = waiting.pop()
        name = named.get(process.pid, parent)
        yield name, process
        waiting += [(name, child) for child in children.get(process.pid, [])]


def _add(used: Usage, process: psutil.Process, shares: Shares) -> None:
    with contextlib.suppress(psutil.Error, OSError):  # it has just ended
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
        used.cpu_seconds += times.user + times.system + getattr(times, "children_user", 0.0) + getattr(
            times, "children_system", 0.0)
        used.rss += memory.rss
        used.processes += 1
        used.open_files += process.num_fds()
        used.pss += shares.of(process.pid)


def _pss(pid: int) -> int:
    """Proportional set size in bytes; 0 where the system does not tell (it is Linux that does)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def disk_metrics(home: Home) -> Iterator[Metric]:
    """Room of the file system the home lies on."""
    usage = shutil.disk_usage(home.root)
    yield GaugeMetricFamily("churn_disk_free_bytes", "free for this user, where the home lies", value=usage.free)
    yield GaugeMetricFamily("churn_disk_size_bytes", "of the file system the home lies on", value=usage.total)


def folder_metrics(home: Home) -> Iterator[Metric]:
    """Size of the home's folders; a walk over every file, so ask seldom."""
    gauge = GaugeMetricFamily("churn_folder_bytes", "size of a folder of the home, at most five minutes ago",
                              labels=["folder"])
    for name in FOLDERS:
        gauge.add_metric([name], _size(home.root / name))
    yield gauge


def _size(folder: Path) -> int:
    total = 0
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return 0
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            total += _size(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else entry.stat(
                follow_symlinks=False).st_size
    return total
