"""prefect.yaml names what there is: real flows, real parameters, every flow; and no place of one machine."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from deploy.local.prefect_setup import check_owners
from models.charter import load_charter
from models.errors import ConfigError
from tasks.monitoring.outbox import DRIFT_EVENT, EVENTS, PERFORMANCE_EVENT, model_resource

REPO = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((REPO / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS: list[dict[str, Any]] = DOCUMENT["deployments"]


def flow_of(deployment: dict[str, Any]) -> Flow[Any, Any]:
    path, name = deployment["entrypoint"].split(":")
    found = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    return found


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_prefect_yaml_names_a_real_flow_and_real_parameters(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    assert flow.name == deployment["name"]
    known = inspect.signature(flow.fn).parameters
    given = {*deployment["parameters"]}
    for part in [*deployment.get("schedules", []), *deployment.get("triggers", [])]:
        given |= {*part.get("parameters", {})}
    assert given <= {*known}
    if deployment.get("schedules"):  # a schedule gives nothing: what it leaves out needs a default
        assert [name for name, one in known.items() if one.default is one.empty and name not in given] == []


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_every_parameter_has_a_type_and_every_deployment_a_description(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    assert all(one.annotation is not one.empty for one in inspect.signature(flow.fn).parameters.values())
    assert deployment["description"].strip()
    assert deployment["work_pool"] == {"name": "local"}


def test_every_flow_of_the_folder_is_a_deployment() -> None:
    files = {path.stem for path in (REPO / "flows").glob("*.py") if "\n@flow(" in path.read_text(encoding="utf-8")}
    assert {deployment["name"] for deployment in DEPLOYMENTS} == files


def test_what_is_done_nightly_runs_on_a_schedule_in_utc() -> None:
    active = {
        deployment["name"]: deployment["schedules"]
        for deployment in DEPLOYMENTS
        if any(schedule.get("active", True) for schedule in deployment.get("schedules", []))
    }
    assert set(active) == {"ingest", "features", "score", "ship", "monitor", "bake"}
    assert {schedule["timezone"] for schedules in active.values() for schedule in schedules} == {"UTC"}


def test_the_release_schedule_waits_until_a_rollout_is_open() -> None:
    release = next(deployment for deployment in DEPLOYMENTS if deployment["name"] == "release")
    (schedule,) = release["schedules"]
    assert (schedule["slug"], schedule["interval"], schedule["active"]) == ("while-open", 60, False)


@pytest.mark.parametrize(("deployment", "events"), [
    ("retrain", [[DRIFT_EVENT], [PERFORMANCE_EVENT]]), ("announce", [list(EVENTS)])])
def test_the_triggers_listen_for_the_events_that_are_sent(deployment: str, events: list[list[str]]) -> None:
    triggers = next(one for one in DEPLOYMENTS if one["name"] == deployment)["triggers"]
    assert [trigger["expect"] for trigger in triggers] == events
    for trigger in triggers:
        assert fnmatch.fnmatch(model_resource("shop"), trigger["match"]["prefect.resource.id"])
        assert (trigger["posture"], trigger["threshold"], trigger["within"]) == ("Reactive", 1, 0)


def test_an_event_gives_a_decision_and_nothing_else() -> None:
    given = [trigger.get("parameters", {}) for one in DEPLOYMENTS for trigger in one.get("triggers", [])]
    text = "{{ event.payload.decision_id | default('missing') }}"
    assert given == [{"decision_id": text}, {"decision_id": text}, {}]


def test_no_place_of_one_machine_stands_in_it() -> None:
    (step,) = DOCUMENT["pull"]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "{{ $CHURN_REPO }}"}}
    assert str(REPO) not in (REPO / "prefect.yaml").read_text(encoding="utf-8")


def test_every_deployment_names_its_owner_who_is_the_charters_and_of_its_team() -> None:
    charter = load_charter(REPO / "charter.yaml")
    check_owners(DEPLOYMENTS, charter)
    assert {charter.owner(deployment["name"]) for deployment in DEPLOYMENTS} <= set(charter.roles)


@pytest.mark.parametrize(("tags", "said"), [
    (["churn"], "says its owner is nobody, the charter data scientist"),
    (["owner: ada"], "says its owner is ada, the charter data scientist"),
    (["owner: data scientist", "owner: ada"], "says its owner is data scientist, ada"),
])
def test_a_deployment_without_its_owner_is_not_deployed(tags: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot deploy train: prefect.yaml {said}"):
        check_owners([{"name": "train", "tags": tags}], load_charter(REPO / "charter.yaml"))
