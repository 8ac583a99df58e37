from __future__ import annotations

import json
from dataclasses import replace

import pytest
import sqlalchemy as sa

from models.errors import ReleaseError
from models.serving.payload import load_payload
from models.serving.scorer import predict
from models.training.fit import split_rows
from tasks.release.model_registry import fetch_payload
from tasks.state import open_state, read_decisions
from tasks.training import register as module
from tasks.training.payload import check_ships
from tasks.training.register import register, settle
from tasks.training.tracking import mlflow_client, training_run
from tests.tasks.training.experiment import AS_OF, CHARTER, CONTRACT, LOSES, PLAN, WINS, candidate, rows

pytestmark = pytest.mark.service
_, TEST = split_rows(rows(), PLAN)


class Stop(BaseException):
    """Stands for a kill: nothing catches it but what must clean up."""


@pytest.fixture
def engine(mlflow_home) -> sa.Engine:
    return open_state(mlflow_home.state_url)


def registered(mlflow_home, engine, decision=WINS):
    with training_run(mlflow_home, CHARTER, name="train") as run:
        said = register(run, candidate(), decision, engine=engine, charter=CHARTER, contract=CONTRACT, test=TEST,
                        pins="numpy==2.0\n", as_of=AS_OF, note="why",
                        facts={"dataset_version": "d1", "monthly_value": 5.0})
    return run, said


def versions(mlflow_home):
    found = mlflow_client(mlflow_home).search_model_versions("name = 'test'")
    return {int(one.version): dict(one.tags) for one in found}


def challenger(mlflow_home):
    client = mlflow_client(mlflow_home)
    if not client.search_registered_models("name = 'test'"):
        return None
    return client.get_registered_model("test").aliases.get("challenger")


def test_what_won_is_a_version_with_its_verdict_in_the_ledger_on_the_version_and_on_the_run(mlflow_home, engine):
    run, said = registered(mlflow_home, engine)
    recorded = read_decisions(engine, gate="promotion", subject="1")[0].decision
    assert recorded == said
    assert (said.evidence["run_id"], said.evidence["model_version"]) == (run.run_id, "1")
    tags = versions(mlflow_home)[1]
    assert (tags["gate"], tags["verdict"], tags["reason"], tags["gate.gain"]) == (
        "passed", "promote", "better by 10 a cut", "10")
    assert run.client.get_run(run.run_id).data.tags["verdict"] == "promote"
    assert int(challenger(mlflow_home)) == 1


def test_what_did_not_win_is_no_version_and_stands_in_the_ledger_under_its_run(mlflow_home, engine):
    run, said = registered(mlflow_home, engine, LOSES)
    assert (versions(mlflow_home), challenger(mlflow_home)) == ({}, None)
    assert read_decisions(engine, gate="promotion", subject=run.run_id)[0].decision == said
    assert said.evidence["model_version"] is None
    assert "payload" not in [one.path for one in run.client.list_artifacts(run.run_id)]


