"""The real Prometheus and promtool: from the PATH, else from Debian's registry, unpacked into a cache without root."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def prometheus_folder() -> Path:
    """The folder with `prometheus` and `promtool`; skips where neither can be had, and fails instead in CI."""
    found = [shutil.which(name) for name in ("prometheus", "promtool")]
    if all(found):
        return Path(str(found[0])).parent
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "churn-tests" / "prometheus"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes at once
        if not (cache / "usr/bin/promtool").exists():
            problem = _unpack(cache)
            if problem:
                (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Prometheus: {problem}")
    return cache / "usr/bin"


def _unpack(cache: Path) -> str | None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "none on the PATH, and no apt-get to get Debian's; install prometheus"
    lists = cache / "state"
    (lists / "lists/partial").mkdir(parents=True, exist_ok=True)
    own = ["-o", f"Dir::State={lists}", "-o", f"Dir::Cache={cache}/apt",
           "-o", "Dir::State::status=/var/lib/dpkg/status"]
    # As the machine knows its registry; where its lists are empty, with lists of our own.
    for before, options in (([], []), (["apt-get", *own, "update"], own)):
        if before:
            subprocess.run(before, cwd=cache, capture_output=True, check=False, timeout=300)
        said = subprocess.run(["apt-get", *options, "download", "prometheus"], cwd=cache, capture_output=True,
                              text=True, check=False, timeout=300)
        packages = sorted(cache.glob("prometheus_*.deb"))
        if said.returncode == 0 and packages:
            subprocess.run(["dpkg-deb", "-x", str(packages[-1]), str(cache)], check=True, timeout=120)
            return None
    return (said.stderr.strip().splitlines() or ["apt-get failed"])[-1]
