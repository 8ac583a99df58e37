"""Registration. Reads a candidate and its verdict; writes a model version, the verdict into the ledger, then the alias.

The steps, and what a process that dies between them leaves:

    version, tagged `gate: pending`   a version nobody releases; `settle` deletes it, for the ledger does not know it
    verdict into the ledger           a version that won; `settle` does the rest
    tags and payload say so
    alias `challenger`                done

`settle` runs before every training and after every failure, so that nothing stays half-registered.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.decision import Decision
from models.serving.scorer import TRUSTED_TYPES
from models.training.fit import Candidate
from tasks.home import Home
from tasks.locks import hold
from tasks.state import read_decisions, record_decision
from tasks.training.payload import complete_payload, write_payload
from tasks.training.tracking import LONGEST, Run, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOGGER: Final = logging.getLogger(__name__)
LOCK: Final = "model-registry"
CHALLENGER: Final = "challenger"
PENDING: Final = "pending"  # value of a version's tag `gate` until the ledger holds its verdict
PAYLOAD: Final = "payload"


def register(
    run: Run, candidate: Candidate, decision: Decision, *, engine: sa.Engine, charter: Charter, contract: Contract,
    test: pd.DataFrame, pins: str, as_of: datetime, facts: Mapping[str, Any], note: str = "",
) -> Decision:
    """Record a verdict; what won becomes a version, and `challenger` once the ledger says that it won.

    Args:
        facts: dataset version, monthly value: what a release's manifest says besides.
        note: the version's description, in Markdown.

    Returns:
        The verdict with `run_id`, `experiment_id` and `model_version` (None for what did not win) in its evidence.

    Raises:
        ReleaseError: the model that was written is not the one that was evaluated.
        PlatformError: MLflow's store cannot be used.
    """
    said = replace(decision, evidence={**decision.evidence, "run_id": run.run_id, "experiment_id": run.experiment_id,
                                       "model_version": None})
    if decision.verdict != "promote":
        record_decision(engine, said, as_of=as_of, subject=run.run_id)
        run.log(tags={"verdict": said.verdict, "reason": said.reason})
        return said
    with TemporaryDirectory() as name, hold(run.home, LOCK):
        folder = Path(name)
        write_payload(candidate, folder / PAYLOAD, contract=contract, charter=charter, test=test, pins=pins,
                      facts={"run_id": run.run_id, "as_of": as_of.isoformat(), **facts})
        model_id, place = log_model(run, candidate, folder / "model")
        try:
            version = make_version(run, charter.name, model_id, place, note)
            while taken(engine, version, run.run_id):  # the store began anew, and would count from 1 again
                with store_errors(run.home):
                    run.client.delete_model_version(charter.name, version)
                version = make_version(run, charter.name, model_id, place, note)
            complete_payload(folder / PAYLOAD, model_version=version)
            run.folder(folder / PAYLOAD, PAYLOAD)
            said = replace(said, evidence={**said.evidence, "model_version": version})
            record_decision(engine, said, as_of=as_of, subject=version)
            finish(run.client, run.home, charter.name, version, said)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell; the next training settles what is left
                _settle(run.client, run.home, engine, charter.name)
            raise
    run.log(tags={"verdict": said.verdict, "reason": said.reason})
    return said


def log_model(run: Run, candidate: Candidate, folder: Path) -> tuple[str, str]:
    """The pipeline as a model of the run in MLflow's own format; returns the model's id and where it lies."""
    import mlflow.sklearn
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    with store_errors(run.home):
        made = run.client.create_logged_model(
            run.experiment_id, name="model", source_run_id=run.run_id, model_type=candidate.estimator,
            params={name: str(value) for name, value in chosen_params(candidate).items()})
        mlflow.sklearn.save_model(
            candidate.pipeline, str(folder), serialization_format="skops", skops_trusted_types=list(TRUSTED_TYPES),
            # Named, not inferred: inferring takes seven seconds and runs the model.
            pip_requirements=["scikit-learn", "skops", "pandas"],
            mlflow_model=Model(artifact_path=made.artifact_location, run_id=run.run_id, model_id=made.model_id,
                               model_uuid=made.model_id),
        )
        run.client.log_model_artifacts(made.model_id, str(folder))
        run.client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
        run.client.log_outputs(run.run_id, [LoggedModelOutput(made.model_id, step=0)])
    return str(made.model_id), str(made.artifact_location)


def chosen_params(candidate: Candidate) -> dict[str, Any]:
    """What the search chose, under names that compare well."""
    return {"estimator": candidate.estimator, **{f"model.{name}": value for name, value in candidate.params.items()}}


def make_version(run: Run, name: str, model_id: str, place: str, note: str) -> str:
    """A version without a verdict yet; returns its number.

    Args:
        place: of the model's files. By `models:/ID` MLflow would look for it in the process-wide store.
    """
    from mlflow.exceptions import MlflowException

    with store_errors(run.home):
        try:
            run.client.get_registered_model(name)
        except MlflowException:
            run.client.create_registered_model(name, description="Every version won its promotion gate; the ledger "
                                               "says why (`make why`). `challenger`: the newest that won. `champion`: "
                                               "what serves.")
        made = run.client.create_model_version(name, place, run.run_id, tags={"gate": PENDING},
                                               description=note[:LONGEST], model_id=model_id)
    return str(made.version)


def taken(engine: sa.Engine, version: str, run_id: str) -> bool:
    """Does the ledger know this number of another run's model? Verdicts and releases are filed under it."""
    return any(row.decision.evidence.get("run_id") != run_id
               for row in read_decisions(engine, gate="promotion", subject=version))


def finish(client: MlflowClient, home: Home, name: str, version: str, decision: Decision) -> None:
    """The ledger holds the verdict: say it on the version, and make it the challenger."""
    with store_errors(home):
        for tag, value in verdict_tags(decision).items():
            client.set_model_version_tag(name, version, tag, value)
        newest = int(client.get_registered_model(name).aliases.get(CHALLENGER, 0))
        if int(version) > newest:  # one that was settled late does not take a newer one's place
            client.set_registered_model_alias(name, CHALLENGER, version)
        client.set_model_version_tag(name, version, "gate", "passed")  # last: until then `settle` does it again


def verdict_tags(decision: Decision) -> dict[str, str]:
    """The verdict as tags, its numbers included."""
    numbers = {f"gate.{name}": f"{value:.6g}" if isinstance(value, float) else str(value)
               for name, value in decision.evidence.items() if value is not None}
    return {"verdict": decision.verdict, "reason": decision.reason[:LONGEST], **numbers}


def settle(client: MlflowClient, home: Home, engine: sa.Engine, name: str) -> None:
    """Finish, or take back, what a process that died while it registered has left."""
    with hold(home, LOCK):
        _settle(client, home, engine, name)


def _settle(client: MlflowClient, home: Home, engine: sa.Engine, name: str) -> None:
    with store_errors(home):
        left = [one for one in client.search_model_versions(f"name = '{name}'") if one.tags.get("gate") == PENDING]
    for one in sorted(left, key=lambda version: int(version.version)):
        won = next((row.decision for row in read_decisions(engine, gate="promotion", subject=str(one.version))
                    if row.decision.verdict == "promote" and row.decision.evidence.get("run_id") == one.run_id), None)
        if won is not None:
            LOGGER.warning("version %s won before its registration broke off: finished now", one.version)
            finish(client, home, name, str(one.version), won)
        else:
            LOGGER.warning("version %s has no verdict in the ledger: deleted", one.version)
            with store_errors(home):
                client.delete_model_version(name, one.version)
