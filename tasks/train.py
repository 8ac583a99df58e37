"""Training stage. Reads a training set; writes an MLflow run and, where the gate says so, a model version."""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from models.charter import Charter
from models.contract import Contract
from models.decision import Decision
from models.training import Candidate, TrainingConfig
from tasks.home import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient

REFERENCE_ROWS: Final = 5000
GOLDEN_ROWS: Final = 50


def mlflow_client(home: Home) -> MlflowClient:
    """The tracking store of a home, used without a server."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    import mlflow

    home.mlflow.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(home.mlflow_uri)
    mlflow.set_registry_uri(home.mlflow_uri)
    return mlflow.MlflowClient(tracking_uri=home.mlflow_uri, registry_uri=home.mlflow_uri)


@contextmanager
def training_run(home: Home, charter: Charter, *, as_of: datetime, project: str | None = None) -> Iterator[str]:
    """An MLflow run; an exception ends it as failed. Yields its id.

    Args:
        project: another than the charter's own has an experiment of its own.
    """
    client = mlflow_client(home)
    import mlflow

    name = f"{charter.name}-{project}" if project else charter.name
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(
        name, artifact_location=(home.mlflow / "artifacts").resolve().as_uri()
    )
    with mlflow.start_run(experiment_id=experiment_id, run_name=f"train {as_of:%Y-%m-%d}") as run:
        yield run.info.run_id


def log_candidate(
    candidate: Candidate, *, config: TrainingConfig, charter: Charter, contract: Contract, tags: Mapping[str, str],
    rows: Mapping[str, int],
) -> None:
    """Parameters, metrics and plots of the active run."""
    import mlflow

    mlflow.log_params({
        "estimator": candidate.estimator, "threshold": candidate.threshold, "features": len(contract.features),
        **{f"config.{name}": value for name, value in config.model_dump(mode="json").items()},
        **{f"charter.{name}": value for name, value in charter.problem.model_dump(mode="json").items()},
        **{f"rows.{name}": value for name, value in rows.items()},
    })
    mlflow.log_metrics({
        **candidate.metrics.as_dict(), "baseline_auc": candidate.baseline_auc,
        **{f"validation_log_loss_{name}": loss for name, loss in candidate.validation_loss.items()},
    })
    mlflow.set_tags({"fingerprint": contract.fingerprint, "baseline_column": candidate.baseline.column, **tags})
    mlflow.log_dict(dict(candidate.importance), "importance.json")
    mlflow.log_text(charter.model_dump_json(indent=2), "charter.json")


def log_plots(candidate: Candidate, test: pd.DataFrame, contract: Contract) -> None:
    """Calibration, gain and importance as pictures of the active run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import mlflow
    import numpy as np
    from sklearn.calibration import calibration_curve

    y = test[contract.label].to_numpy()
    figure, (calibration, gain, importance) = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    observed, predicted = calibration_curve(y, candidate.probability, n_bins=10, strategy="quantile")
    calibration.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    calibration.plot(predicted, observed, marker="o")
    calibration.set(title="Calibration on the test cut", xlabel="predicted churn probability", ylabel="share that left")
    order = np.argsort(-candidate.probability)
    share = np.arange(1, len(y) + 1) / len(y)
    gain.plot(share, np.cumsum(y[order]) / y.sum(), label=candidate.estimator)
    gain.plot(share, np.cumsum(y[np.argsort(-candidate.baseline.score(test))]) / y.sum(),
              label=f"{candidate.baseline.column} alone")
    gain.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    gain.axvline(candidate.metrics.contacted / len(y), color="0.3", linestyle=":", label="contact budget")
    gain.set(title=f"Gain, AUC {candidate.metrics.auc:.3f}", xlabel="customers contacted", ylabel="churners found")
    gain.legend()
    top = sorted(candidate.importance.items(), key=lambda item: item[1])[-12:]
    importance.barh([name for name, _ in top], [value for _, value in top])
    importance.set(title="Permutation importance", xlabel="share of AUC lost")
    mlflow.log_figure(figure, "evaluation.png")
    plt.close(figure)


def register_version(candidate: Candidate, home: Home, charter: Charter, decision: Decision) -> str:
    """Log the model and make it a version with the alias `challenger`; returns the version's number."""
    import mlflow.sklearn

    from models.scorer import TRUSTED_TYPES

    client = mlflow_client(home)
    info = mlflow.sklearn.log_model(
        candidate.pipeline, name="model", serialization_format="skops", skops_trusted_types=list(TRUSTED_TYPES),
        # Named, not inferred: inferring takes seven seconds and runs the model.
        pip_requirements=["scikit-learn", "skops", "pandas"],
    )
    with redirect_stderr(io.StringIO()):  # MLflow prints what the summary says anyway
        version = mlflow.register_model(info.model_uri, charter.name, tags={"reason": decision.reason[:5000]})
    client.set_registered_model_alias(charter.name, "challenger", version.version)
    return str(version.version)


def write_payload(
    candidate: Candidate,
    *,
    contract: Contract,
    charter: Charter,
    train: pd.DataFrame,
    test: pd.DataFrame,
    pins: str,
    facts: Mapping[str, Any],
) -> None:
    """Everything a release carries, as the folder `payload` of the active run (see models/payload.py).

    Args:
        facts: model version, run id, `as_of`, dataset version and monthly value.
    """
    import mlflow
    import skops.io

    reference = train[train["event_timestamp"] == train["event_timestamp"].max()]
    reference = reference.sample(min(len(reference), REFERENCE_ROWS), random_state=0)[contract.feature_names]
    golden = test.sample(min(len(test), GOLDEN_ROWS), random_state=0)[contract.feature_names]
    # As a caller would send them: whole numbers where the contract says so.
    golden = golden.astype({column.name: "Int64" for column in contract.features if column.dtype == "int64"})
    from models.scorer import predict

    with tempfile.TemporaryDirectory() as folder:
        payload = Path(folder)
        skops.io.dump(candidate.pipeline, payload / "pipeline.skops")
        (payload / "contract.json").write_text(contract.to_json(), encoding="utf-8")
        (payload / "charter.json").write_text(charter.model_dump_json(), encoding="utf-8")
        (payload / "requirements.txt").write_text(pins, encoding="utf-8")
        (payload / "release.json").write_text(json.dumps({
            **facts, "fingerprint": contract.fingerprint, "feature_service": contract.service_name,
            "feature_view": contract.view_name, "estimator": candidate.estimator, "threshold": candidate.threshold,
            "auc": candidate.metrics.auc, "baseline_auc": candidate.baseline_auc, "holdout_salt": charter.name,
            "importance": dict(candidate.importance),
        }, indent=1), encoding="utf-8")
        reference.assign(churn_probability=predict(candidate.pipeline, reference, contract)).to_parquet(
            payload / "reference.parquet")
        golden.assign(expected_probability=predict(candidate.pipeline, golden, contract)).to_parquet(
            payload / "golden.parquet")
        test[[contract.entity_key]].assign(churn_probability=candidate.probability).to_parquet(
            payload / "scores.parquet")
        mlflow.log_artifacts(str(payload), "payload")
