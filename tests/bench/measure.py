"""One measurement in a process of its own: CPU seconds and peak memory of one side of a stage.

    python -m tests.bench.measure STAGE VARIANT SIDE CUSTOMERS FOLDER

STAGE is a module of this folder with `VARIANTS`: name -> `Pair(prepare, ours, against)`. `prepare` runs before
the clock starts. CPU is this process's own, all threads; that of a Redis or PostgreSQL server is not in it.
Prints one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.world import World


@dataclass(frozen=True)
class Pair:
    """What is measured, and what it is compared with."""

    prepare: Callable[[World], Any]
    ours: Callable[[Any], Any]
    against: Callable[[Any], Any]
    same: Callable[[Any, Any], bool] | None = None  # do both answer the same? None: nothing to compare
    unbucketed: Callable[[Any], Any] | None = None  # ours without buckets of customers, for its memory


def reset_peak() -> None:
    """Start the peak of resident memory anew (Linux); elsewhere it counts from the start of the process."""
    if os.path.exists("/proc/self/clear_refs"):
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Peak resident memory since `reset_peak`, in GB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # macOS counts bytes


def pair(stage: str, variant: str) -> Pair:
    found: Pair = importlib.import_module(f"tests.bench.{stage}").VARIANTS[variant]
    return found


def main() -> None:
    stage, variant, side, customers, folder = sys.argv[1:]
    chosen = pair(stage, variant)
    world = World(int(customers), Path(folder))
    if not (world.folder / "orders").exists():  # `bench_data` fills its world before; who calls this by hand need not
        world.fill_lake()
    state = chosen.prepare(world)
    if side == "same":
        assert chosen.same is not None
        print(json.dumps({"same": bool(chosen.same(chosen.ours(state), chosen.against(state)))}))
        return
    reset_peak()
    wall, cpu = time.monotonic(), time.process_time()
    getattr(chosen, side)(state)
    print(json.dumps({
        "cpu": time.process_time() - cpu, "wall": time.monotonic() - wall, "peak_gb": peak_gb(),
    }))


if __name__ == "__main__":
    main()
