"""The record of an experiment. Reads and writes what a run needs to be repeated: the file `record.json` of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.cuts import CutPlan
from models.errors import PlatformError
from models.training.fit import TrainingConfig
from tasks.data.manifest import Partition, committed_partitions, dataset_version
from tasks.home import Home
from tasks.state import last_load
from tasks.training.provenance import Provenance
from tasks.training.tracking import Run, mlflow_client, store_errors

FILE: Final = "record.json"


@dataclass(frozen=True)
class Dataset:
    """What the lake held: the committed raw partitions, by name and hash."""

    version: str
    last_load: str  # ISO 8601
    partitions: tuple[Mapping[str, Any], ...]

    @staticmethod
    def of(engine: sa.Engine) -> Dataset:
        """What is committed now."""
        found = committed_partitions(engine)
        load = last_load(engine)
        return Dataset(dataset_version(found), load.isoformat() if load else "", tuple(
            {"path": one.path, "table": one.table, "as_of": one.as_of.isoformat(), "rows": one.rows,
             "sha256": one.sha256} for one in found))

    def listed(self) -> list[Partition]:
        """The partitions as the manifest lists them."""
        return [Partition(one["path"], one["table"], "raw", datetime.fromisoformat(one["as_of"]), one["rows"],
                          one["sha256"]) for one in self.partitions]


@dataclass(frozen=True)
class Record:
    """One experiment: everything that decided what came out, and what came out."""

    run_id: str
    hypothesis: str
    as_of: datetime
    config: TrainingConfig
    charter: Charter
    contract: Contract
    dataset: Dataset
    cuts: CutPlan
    training_set: str  # its file's name
    content: str  # hash of its rows
    snapshots: Mapping[str, str]  # cut -> hash of its rows
    provenance: Provenance
    rows: Mapping[str, int]
    metrics: Mapping[str, float]  # every digit; MLflow shows the same ones
    params: Mapping[str, Any] = field(default_factory=dict)  # what the search chose
    search: Mapping[str, Any] = field(default_factory=dict)  # trials finished, and what ended it
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds

    def to_json(self) -> str:
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return json.dumps(plain | {
            "as_of": self.as_of.isoformat(), "config": self.config.model_dump(mode="json"),
            "charter": self.charter.model_dump(mode="json"), "contract": json.loads(self.contract.to_json()),
            "fingerprint": self.contract.fingerprint,
            "dataset": {"version": self.dataset.version, "last_load": self.dataset.last_load,
                        "partitions": list(self.dataset.partitions)},
            "cuts": {"train": [cut.isoformat() for cut in self.cuts.train],
                     "test": [cut.isoformat() for cut in self.cuts.test]},
            "provenance": self.provenance.to_dict(),
            "metrics": {name: value if math.isfinite(value) else None for name, value in self.metrics.items()},
        }, indent=1, default=str)

    @staticmethod
    def from_json(text: str) -> Record:
        """Raises ValueError, KeyError or TypeError for what is no record."""
        raw = json.loads(text)
        cuts = CutPlan(*(tuple(datetime.fromisoformat(cut) for cut in raw["cuts"][part]) for part in ("train", "test")))
        del raw["fingerprint"]
        return Record(**raw | {
            "as_of": datetime.fromisoformat(raw["as_of"]), "config": TrainingConfig.model_validate(raw["config"]),
            "charter": Charter.model_validate(raw["charter"]),
            "contract": Contract.from_json(json.dumps(raw["contract"])),
            "dataset": Dataset(**raw["dataset"] | {"partitions": tuple(raw["dataset"]["partitions"])}),
            "cuts": cuts, "provenance": Provenance.of(raw["provenance"]),
            "metrics": {name: math.nan if value is None else value for name, value in raw["metrics"].items()},
        })


def begin_record(run: Run, *, hypothesis: str, as_of: datetime, config: TrainingConfig, charter: Charter,
                 contract: Contract, dataset: Dataset, made_with: Provenance) -> None:
    """Log what is known before anything is fitted, so that a run that fails says what it tried."""
    run.log(
        params={
            **{f"config.{name}": value for name, value in config.model_dump(mode="json").items()},
            **{f"problem.{name}": value for name, value in charter.problem.model_dump(mode="json").items()},
            **{f"value.{name}": value for name, value in charter.value.model_dump(mode="json").items()},
        },
        tags={
            "as_of": as_of.isoformat(), "hypothesis": hypothesis, "dataset_version": dataset.version,
            "fingerprint": contract.fingerprint, "git": made_with.git, "lock": made_with.lock or "absent",
            "python": made_with.python, "machine": made_with.machine,
            # What MLflow's UI shows as the run's source.
            "mlflow.source.name": "flows/train.py", "mlflow.source.type": "LOCAL",
            **({"mlflow.source.git.commit": made_with.commit} if made_with.commit else {}),
        },
    )
    run.text(charter.model_dump_json(indent=1), "charter.json")
    run.text(contract.to_json(), "contract.json")


def write_record(run: Run, record: Record) -> None:
    """Log what came out, and lay the whole record into the run."""
    run.log(
        params={**record.params, **{f"rows.{name}": count for name, count in record.rows.items()},
                "features": len(record.contract.features)},
        metrics={**record.metrics, **{f"seconds/{name}": value for name, value in record.timings.items()}},
        tags={"training_set": record.training_set, "training_set_content": record.content},
    )
    run.text(record.to_json(), FILE)


def read_record(home: Home, run_id: str) -> Record:
    """The record of a run.

    Raises:
        PlatformError: there is no such run, it left no record, or the store cannot be read.
    """
    from mlflow.exceptions import MlflowException

    if not (home.mlflow / "mlflow.db").exists():
        raise PlatformError(f"cannot reproduce {run_id!r}: {home.root} holds no MLflow store. Run `make run` first, or "
                            "set CHURN_HOME")
    client = mlflow_client(home)
    try:
        run = client.get_run(run_id)
    except MlflowException:
        with store_errors(home):
            known = [one.info.run_id for one in client.search_runs(
                [one.experiment_id for one in client.search_experiments()],
                "attributes.status = 'FINISHED' and tags.training_set != ''", max_results=3)]
        raise PlatformError(f"cannot reproduce {run_id!r}: MLflow has no run of that id; the newest are "
                            f"{', '.join(known) or 'none'}. Name one: make reproduce RUN=id") from None
    with TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(run_id, FILE, folder)
            return Record.from_json(Path(path).read_text(encoding="utf-8"))
        except (MlflowException, OSError):
            raise PlatformError(f"cannot reproduce {run_id}: the run ({run.info.status.lower()}) left no {FILE}. Only "
                                "a training that came as far as its evaluation has one") from None
        except (ValueError, KeyError, TypeError) as error:
            raise PlatformError(f"cannot reproduce {run_id}: its {FILE} cannot be read "
                                f"({type(error).__name__}: {str(error).splitlines()[0]}). It was written by another "
                                "version of the code: check out the commit it names") from None
