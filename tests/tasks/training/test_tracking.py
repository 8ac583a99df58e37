from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.errors import PlatformError
from tasks.home import Home
from tasks.training import tracking
from tasks.training.tracking import mlflow_client, training_run
from tests.tasks.training.experiment import CHARTER, home_of

REPO = Path(__file__).parents[3]
pytestmark = pytest.mark.service  # importing MLflow and making its tables takes seconds


def status(mlflow_home: Home, run_id: str) -> str:
    return mlflow_client(mlflow_home).get_run(run_id).info.status


def test_a_run_keeps_what_is_logged_to_it_and_its_trials_are_its_children(mlflow_home):
    with training_run(mlflow_home, CHARTER, name="train", note="**why**") as run:
        run.log(params={"a": 1}, metrics={"auc": 0.8, "none": float("nan")}, tags={"as_of": "today"})
        run.text("hello", "notes/a.txt")
        run.child("trial 1", params={"C": 0.1}, metrics={"loss": 0.3}, tags={"state": "pruned"}, seconds=2,
                  status="KILLED")
    seen = run.client.get_run(run.run_id)
    assert (seen.info.status, seen.data.params, seen.data.metrics) == ("FINISHED", {"a": "1"}, {"auc": 0.8})
    assert (seen.data.tags["mlflow.note.content"], seen.data.tags["as_of"]) == ("**why**", "today")
    children = run.client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert [(one.info.run_name, one.info.status, one.data.params) for one in children] == [
        ("trial 1", "KILLED", {"C": "0.1"})]
    assert children[0].info.end_time - children[0].info.start_time == 2000
    assert run.client.list_artifacts(run.run_id, "notes")[0].path == "notes/a.txt"


@pytest.mark.parametrize(("error", "ended"), [(ValueError("no\nluck"), "FAILED"), (KeyboardInterrupt(), "KILLED"),
                                              (SystemExit(1), "KILLED")])
def test_a_run_that_breaks_off_says_how_and_keeps_what_it_had(mlflow_home, error, ended):
    runs = []

    def broken() -> None:
        with training_run(mlflow_home, CHARTER, name="train") as run:
            runs.append(run)
            run.log(metrics={"auc": 0.8})
            raise error

    with pytest.raises(type(error)):
        broken()
    run = runs[0]
    seen = run.client.get_run(run.run_id)
    assert (seen.info.status, seen.data.metrics) == (ended, {"auc": 0.8})
    assert seen.data.tags["failure"].startswith(type(error).__name__)


def test_more_than_one_batch_of_parameters_and_a_long_value_are_taken(mlflow_home):
    with training_run(mlflow_home, CHARTER, name="train") as run:
        run.log(params={f"p{number}": "x" * 7000 for number in range(130)})
    assert len(run.client.get_run(run.run_id).data.params) == 130


def test_two_runs_at_once_in_threads_do_not_mix(mlflow_home):
    both_open = threading.Barrier(2, timeout=30)

    def one(name: str) -> str:
        with training_run(mlflow_home, CHARTER, name=name) as run:
            both_open.wait()
            for number in range(5):
                run.log(metrics={f"{name}{number}": 1.0})
                run.child(f"{name} trial", params={}, metrics={}, tags={}, seconds=0)
        return run.run_id

    with ThreadPoolExecutor(2) as pool:
        ids = dict(zip("ab", pool.map(one, "ab"), strict=True))
    client = mlflow_client(mlflow_home)
    for name, run_id in ids.items():
        assert set(client.get_run(run_id).data.metrics) == {f"{name}{number}" for number in range(5)}
    experiment = client.get_experiment_by_name(CHARTER.name).experiment_id
    for child in client.search_runs([experiment], "tags.`mlflow.parentRunId` != ''"):
        assert child.data.tags["mlflow.parentRunId"] == ids[child.info.run_name[0]]


def test_two_homes_at_once_keep_their_runs_apart(tmp_path, mlflow_home):
    other = home_of(tmp_path / "other")
    other.mlflow.mkdir(parents=True)
    (other.mlflow / "mlflow.db").write_bytes((mlflow_home.mlflow / "mlflow.db").read_bytes())
    with training_run(mlflow_home, CHARTER, name="a") as first, training_run(other, CHARTER, name="b") as second:
        second.log(metrics={"b": 1.0})
        first.log(metrics={"a": 1.0})
    assert mlflow_client(mlflow_home).get_run(first.run_id).data.metrics == {"a": 1.0}
    assert mlflow_client(other).get_run(second.run_id).data.metrics == {"b": 1.0}


def test_two_processes_that_open_a_new_store_at_once_both_succeed_and_do_not_mix(tmp_path):
    code = ("import sys; from tests.tasks.training.experiment import CHARTER, home_of\n"
            "from tasks.training.tracking import training_run\n"
            "with training_run(home_of(sys.argv[1]), CHARTER, name=sys.argv[2]) as run:\n"
            "    run.log(metrics={sys.argv[2]: 1.0})\nprint(run.run_id)")
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=REPO, text=True,
                                stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPO)}) for name in "ab"]
    for process, name in zip(started, "ab", strict=True):
        run_id = process.communicate(timeout=120)[0].strip()
        assert process.returncode == 0
        assert mlflow_client(home_of(tmp_path)).get_run(run_id).data.metrics == {name: 1.0}


def test_a_run_whose_process_died_is_ended_by_the_next_one_and_one_that_lives_is_not(mlflow_home):
    with training_run(mlflow_home, CHARTER, name="alive") as alive:
        dead = alive.client.create_run(alive.experiment_id, run_name="dead", tags={
            tracking.PROCESS: tracking._this_process().replace(f"/{os.getpid()}/", "/4194300/")}).info.run_id
        again = alive.client.create_run(alive.experiment_id, run_name="number taken by another", tags={
            tracking.PROCESS: tracking._this_process() + "0"}).info.run_id
        with training_run(mlflow_home, CHARTER, name="next"):
            pass
        ended = [status(mlflow_home, one) for one in (dead, again, alive.run_id)]
    assert ended == ["KILLED", "KILLED", "RUNNING"]


def test_a_store_that_fails_while_a_run_is_open_is_one_line_and_the_first_error_is_told(mlflow_home):
    def broken() -> None:
        with training_run(mlflow_home, CHARTER, name="train") as run:
            run.client._tracking_client.store.engine.dispose()
            (mlflow_home.mlflow / "mlflow.db").write_bytes(b"gone" * 5000)
            run.log(metrics={"auc": 0.8})

    with pytest.raises(PlatformError, match="cannot use MLflow's store"):
        broken()
