"""Model registry. Reads model versions of MLflow and their payloads; mirrors who is champion as an alias.

The route file is the truth about what serves. The alias follows it when MLflow can be reached.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from models.errors import ReleaseError
from tasks.home import Home

LOGGER = logging.getLogger(__name__)
CHAMPION = "champion"
PAYLOAD = "payload"  # artifact folder of the run


def fetch_payload(home: Home, *, model_name: str, version: int) -> Path:
    """Download what a model version's run left for packaging; returns the folder.

    Raises:
        ReleaseError: there is no such version, or its run has no payload.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = _client(home)
    try:
        found = client.get_model_version(model_name, str(version))
    except MlflowException:
        known = sorted(int(one.version) for one in client.search_model_versions(f"name = '{model_name}'"))
        raise ReleaseError(f"cannot release version {version} of {model_name}: there is none; known: "
                           f"{', '.join(map(str, known)) or 'none'}. Train one, or name a known one") from None
    if found.tags.get("gate") == "pending":
        raise ReleaseError(f"cannot release version {version} of {model_name}: its registration broke off before the "
                           "ledger held its verdict. Train again; that settles it")
    run_id, folder = found.run_id, home.run / "payloads" / str(version)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=PAYLOAD, dst_path=str(folder),
                                                        tracking_uri=home.mlflow_uri))
    except (MlflowException, OSError) as error:
        raise ReleaseError(f"cannot release version {version} of {model_name}: run {run_id} has no {PAYLOAD!r} "
                           f"({str(error).splitlines()[0]}). Train again") from None


def mirror_champion(home: Home, *, model_name: str, version: str | None) -> bool:
    """Set the alias `champion`; False where MLflow could not be reached, so that a later call tries again.

    What was mirrored last is noted in a file: MLflow takes three seconds to import.
    """
    note = home.mlflow / "champion-alias"
    if version is None or (note.exists() and note.read_text(encoding="utf-8").strip() == version):
        return True
    try:
        _client(home).set_registered_model_alias(model_name, CHAMPION, version)
        note.write_text(f"{version}\n", encoding="utf-8")
    except Exception as error:  # an alias that lags must not stop a release, still less a rollback
        LOGGER.warning("cannot mirror version %s as %s: %s", version, CHAMPION, str(error).splitlines()[:1])
        return False
    return True


def _client(home: Home) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=home.mlflow_uri, registry_uri=home.mlflow_uri)
