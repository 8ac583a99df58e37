"""The training flow, beside the same fits, trials and bootstraps in bare scikit-learn. Used by `bench_train`.

    CHURN_HOME=FOLDER CHURN_CHARTER=... CHURN_SOURCES=... python -m tests.bench.stage_train ours|against FOLDER AS_OF

Each prints one line of JSON: CPU seconds of the process and of those it started, imports apart. `ours` is the flow,
MLflow and Prefect (a temporary server) included; it leaves its MLflow store, from which `against` learns which trials
to repeat. `against` fits whole pipelines, as one does in scikit-learn, and knows no segments: their bootstraps are
ours alone.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from models.charter import load_charter
from tasks.home import Home

RESAMPLES: Final = 200
IMPORTS: Final = ("duckdb", "pandas", "pandera.pandas", "feast", "sklearn.ensemble", "sklearn.linear_model", "optuna",
                  "mlflow.sklearn", "skops.io", "matplotlib.figure", "flows.train", "flows.ingest")


def cpu() -> float:
    """Seconds of this process and of its children, living and ended."""
    total = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def imports() -> float:
    """CPU seconds that importing takes."""
    begun = cpu()
    for name in IMPORTS:
        importlib.import_module(name)
    return cpu() - begun


def ours(as_of: datetime) -> dict[str, Any]:
    """Ingest and snapshots first; then what is measured: from the plan to the model card."""
    seconds = imports()
    from flows.context import open_context
    from flows.features import plan_training, take_snapshots
    from flows.ingest import ingest
    from flows.train import DEFAULT_CONFIG, train
    from tasks.features.apply import apply_features
    from tasks.training.tracking import mlflow_client

    ingest(as_of)
    context = open_context(as_of)
    plan = plan_training(context, DEFAULT_CONFIG)
    take_snapshots.fn(context, (*plan.train, *plan.test))
    apply_features(context.contract, context.home)  # Feast imports what it needs at its first use
    mlflow_client(context.home)
    begun = cpu()
    decision = train(as_of)
    spent = cpu() - begun
    run = mlflow_client(context.home).get_run(str(decision.evidence["run_id"]))
    stages = {name.removeprefix("seconds/"): value for name, value in run.data.metrics.items()
              if name.startswith("seconds/") and name.count("/") == 1}
    return {"cpu": spent, "imports": seconds, "stages": stages, "verdict": f"{decision.verdict}: {decision.reason}",
            "rows": [int(run.data.params["rows.train"]), int(run.data.params["rows.test"])],
            "features": int(run.data.params["features"]), "run_id": run.info.run_id,
            "evidence": dict(decision.evidence)}


def trials_of(home: Home) -> tuple[Any, list[dict[str, Any]]]:
    """The record of the newest run, and its trials: estimator, parameters, on how many folds."""
    from tasks.training.record import read_record
    from tasks.training.tracking import PARENT, mlflow_client

    client = mlflow_client(home)
    experiment = client.get_experiment_by_name(home.name).experiment_id
    run_id = client.search_runs([experiment], "tags.training_set_content != ''")[0].info.run_id
    found = []
    for one in client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'"):
        params = dict(one.data.params)
        folds = sum(name.startswith("validation_log_loss/") for name in one.data.metrics)
        found.append({"estimator": params.pop("estimator"), "folds": folds, "params": {
            name: int(value) if value.isdigit() else float(value) for name, value in params.items()}})
    return read_record(home, run_id), found


def against(home: Home) -> dict[str, Any]:
    """The same fits, trials and bootstraps, and nothing else: no join, no check, no record, no card."""
    import polars as pl
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import log_loss, roc_auc_score
    from threadpoolctl import threadpool_limits

    from models.training.estimators import make_pipeline
    from models.training.fit import split_rows
    from models.training.walk_forward import make_folds

    imports()
    record, trials = trials_of(home)
    contract, config = record.contract, record.config
    path = home.lake / "training" / contract.fingerprint / record.training_set
    begun = cpu()
    train, test = split_rows(pl.read_parquet(path).to_pandas(), record.cuts)
    X, X_test = train[contract.feature_names], test[contract.feature_names]
    y, y_test = train[contract.label].to_numpy(), test[contract.label].to_numpy()
    folds = make_folds(train, contract, horizon=record.charter.problem.horizon, random_state=config.random_state)
    parts: dict[str, float] = {}
    with threadpool_limits(limits=1):
        for trial in timed(parts, "trials", trials):
            for fold in folds.parts[: trial["folds"]]:
                pipeline = make_pipeline(trial["estimator"], contract, random_state=7, params=trial["params"])
                pipeline.fit(X.iloc[fold.fit], y[fold.fit])
                log_loss(y[fold.held_out], pipeline.predict_proba(X.iloc[fold.held_out])[:, 1])
        for best in timed(parts, "fit", [record.params]):
            chosen = {name.removeprefix("model."): value for name, value in best.items() if name.startswith("model.")}
            pipeline = make_pipeline(best["estimator"], contract, random_state=7, params=chosen).fit(X, y)
            probability = pipeline.predict_proba(X_test)[:, 1]
        for sample in timed(parts, "importance", [X_test.sample(min(len(X_test), 4000), random_state=7)]):
            permutation_importance(pipeline, sample, y_test[sample.index], scoring="roc_auc", n_repeats=1,
                                   random_state=7)
        for name in timed(parts, "one-column baselines", contract.numeric):
            roc_auc_score(y, train[name].fillna(-1e9))
        bootstraps(parts, y_test, probability, test[record_column(home, record.run_id)].to_numpy(), record.charter)
    return {"cpu": cpu() - begun, "stages": parts}


def record_column(home: Home, run_id: str) -> str:
    """The best single column of a run."""
    from tasks.training.tracking import mlflow_client

    return str(mlflow_client(home).get_run(run_id).data.tags["baseline_column"])


def bootstraps(
    parts: dict[str, float], y: np.ndarray, probability: np.ndarray, column: np.ndarray, charter: Any
) -> None:
    """Every score of an evaluation and the gate's difference of AUC, on rows drawn anew each time."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    rng = np.random.default_rng(7)
    log_odds = np.log(probability / (1 - probability))[:, None]
    for _ in timed(parts, f"{RESAMPLES} resamples of nine scores", range(RESAMPLES)):
        drawn = rng.integers(len(y), size=len(y))
        labels, scores = y[drawn], probability[drawn]
        for score in (roc_auc_score, average_precision_score, brier_score_loss, log_loss):
            score(labels, scores)
        LogisticRegression(C=np.inf, solver="newton-cholesky").fit(log_odds[drawn], labels)
        top = labels[np.argsort(-scores, kind="stable")[: charter.value.contact_budget]]
        top.mean() / labels.mean(), top.sum() / labels.sum(), top.sum() * charter.value.worth_of_saved
    for _ in timed(parts, f"{charter.promotion.resamples} resamples of the gate", range(charter.promotion.resamples)):
        drawn = rng.integers(len(y), size=len(y))
        roc_auc_score(y[drawn], probability[drawn]) - roc_auc_score(y[drawn], column[drawn])


def timed(parts: dict[str, float], name: str, items: Any) -> Iterator[Any]:
    """The items, and the CPU seconds spent on all of them."""
    begun = cpu()
    yield from items
    parts[name] = cpu() - begun


def main() -> None:
    side, folder, as_of = sys.argv[1:]
    home = Home(Path(folder), load_charter(Path(os.environ["CHURN_CHARTER"])).name)
    begun = time.monotonic()
    answer = ours(datetime.fromisoformat(as_of)) if side == "ours" else against(home)
    print(json.dumps(answer | {"wall": time.monotonic() - begun}))


if __name__ == "__main__":
    main()
