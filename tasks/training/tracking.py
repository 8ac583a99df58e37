"""Tracking. Reads and writes MLflow's runs by their id, without a server.

MLflow's own "active run" and tracking address belong to a thread or a process; two trainings at once would share
them. So nothing here uses either: a `Run` knows its id and its store, and passes both with every call.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from models.charter import Charter
from models.errors import PlatformError
from tasks.home import Home
from tasks.locks import hold

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

LOCK: Final = "mlflow-tables"  # two who make MLflow's tables at once: one of them fails
LOCKED_SECONDS: Final = 20.0  # a store that is locked for longer is not merely busy
BATCH: Final = 90  # MLflow takes at most 100 parameters or tags at once
LONGEST: Final = 5000  # characters of a tag or parameter; MLflow refuses more than 6,000 and 8,000
PARENT: Final = "mlflow.parentRunId"
NAME: Final = "mlflow.runName"
NOTE: Final = "mlflow.note.content"
PROCESS: Final = "process"  # tag: who writes the run, so that one whose process died can be told


def mlflow_client(home: Home) -> MlflowClient:
    """The tracking store of a home, used without a server.

    Raises:
        PlatformError: it is locked, damaged, or cannot be written.
    """
    check_store(home)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # after the import, which sets it
    with hold(home, LOCK), store_errors(home):
        client = mlflow.MlflowClient(tracking_uri=home.mlflow_uri, registry_uri=home.mlflow_uri)
        client.search_experiments(max_results=1)  # makes the tables where there are none
    return client


def check_store(home: Home) -> None:
    """Ask SQLite itself first: MLflow tries a store it cannot open ten times, for over a minute.

    Raises:
        PlatformError: the store is locked, damaged, or cannot be written.
    """
    path = home.mlflow / "mlflow.db"
    try:
        home.mlflow.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=LOCKED_SECONDS, isolation_level=None)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.execute("SELECT count(*) FROM sqlite_master")
            store.execute("ROLLBACK")
    except (sqlite3.Error, OSError) as error:
        raise _unusable(home, str(error)) from error


@contextmanager
def store_errors(home: Home) -> Iterator[None]:
    """Say in one line why MLflow's store does not answer.

    Raises:
        PlatformError: in place of what MLflow, SQLAlchemy or the file system raise.
    """
    import sqlalchemy as sa
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, sa.exc.SQLAlchemyError, OSError) as error:
        raise _unusable(home, str(error)) from error


def _unusable(home: Home, said: str) -> PlatformError:
    lines = said.strip().splitlines() or ["no reason given"]
    why = next((line for line in lines if "(sqlite3." in line), lines[0])  # SQLAlchemy may talk of itself first
    advice = ("See who else writes to it, and train again" if "locked" in why else
              "Restore it from a backup, or move the folder away: experiments start anew, releases stay")
    return PlatformError(f"cannot use MLflow's store {home.mlflow / 'mlflow.db'}: {why}. {advice}")


@dataclass(frozen=True)
class Run:
    """A run of one store, addressed by id: what is logged here lands in no other run."""

    client: MlflowClient
    home: Home
    experiment_id: str
    run_id: str

    def log(
        self, *, params: Mapping[str, Any] | None = None, metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Parameters, metrics and tags; a metric that is no finite number is left out (MLflow would draw it as 0)."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        entities: list[tuple[str, Sequence[Any]]] = [
            ("params", [Param(name, str(value)[:LONGEST]) for name, value in (params or {}).items()]),
            ("tags", [RunTag(name, str(value)[:LONGEST]) for name, value in (tags or {}).items()]),
            ("metrics", [Metric(name, float(value), now, 0) for name, value in (metrics or {}).items()
                         if math.isfinite(value)]),
        ]
        with store_errors(self.home):
            for kind, items in entities:
                for start in range(0, len(items), BATCH):
                    self.client.log_batch(self.run_id, **{kind: items[start : start + BATCH]})

    def used(self, *, name: str, digest: str, place: Path, context: str) -> None:
        """The data the run is made of, as MLflow's UI shows it: by name and digest, "training" for `context`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Dataset(name, digest, "local", json.dumps({"uri": place.resolve().as_uri()}))
        with store_errors(self.home):
            self.client.log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

    def text(self, text: str, path: str) -> None:
        """A text as a file of the run."""
        with store_errors(self.home):
            self.client.log_text(self.run_id, text, path)

    def figures(self, figures: Mapping[str, Figure], folder: str) -> None:
        """Pictures as PNG files of the run."""
        for name, figure in figures.items():
            with store_errors(self.home):
                self.client.log_figure(self.run_id, figure, f"{folder}/{name}.png")

    def folder(self, local: Path, path: str) -> None:
        """The files of a folder as files of the run."""
        with store_errors(self.home):
            self.client.log_artifacts(self.run_id, str(local), path)

    def child(
        self, name: str, *, params: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, Any],
        seconds: float, status: str = "FINISHED",
    ) -> None:
        """A nested run of something that has just ended."""
        now = int(time.time() * 1000)
        with store_errors(self.home):
            made = self.client.create_run(self.experiment_id, start_time=now - int(seconds * 1000),
                                          tags={PARENT: self.run_id, NAME: name})
        nested = Run(self.client, self.home, self.experiment_id, made.info.run_id)
        nested.log(params=params, metrics=metrics, tags=tags)
        with store_errors(self.home):
            self.client.set_terminated(nested.run_id, status=status, end_time=now)