def test_what_was_evaluated_is_what_ships(mlflow_home, engine, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")  # flows, once imported, forbid MLflow to load
    registered(mlflow_home, engine)
    folder = fetch_payload(mlflow_home, model_name="test", version=1)
    payload = load_payload(folder)
    assert (predict(payload.pipeline, TEST, CONTRACT) == candidate().probability).all()
    assert payload.model_version == "1"
    assert json.loads((folder / "release.json").read_text())["threshold"] == candidate().threshold
    import mlflow

    place = mlflow_client(mlflow_home).get_model_version("test", "1").source
    assert (mlflow.sklearn.load_model(place).predict_proba(TEST[CONTRACT.feature_names])[:, 1]
            == candidate().probability).all()


def test_a_model_that_scores_otherwise_once_it_is_loaded_is_refused(tmp_path):
    import skops.io

    path = tmp_path / "pipeline.skops"
    skops.io.dump(candidate().pipeline, path)
    off = candidate().probability.copy()
    off[3] += 1e-12
    with pytest.raises(ReleaseError, match="scores 1 of 200 test rows differently"):
        check_ships(replace(candidate(), probability=off), path, TEST, CONTRACT)


def test_a_store_that_began_anew_gives_no_number_that_the_ledger_knows_of_another_model(mlflow_home, engine):
    empty = (mlflow_home.mlflow / "mlflow.db").read_bytes()
    for _ in range(2):
        registered(mlflow_home, engine)
    (mlflow_home.mlflow / "mlflow.db").write_bytes(empty)  # restored from before, or lost and made again
    run, said = registered(mlflow_home, engine)
    assert said.evidence["model_version"] == "3"
    assert list(versions(mlflow_home)) == [3]
    assert int(challenger(mlflow_home)) == 3
    assert load_payload(fetch_payload(mlflow_home, model_name="test", version=3)).model_version == "3"
    (row,) = read_decisions(engine, gate="promotion", subject="3")
    assert row.decision.evidence["run_id"] == run.run_id


STEPS = ("log_model", "make_version", "complete_payload", "record_decision", "finish")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_breaks_off_no_alias_points_at_a_version_the_ledger_does_not_know(
    mlflow_home, engine, monkeypatch, step, when
):
    original = getattr(module, step)

    def broken(*words, **named):
        if when == "after":
            original(*words, **named)
        raise Stop

    monkeypatch.setattr(module, step, broken)
    with pytest.raises(Stop):
        registered(mlflow_home, engine)
    monkeypatch.setattr(module, step, original)
    in_ledger = [row.decision.evidence["model_version"] for row in read_decisions(engine, gate="promotion")]
    settle(mlflow_client(mlflow_home), mlflow_home, engine, "test")  # what the next training does first
    done = (step, when) in {("record_decision", "after"), ("finish", "before"), ("finish", "after")}
    assert in_ledger == (["1"] if done else [])
    assert list(versions(mlflow_home)) == ([1] if done else [])
    assert challenger(mlflow_home) == (1 if done else None)
    registered(mlflow_home, engine)
    assert int(challenger(mlflow_home)) == max(versions(mlflow_home))
    assert {tags["gate"] for tags in versions(mlflow_home).values()} == {"passed"}


@pytest.mark.parametrize("step", ["record_decision", "finish"])
def test_a_process_that_is_killed_leaves_a_version_that_nobody_releases_until_it_is_settled(
    mlflow_home, engine, monkeypatch, step
):
    def killed(*_words, **_named):
        raise Stop

    with monkeypatch.context() as broken:
        broken.setattr(module, step, killed)
        broken.setattr(module, "_settle", killed)  # who is killed cleans nothing up
        with pytest.raises(Stop):
            registered(mlflow_home, engine)
    assert versions(mlflow_home)[1]["gate"] == "pending"
    assert challenger(mlflow_home) is None
    with pytest.raises(ReleaseError, match="its registration broke off"):
        fetch_payload(mlflow_home, model_name="test", version=1)
    settle(mlflow_client(mlflow_home), mlflow_home, engine, "test")
    if step == "finish":  # the ledger says that it won
        assert (versions(mlflow_home)[1]["gate"], int(challenger(mlflow_home))) == ("passed", 1)
        assert load_payload(fetch_payload(mlflow_home, model_name="test", version=1)).model_version == "1"
    else:
        assert (versions(mlflow_home), challenger(mlflow_home)) == ({}, None)


def test_a_version_that_is_settled_late_does_not_take_the_newer_ones_place(mlflow_home, engine, monkeypatch):
    def killed(*_words, **_named):
        raise Stop

    with monkeypatch.context() as broken:
        broken.setattr(module, "finish", killed)
        broken.setattr(module, "_settle", killed)
        with pytest.raises(Stop):
            registered(mlflow_home, engine)
    registered(mlflow_home, engine)
    assert int(challenger(mlflow_home)) == 2
    settle(mlflow_client(mlflow_home), mlflow_home, engine, "test")
    assert (versions(mlflow_home)[1]["gate"], int(challenger(mlflow_home))) == ("passed", 2)


def test_another_runs_verdict_of_the_same_version_number_is_no_verdict(mlflow_home, engine, monkeypatch):
    """A restored or foreign ledger must not pass a version it never judged."""
    from tasks.state import record_decision

    record_decision(engine, replace(WINS, evidence={"run_id": "another", "model_version": "1"}), as_of=AS_OF,
                    subject="1")

    def killed(*_words, **_named):
        raise Stop

    with monkeypatch.context() as broken:
        broken.setattr(module, "record_decision", killed)
        with pytest.raises(Stop):
            registered(mlflow_home, engine)
    assert (versions(mlflow_home), challenger(mlflow_home)) == ({}, None)


