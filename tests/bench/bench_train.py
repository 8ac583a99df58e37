"""`make bench-train`: what training costs and what its models are worth. Prints a table; exits 0 either way.

    ROWS=100000        training rows of the world that is timed
    CDNOW_FOLDER=...   holds cdnow_transactions.csv; without it the figures on real orders are left out, and it says so

The flow from the plan to the model card, MLflow and Prefect included, is compared with the same fits, trials and
bootstraps in bare scikit-learn (`stage_train`). CPU seconds, imports apart; each side in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from examples.shop.generate import write_world
from examples.shop.law import World
from tests.bench import stage_evaluation, stage_gate
from tests.bench.bench_data import REPO, verdict

ROWS_A_CUSTOMER: Final = 6.386  # training rows a first customer of a sample world of 14,000: six cuts
RATIO: Final = 1.5
FROM_TRUTH: Final = 0.02
FROM_COLUMN: Final = 0.01
SHOP: Final = {"CHURN_CHARTER": str(REPO / "charter.yaml"), "CHURN_SOURCES": str(REPO / "feature_repo/sources.yaml")}
CDNOW: Final = {"CHURN_CHARTER": str(REPO / "examples/cdnow/charter.yaml"),
                "CHURN_SOURCES": str(REPO / "examples/cdnow/sources.yaml")}
PLACES: Final = (os.environ.get("CDNOW_FOLDER"), REPO / "data/cdnow", REPO.parent / "shared/data/cdnow",
                 REPO.parent.parent / "shared/data/cdnow")


def run(side: str, home: Path, as_of: str, **variables: str) -> dict[str, Any]:
    """One side in a process of its own; what it prints to stderr is shown only if it fails."""
    print(f"  {home.name}: {side}", file=sys.stderr, flush=True)
    home.mkdir(parents=True, exist_ok=True)  # Prefect's temporary server waits for ever where its home has no parent
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("CHURN_", "PREFECT_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.stage_train", side, str(home), as_of], cwd=REPO, capture_output=True,
        text=True, check=False, env={
            **kept, "OMP_NUM_THREADS": "1", "CHURN_HOME": str(home), "CHURN_ENV_FILE": str(home / ".env"),
            "PREFECT_HOME": str(home / "prefect"), "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600", **variables})
    if done.returncode:
        raise SystemExit(f"{home.name} ({side}) failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def row(what: str, seen: str, against: str, limit: str, word: str) -> str:
    return f"{what:<38} {seen:>9} {against:>9}  {limit:<62} {word}".rstrip()


def cost(folder: Path) -> list[str]:
    """CPU seconds of the flow, beside bare scikit-learn."""
    rows = int(os.environ.get("ROWS", "100000"))
    home = folder / "cost"
    write_world(home / "landing", World(customers=round(rows / ROWS_A_CUSTOMER)))
    ours, bare = run("ours", home, "2025-01-01", **SHOP), run("against", home, "2025-01-01", **SHOP)
    ratio = ours["cpu"] / bare["cpu"]
    train, test = ours["rows"]
    lines = [row(f"training flow, {train:,} x {ours['features']} rows", f"{ours['cpu']:.1f} s", f"{bare['cpu']:.1f} s",
                 f"at most {RATIO:g} x of bare scikit-learn, seen {ratio:.2f} x", verdict(ratio, RATIO)),
             row("  imports, not in it", f"{ours['imports']:.1f} s", "", "", "")]
    wall = "   ".join(f"{name} {seconds:.1f}" for name, seconds in ours["stages"].items())
    parts = "   ".join(f"{name} {seconds:.1f}" for name, seconds in bare["stages"].items())
    return [*lines, f"  ours, wall seconds: {wall} ({test:,} test rows; {ours['verdict']})",
            f"  bare, CPU seconds: {parts}"]


def auc_of_the_sample_world(folder: Path) -> list[str]:
    """Beside the score of the planted truth itself."""
    home = folder / "shop"
    write_world(home / "landing")
    evidence = run("ours", home, "2025-01-01", **SHOP)["evidence"]
    truth = json.loads((home / "landing/truth/truth.json").read_text(encoding="utf-8"))
    best = {month["cut"][:10]: month["auc_best"] for month in truth["months"]}[evidence["test_cuts"]]
    return [row(f"AUC, sample world, {evidence['test_cuts']}", f"{evidence['candidate_auc']:.3f}", f"{best:.3f}",
                f"at most {FROM_TRUTH:g} below the planted truth, seen {best - evidence['candidate_auc']:+.3f}",
                verdict(best - evidence["candidate_auc"], FROM_TRUTH))]


def auc_of_cdnow(folder: Path) -> list[str]:
    """Real orders at both cuts, beside the best single column on the same rows."""
    place = next((Path(one) for one in PLACES if one and (Path(one) / "cdnow_transactions.csv").exists()), None)
    if place is None:
        return ["AUC, CDNOW: not measured, cdnow_transactions.csv is not here (CDNOW_FOLDER)"]
    lines = []
    for as_of in ("1998-04-01", "1998-06-30"):
        evidence = run("ours", folder / f"cdnow-{as_of}", as_of, CDNOW_FOLDER=str(place), **CDNOW)["evidence"]
        ours, column = evidence["candidate_auc"], evidence["baseline_auc"]
        lines.append(row(f"AUC, CDNOW, {evidence['test_cuts']}", f"{ours:.3f}", f"{column:.3f}",
                         f"at most {FROM_COLUMN:g} below {evidence['baseline_column']}, seen {column - ours:+.3f}",
                         verdict(column - ours, FROM_COLUMN)))
    return lines


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(row("what", "ours", "against", "limit", ""), flush=True)
        for part in (cost, auc_of_the_sample_world, auc_of_cdnow):  # each takes minutes: a line as soon as it is known
            print("\n".join(part(folder)), flush=True)
        for stage in (stage_evaluation, stage_gate):
            print("\n".join(stage.rows()), flush=True)


if __name__ == "__main__":
    main()
