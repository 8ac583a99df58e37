"""`make bench-run`: what a user waits for. Prints a table; exits 0 either way.

A fresh home, the sample world, real parts; wall seconds, for that is what one waits. Also the memory of the
idle platform with the champion only and during a rollout, and the seconds of `make check` and `make down`.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

from tests.loop.conftest import Loop, make_loop, shop_charter

CANARY = """
from datetime import datetime
from flows.lifecycle import lifecycle
from models.training.fit import TrainingConfig
lifecycle(datetime(2025, 12, 1), TrainingConfig(window="new", not_before=datetime(2025, 8, 1)))
"""


def timed(loop: Loop, *words: str) -> tuple[float, str]:
    begun = time.monotonic()
    printed = loop.make(*words).stdout
    return time.monotonic() - begun, printed


def row(what: str, seen: float, unit: str, limit: float | None) -> str:
    verdict = "" if limit is None else "ok" if seen <= limit else "missed"
    shown = "" if limit is None else f"{limit:g} {unit}"
    return f"{what:<44} {seen:>9.1f} {unit:<4} {shown:>10}  {verdict}".rstrip()


def memory(loop: Loop) -> float:
    printed = loop.make("bench-memory").stdout
    return float(re.findall(r"(\d+)\s+limit", printed)[0])


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop = make_loop(folder, 24500, CHURN_CHARTER=str(shop_charter(folder / "charter")))
        try:
            seconds, printed = timed(loop, "run")
            stages = re.findall(r"([a-z ]+?) (\d+\.\d)", re.search(r"^seconds +(.+)$", printed, re.MULTILINE).group(1))
            ready = re.search(r"(\d+\.\d) s  prefect-server answers", printed)
            rows += [row("make run, installed, fresh home", seconds, "s", 90),
                     row("  platform until flows can run", float(ready.group(1)), "s", None),
                     *[row(f"  {stage.strip()}", float(value), "s", None) for stage, value in stages]]
            time.sleep(15)
            rows.append(row("idle platform, champion only, PSS", memory(loop), "MiB", 1536))
            loop.flow(CANARY)
            rows.append(row("idle platform, during a rollout, PSS", memory(loop), "MiB", 2048))
            rows.append(row("make status", timed(loop, "status")[0], "s", 3))
        finally:
            rows.append(row("make down", timed(loop, "down")[0], "s", 15))
        rows.append(row("make check", timed(loop, "check")[0], "s", 60))
    print("\n".join([f"{'what':<44} {'seen':>9}      {'at most':>10}", *rows]))


if __name__ == "__main__":
    main()
