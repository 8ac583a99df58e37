"""The training flow on a small sample world: one run holds it all, two at once do not mix, and it can be stopped."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from examples.shop.generate import write_world
from examples.shop.law import World
from flows.settings import REPO
from models.errors import DataError, PlatformError
from models.training.fit import TrainingConfig
from tasks.home import Home
from tasks.state import open_state, read_decisions
from tasks.training.record import read_record
from tasks.training.tracking import PARENT, mlflow_client

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]
JANUARY = datetime(2025, 1, 1, tzinfo=UTC)
CONFIG = TrainingConfig(trials=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    """A quarter of the sample world, ingested."""
    request.getfixturevalue("prefect_harness")
    folder = tmp_path_factory.mktemp("train")
    write_world(folder / "home/landing", World(customers=1200))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CHURN_HOME", str(folder / "home"))
        environment.setenv("CHURN_SOURCES", str(REPO / "feature_repo/sources.yaml"))
        environment.delenv("CHURN_CHARTER", raising=False)
        environment.chdir(folder)  # whatever writes where it stands is seen
        from flows.ingest import ingest

        ingest(JANUARY)
        yield Home(folder / "home", "shop")
        assert {path.name for path in folder.iterdir()} == {"home"}


def train(**changes: Any):
    from flows.train import train

    return train(**{"as_of": JANUARY, "config": CONFIG, **changes})


def runs(home: Home, filters: str = "") -> list[Any]:
    client = mlflow_client(home)
    found = client.get_experiment_by_name("shop")
    return list(client.search_runs([found.experiment_id], filters)) if found else []


def parents(home: Home) -> list[Any]:
    return [run for run in runs(home) if PARENT not in run.data.tags]


def promotions(home: Home) -> int:
    return len(read_decisions(open_state(home.state_url), gate="promotion"))


def test_a_store_that_is_locked_is_one_line_and_nothing_is_written(home, monkeypatch):
    from tasks.training import tracking

    mlflow_client(home)
    monkeypatch.setattr(tracking, "LOCKED_SECONDS", 0.1)
    with sqlite3.connect(home.mlflow / "mlflow.db", isolation_level=None) as store:
        store.execute("BEGIN EXCLUSIVE")
        with pytest.raises(PlatformError, match="locked"):
            train()
        store.execute("ROLLBACK")
    assert (parents(home), promotions(home)) == ([], 0)


def test_ctrl_c_in_the_search_keeps_what_is_finished_and_registers_nothing(home, monkeypatch, capsys):
    from flows import experiment

    original = experiment.trial_line

    def press_ctrl_c_after_two(trials: int):
        tell = original(trials)

        def on_trial(trial) -> None:
            tell(trial)
            if trial.number == 1:
                signal.raise_signal(signal.SIGINT)

        return on_trial

    monkeypatch.setattr(experiment, "trial_line", press_ctrl_c_after_two)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            train(config=TrainingConfig(trials=40))
    finally:
        signal.signal(signal.SIGINT, before)
    parent = parents(home)[0]
    assert parent.info.status == "KILLED"
    assert parent.data.tags["search"] == "interrupted after 2 trials"
    assert len(runs(home, f"tags.`{PARENT}` = '{parent.info.run_id}'")) == 2
    assert "search interrupted after 2 trials: nothing is registered" in capsys.readouterr().err
    assert promotions(home) == 0
    assert list(mlflow_client(home).search_registered_models()) == []


def test_one_run_holds_hypothesis_parameters_figures_plots_trials_record_and_verdict(home, monkeypatch, capsys):
    monkeypatch.setenv("CHURN_RELEASE_PORT", "24330")
    decision = train(hypothesis="Silence tells.")
    run = mlflow_client(home).get_run(str(decision.evidence["run_id"]))
    assert run.info.status == "FINISHED"
    assert run.data.tags["hypothesis"] == "Silence tells."
    note = run.data.tags["mlflow.note.content"]
    assert "Silence tells." in note
    assert f"{decision.verdict}: {decision.reason}" in note
    assert {"auc", "auc_low", "auc_high", "brier", "value", "worst_segment_auc", "seconds/fit"} <= set(run.data.metrics)
    trials = runs(home, f"tags.`{PARENT}` = '{run.info.run_id}'")
    assert sorted(trial.info.run_name for trial in trials) == ["trial 1: logistic", "trial 2: boosting"]
    assert re.search(r"trial 2 of 2: .*; best so far 0\.\d+ by ", capsys.readouterr().err)
    client = mlflow_client(home)
    pictures = {Path(one.path).stem for one in client.list_artifacts(run.info.run_id, "plots")}
    assert {"roc", "calibration", "gain", "profit", "segments", "importance"} <= pictures
    assert {Path(one.path).suffix for one in client.list_artifacts(run.info.run_id, "card")} >= {".html", ".md"}
    record = read_record(home, run.info.run_id)
    assert record.metrics["auc"] == run.data.metrics["auc"]
    assert record.provenance.libraries["scikit-learn"]
    stages = [row.decision.evidence.get("stage") for row in read_decisions(open_state(home.state_url), gate="go")]
    assert stages[0] == "development"
    assert "design" in stages


def test_reproduce_gets_the_same_figures_and_changes_nothing_but_prefects_own_store(home):
    from flows.reproduce import reproduce

    before = {path: path.stat().st_mtime_ns for path in home.root.rglob("*") if path.is_file()}
    run_id = next(one.info.run_id for one in parents(home) if one.info.status == "FINISHED")
    answer = reproduce(run_id)
    assert answer.unequal == ()
    assert answer.same
    after = {path: path.stat().st_mtime_ns for path in home.root.rglob("*") if path.is_file()}
    assert {path for path in before | after if before.get(path) != after.get(path) and path.suffix != ".lock"} <= {
        home.root / "state.db-shm", home.root / "state.db-wal"}


def test_two_trainings_at_once_in_two_processes_each_have_their_run_their_trials_and_their_training_set(home, tmp_path):
    code = ("from datetime import datetime\nfrom flows.train import train\n"
            "from models.training.fit import TrainingConfig\n"
            "print(train(datetime(2025, 1, 1), TrainingConfig(trials=2, random_state={seed})).evidence['run_id'])")
    started = [subprocess.Popen(
        [sys.executable, "-c", code.format(seed=seed)], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
             "PYTHONPATH": str(REPO), "PREFECT_HOME": str(tmp_path / str(seed)), "PREFECT_LOGGING_LEVEL": "ERROR"})
        for seed in (1, 2)]
    ids = [process.communicate(timeout=400)[0].split()[-1] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    client = mlflow_client(home)
    for seed, run_id in zip((1, 2), ids, strict=True):
        run = client.get_run(run_id)
        assert (run.info.status, run.data.params["config.random_state"]) == ("FINISHED", str(seed))
        assert len(runs(home, f"tags.`{PARENT}` = '{run_id}'")) == 2
        assert read_record(home, run_id).config.random_state == seed
        assert list((home.lake / "training").rglob(run.data.tags["training_set"]))
    assert len({client.get_run(run_id).data.tags["training_set"] for run_id in ids}) == 2
    versions = {one.run_id: one.tags for one in client.search_model_versions("name = 'shop'")}
    assert all(tags["gate"] == "passed" for tags in versions.values())


def test_too_little_data_ends_the_run_as_failed_with_the_reason(home, monkeypatch, tmp_path):
    import yaml

    document = yaml.safe_load((REPO / "charter.yaml").read_text(encoding="utf-8"))
    document["training"]["least_rows"] = 10**6
    charter = tmp_path / "charter.yaml"
    charter.write_text(yaml.safe_dump(document), encoding="utf-8")
    monkeypatch.setenv("CHURN_CHARTER", str(charter))
    known = promotions(home)
    with pytest.raises(DataError, match="mature training labels, needed are 1,000,000"):
        train()
    newest = parents(home)[0]
    assert newest.info.status == "FAILED"
    assert newest.data.tags["failure"].startswith("DataError: cannot train as of 2025-01-01")
    assert promotions(home) == known
