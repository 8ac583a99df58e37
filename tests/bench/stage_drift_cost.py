"""What one check of a million rows by twenty columns costs: CPU seconds and peak memory, in a process of its own.

A million current rows against the reference a release carries, and against a million, both read from Parquet as the
monitor reads them; then `assess_drift`. The page is drawn by `draw_report`, whose imports (Evidently) are done before
the clock starts.

    python -m tests.bench.stage_drift_cost      prints the rows (a minute)
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from models.gates.drift import assess_drift
from tasks.home import Home
from tasks.training.payload import REFERENCE_ROWS
from tests.bench.bench_data import REPO
from tests.bench.measure import peak_gb, reset_peak
from tests.bench.stage_drift import CONTRACT, IMPORTANCE, POLICY, Drift, frame, row

ROWS: Final = 1_000_000
MOST_SECONDS: Final = 10
MOST_GB: Final = 1.5


def write(folder: Path, reference_rows: int, rows: int = ROWS) -> None:
    """A payload with a reference, and what is scored now."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    frame(reference_rows, rng).to_parquet(folder / "reference.parquet")
    frame(rows, rng, Drift(one=0.3)).to_parquet(folder / "current.parquet")
    (folder / "contract.json").write_text(CONTRACT.to_json(), encoding="utf-8")
    (folder / "release.json").write_text(json.dumps({"importance": IMPORTANCE}), encoding="utf-8")


def measured(folder: Path, page: bool) -> dict[str, Any]:
    """CPU seconds and peak memory of a check; of the page as well if `page`."""
    if page:
        importlib.import_module("evidently.presets")  # its import is counted apart
        draw_report = importlib.import_module("tasks.monitoring.report").draw_report
    reset_peak()
    cpu = time.process_time()
    reference, current = (pd.read_parquet(folder / name) for name in ("reference.parquet", "current.parquet"))
    report = assess_drift(reference, current, CONTRACT, POLICY, IMPORTANCE)
    del reference
    why_none = None
    if page:
        why_none = draw_report(report, folder, current, POLICY, folder / "page.html", home=Home(folder), truth=None,
                               as_of=datetime(2026, 1, 1, tzinfo=UTC))
    return {"cpu": time.process_time() - cpu, "gb": peak_gb(), "flagged": [one.name for one in report.flagged],
            "why_none": why_none}


def rows() -> Iterator[str]:
    """Lines of `make bench-drift`."""
    with tempfile.TemporaryDirectory() as name:
        for reference_rows, page in ((REFERENCE_ROWS, ""), (REFERENCE_ROWS, "page"), (ROWS, "")):
            folder = Path(name) / str(reference_rows)
            if not folder.exists():
                write(folder, reference_rows)
            done = subprocess.run([sys.executable, "-m", "tests.bench.stage_drift_cost", str(folder), page], cwd=REPO,
                                  capture_output=True, text=True, check=False,
                                  env={**os.environ, "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"})
            what = "one check and its page" if page else "one check"
            title = f"{what}, {ROWS:,} x 20 against {reference_rows:,}"
            if done.returncode:
                yield row(title, "failed", done.stderr.strip().splitlines()[-1], "it runs", "missed")
                continue
            seen = json.loads(done.stdout.strip().splitlines()[-1])
            fine = seen["cpu"] <= MOST_SECONDS and seen["gb"] <= MOST_GB and seen["why_none"] is None
            yield row(title, f"{seen['cpu']:.1f} CPU s, {seen['gb']:.2f} GB",
                      seen["why_none"] or f"found {', '.join(seen['flagged'])}",
                      f"at most {MOST_SECONDS} CPU s, {MOST_GB} GB", "ok" if fine else "missed")


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measured(Path(sys.argv[1]), sys.argv[2] == "page")))
        return
    for one in rows():
        print(one, flush=True)


if __name__ == "__main__":
    main()