@contextmanager
def training_run(
    home: Home, charter: Charter, *, name: str, note: str = "", project: str | None = None
) -> Iterator[Run]:
    """A run that ends as finished; an exception ends it as failed, an interrupt as killed, both with the reason.

    Args:
        note: what MLflow's UI shows as the run's description, in Markdown.
        project: another than the charter's own has an experiment of its own.

    Raises:
        PlatformError: the store is locked, damaged, or cannot be written.
    """
    client = mlflow_client(home)
    experiment = f"{charter.name}-{project}" if project else charter.name
    with store_errors(home):
        experiment_id = find_experiment(client, home, experiment)
        _end_abandoned(client, experiment_id)
        made = client.create_run(experiment_id, run_name=name, tags={NOTE: note, PROCESS: _this_process()})
    run = Run(client, home, experiment_id, made.info.run_id)
    try:
        yield run
    except BaseException as error:
        with suppress(Exception):  # the first error is the one to tell
            run.log(tags={"failure": f"{type(error).__name__}: {str(error).strip()}"})
            client.set_terminated(run.run_id, status="FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    with store_errors(home):
        client.set_terminated(run.run_id)


def find_experiment(client: MlflowClient, home: Home, name: str) -> str:
    """The id of an experiment, made if it is new; who makes it at the same time gets the same one."""
    with hold(home, LOCK):
        found = client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        made = client.create_experiment(name, artifact_location=(home.mlflow / "artifacts").resolve().as_uri(),
                                        # Else the UI asks first what kind of work this is.
                                        tags={"mlflow.experimentKind": "custom_model_development"})
        return str(made)


def _this_process() -> str:
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.0f}"


def _end_abandoned(client: MlflowClient, experiment_id: str) -> None:
    """End as killed what a process of this machine left running when it died."""
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        host, _, rest = run.data.tags.get(PROCESS, "").partition("/")
        process, _, born = rest.partition("/")
        if host == socket.gethostname() and not _lives(int(process), born):
            client.set_tag(run.info.run_id, "failure", f"its process {process} died")
            client.set_terminated(run.info.run_id, status="KILLED")


def _lives(process: int, born: str) -> bool:
    try:
        return f"{psutil.Process(process).create_time():.0f}" == born
    except psutil.NoSuchProcess:
        return False
