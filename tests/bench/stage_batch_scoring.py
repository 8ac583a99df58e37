"""Batch scoring of a million customers, beside a bare read, `predict_proba` in the same chunks, and write.

    python -m tests.bench.stage_batch_scoring      CUSTOMERS=1000000

CPU seconds of a process, imports and loading the model apart; each side in a process of its own. The snapshot is by
the shop's contract, with seeded values: making one from orders would take minutes and change nothing here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract import CONTRACT
from models.charter import load_charter
from models.contract import Column, Contract
from models.serving.payload import load_payload
from models.serving.scorer import CHUNK_ROWS
from models.training.fit import fit_pipeline
from tasks.data.lake import snapshot_partition
from tasks.home import Home
from tasks.release import releases, rollouts
from tasks.scoring.score import score_snapshot
from tasks.state import open_state
from tests.bench.measure import peak_gb, reset_peak

REPO: Final = Path(__file__).parents[2]
AS_OF: Final = datetime(2025, 1, 1, tzinfo=UTC)
RATIO: Final = 1.3
TRAINING_ROWS: Final = 20_000
CONTACTED: Final = 0.1  # share the budget has room for, as in the sample world
RELEASE: Final = "churn:v1-bench"
ESTIMATORS: Final = ("boosting", "logistic")


def snapshot(customers: int, contract: Contract, seed: int = 7) -> pl.DataFrame:
    """Rows of the contract; one number in twenty that may be missing is."""
    rng = np.random.default_rng(seed)
    columns = {contract.entity_key: pl.Series([f"c{number:07d}" for number in range(customers)])}
    for column in contract.snapshot:
        if column.name != contract.entity_key:
            columns[column.name] = _values(column, customers, rng)
    return pl.DataFrame(columns)


def _values(column: Column, rows: int, rng: np.random.Generator) -> pl.Series:
    if column.dtype == "timestamp":
        return pl.Series([AS_OF]).dt.cast_time_unit("us").extend_constant(AS_OF, rows - 1)
    if column.dtype == "bool":
        return pl.Series(rng.random(rows) < 0.9)
    if column.dtype == "string":
        return pl.Series(rng.choice(column.categories, rows))
    if column.dtype == "int64":
        return pl.Series(rng.poisson(3, rows))
    values = pl.Series(rng.gamma(2, 20, rows))
    return values.set(pl.Series(rng.random(rows) < 0.05), None) if column.nullable else values


def make_home(folder: Path, estimator: Any, customers: int) -> Home:
    """A home with a champion, its payload and one snapshot: what scoring reads."""
    import skops.io

    charter = load_charter(REPO / "charter.yaml")
    contract = CONTRACT.effective(["orders", "customers"], eligible_within_days=60)
    home = Home(folder, charter.name)
    path = snapshot_partition(home, contract.fingerprint, AS_OF)
    path.parent.mkdir(parents=True)
    snapshot(customers, contract).write_parquet(path, compression="zstd")
    train = snapshot(TRAINING_ROWS, contract, seed=8).to_pandas()
    rng = np.random.default_rng(9)
    y = (rng.random(TRAINING_ROWS) < 0.05 + 0.4 * (train[contract.numeric[0]] > 40)).astype(int).to_numpy()
    pipeline = fit_pipeline(estimator, train, y, contract, random_state=7)
    threshold = float(np.quantile(pipeline.predict_proba(train[contract.feature_names])[:, 1], 1 - CONTACTED))
    payload = home.bentoml / "bentos/churn" / RELEASE.removeprefix("churn:") / "src/release"
    payload.mkdir(parents=True)
    skops.io.dump(pipeline, payload / "pipeline.skops")
    (payload / "contract.json").write_text(contract.to_json(), encoding="utf-8")
    (payload / "charter.json").write_text(charter.model_dump_json(), encoding="utf-8")
    (payload / "release.json").write_text(json.dumps({
        "model_version": "1", "as_of": AS_OF.isoformat(), "fingerprint": contract.fingerprint,
        "feature_service": contract.service_name, "feature_view": contract.view_name, "threshold": threshold,
        "holdout_salt": charter.name}), encoding="utf-8")
    golden = train.head(20)[contract.feature_names]
    golden.assign(expected_probability=pipeline.predict_proba(golden)[:, 1]).to_parquet(payload / "golden.parquet")
    train[contract.feature_names].head(1000).to_parquet(payload / "reference.parquet")
    engine = open_state(home.state_url)
    releases.register_release(engine, release_id=RELEASE, model_version="1", run_id="run", auc=0.8, monthly_value=1.0,
                              fingerprint=contract.fingerprint, as_of=AS_OF.isoformat())
    opened = rollouts.open_new(engine, release_id=RELEASE, strategy="basic", who="bench", why="bench")
    rollouts.close(engine, opened, state="champion", reason="bench")
    return home


def ours(home: Home) -> None:
    score_snapshot(charter=load_charter(REPO / "charter.yaml"), home=home, engine=open_state(home.state_url),
                   as_of=AS_OF)


def bare(home: Home) -> None:
    """Whom it scores and the score, in the order of the snapshot: no check, no decision, no rank."""
    payload = load_payload(home.bentoml / "bentos/churn" / RELEASE.removeprefix("churn:") / "src/release")
    contract = payload.contract
    schema = pa.schema({contract.entity_key: pa.string(), "churn_probability": pa.float64()})
    reader = pq.ParquetFile(snapshot_partition(home, contract.fingerprint, AS_OF))
    with pq.ParquetWriter(home.lake / "bare.parquet", schema, compression="zstd") as writer:
        for batch in reader.iter_batches(CHUNK_ROWS, columns=[contract.entity_key, *contract.feature_names]):
            rows = batch.to_pandas()
            probability = payload.pipeline.predict_proba(rows[contract.feature_names])[:, 1]
            writer.write_batch(pa.RecordBatch.from_arrays(
                [batch.column(contract.entity_key).cast(pa.string()), pa.array(probability)], schema=schema))


def measure(side: str, home: Home) -> dict[str, float]:
    """One side in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "tests.bench.stage_batch_scoring", side, str(home.root)], cwd=REPO,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"batch scoring ({side}) failed:\n{done.stderr[-3000:]}")
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def rows(customers: int | None = None) -> list[str]:
    """The bench's lines: one an estimator."""
    customers = customers or int(os.environ.get("CUSTOMERS", "1000000"))
    lines = []
    for estimator in ESTIMATORS:
        with tempfile.TemporaryDirectory() as folder:
            home = make_home(Path(folder) / "home", estimator, customers)
            seen, against = measure("ours", home), measure("bare", home)
            again = measure("ours", home)
            against_again = measure("bare", home)
        cpu, least = min(seen["cpu"], again["cpu"]), min(against["cpu"], against_again["cpu"])
        ratio = cpu / least
        limit = f"at most {RATIO:g} x of bare read + predict_proba + write, seen {ratio:.2f} x"
        lines.append(f"{f'batch scoring, {customers:,} rows, {estimator}':<44} {cpu:>7.2f} s {least:>7.2f} s  "
                     f"{limit:<70} {'ok' if ratio <= RATIO else 'missed'}")
        lines.append(f"{'  peak memory':<44} {seen['peak_gb']:>6.2f} GB {against['peak_gb']:>6.2f} GB")
    return lines


def main(side: str, folder: Path) -> None:
    work, home = {"ours": ours, "bare": bare}[side], Home(folder, "shop")
    payload = home.bentoml / "bentos/churn" / RELEASE.removeprefix("churn:") / "src/release"
    load_payload(payload)  # imports what it needs
    reset_peak()
    begun = time.process_time()
    work(home)
    print(json.dumps({"cpu": time.process_time() - begun, "peak_gb": peak_gb()}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        print("\n".join(rows()))
