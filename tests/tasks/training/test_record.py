from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest

from models.errors import PlatformError
from tasks.training.record import Record, begin_record, read_record, write_record
from tasks.training.tracking import training_run
from tests.tasks.training.experiment import AS_OF, CHARTER, CONFIG, CONTRACT, MADE_WITH, home_of, record


def test_a_record_comes_back_with_every_digit():
    back = Record.from_json(record().to_json())
    assert math.isnan(back.metrics["lift"])
    assert back.metrics["auc"] == 0.8123456789012345
    for one in fields(Record):
        if one.name != "metrics":
            assert getattr(back, one.name) == getattr(record(), one.name), one.name


def test_it_is_json_that_others_read_too():
    assert json.loads(record().to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_without_a_store_a_run_cannot_be_read_and_none_is_made(tmp_path):
    with pytest.raises(PlatformError, match="holds no MLflow store"):
        read_record(home_of(tmp_path), "r1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.service
def test_what_is_known_before_and_after_stands_in_the_run_and_a_run_without_it_says_so(mlflow_home):
    seen = record()
    with training_run(mlflow_home, CHARTER, name="train") as run:
        begin_record(run, hypothesis="silence tells", as_of=AS_OF, config=CONFIG, charter=CHARTER, contract=CONTRACT,
                     dataset=seen.dataset, made_with=MADE_WITH)
        with pytest.raises(PlatformError, match=r"the run \(running\) left no record.json"):
            read_record(mlflow_home, run.run_id)
        write_record(run, seen)
    assert read_record(mlflow_home, run.run_id).metrics["auc"] == seen.metrics["auc"]
    data = run.client.get_run(run.run_id).data
    assert data.metrics == {"auc": seen.metrics["auc"]}
    assert {"hypothesis": "silence tells", "dataset_version": "d1", "fingerprint": CONTRACT.fingerprint, "git": "clean",
            "lock": "222", "mlflow.source.git.commit": "abc", "training_set": "a.parquet"}.items() <= data.tags.items()
    assert {"config.trials": "2", "config.random_state": "7", "problem.horizon_days": "30",
            "value.contact_budget": "40", "rows.train": "400", "features": "2"}.items() <= data.params.items()
    with pytest.raises(PlatformError, match=f"MLflow has no run of that id; the newest are {run.run_id}"):
        read_record(mlflow_home, "nobody")
    run.text("{}", "record.json")
    with pytest.raises(PlatformError, match="written by another version of the code"):
        read_record(mlflow_home, run.run_id)
