from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from feature_repo.contract import Snapshot
from feature_repo.definitions import feast_objects
from feature_repo.value import VALUE
from models.cuts import CutPlan
from models.errors import ConfigError, DataError
from tasks.features.apply import open_store
from tasks.features.snapshots import build_snapshot
from tasks.state import read_decisions
from tasks.training.tracking import mlflow_client
from tasks.training.value import narrow, project_rows, train_project
from tests.tasks.conftest import Shop, day

CUT = day("2024-02-01")


def rows_of(shop: Shop, as_of: str) -> pd.DataFrame:
    problem = shop.charter.problem.model_copy(update={"horizon_days": VALUE.horizon_days})
    return project_rows(VALUE, shop.contract, problem, home=shop.home, engine=shop.engine, cuts=[CUT],
                        as_of=day(as_of))


@pytest.fixture
def spent(shop) -> Shop:
    """One customer: 10 before the cut, 20 and 30 in its window, 40 at its end, 50 that arrive in August."""
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-02-01,1,20.00,2024-02-01",
               "o3,c1,2024-04-30,1,30.00,2024-04-30", "o4,c1,2024-05-01,1,40.00,2024-05-01",
               "o5,c1,2024-03-01,1,50.00,2024-08-01")
    shop.ingest("2024-09-01")
    build_snapshot(shop.contract, Snapshot, home=shop.home, engine=shop.engine, cut=CUT)
    return shop


def test_the_target_is_what_was_spent_in_the_window_as_known_then_beside_features_of_the_cut(spent):
    row = rows_of(spent, "2024-06-01").iloc[0]
    assert (row[VALUE.target], row["spend_90d"], row["orders_total"]) == (50, 10, 1)
    assert rows_of(spent, "2024-09-01").iloc[0][VALUE.target] == 100


def test_a_target_that_is_not_mature_is_refused(spent):
    with pytest.raises(DataError, match="its label is mature on 2024-05-06"):
        rows_of(spent, "2024-05-01")


def test_two_projects_read_one_view_and_the_second_only_what_it_names(spent):
    rows = rows_of(spent, "2024-06-01")
    assert set(rows.columns) == {"customer_id", "event_timestamp", VALUE.target, "eligible", *VALUE.reads}
    services = {service.name: service for service in open_store(spent.home).list_feature_services()}
    assert set(services) == {spent.contract.service_name, f"value_{spent.contract.fingerprint}"}
    views = {projection.name for one in services.values() for projection in one.feature_view_projections}
    assert views == {spent.contract.view_name}


def test_a_domain_without_its_features_has_no_such_service_and_is_told_so(shop):
    kept = tuple(column for column in shop.contract.snapshot if column.name != VALUE.baseline)
    other = replace(shop.contract, snapshot=kept)
    assert len(feast_objects(other, "nowhere")) == 3
    with pytest.raises(ConfigError, match="the contract in effect has no 'spend_90d'"):
        narrow(other, VALUE)


@pytest.mark.service
def test_it_is_tested_out_of_time_against_as_before_and_logged_in_an_experiment_of_its_own(shop):
    shop.charter = shop.charter.model_copy(update={"training": shop.charter.training.model_copy(
        update={"least_rows": 200})})
    columns = dict.fromkeys(VALUE.reads, 1.0) | {"plan": "basic"}
    cuts = [CUT, day("2024-06-01")]
    rows = pd.concat([
        pd.DataFrame({**columns, "orders_90d": number % 7, "spend_90d": 50.0 * (number % 3),
                      VALUE.target: 10.0 * (number % 7) + math.sin(number), "event_timestamp": cut}, index=[number])
        for cut in cuts for number in range(300)
    ])
    verdict = train_project(VALUE, rows, CutPlan((cuts[0],), (cuts[1],)), shop.contract, charter=shop.charter,
                            home=shop.home, engine=shop.engine, as_of=day("2024-10-01"))
    assert verdict.verdict == "use"
    assert verdict.evidence["mean_error"] < 5 < verdict.evidence["baseline_mean_error"]
    run = mlflow_client(shop.home).get_run(verdict.evidence["run_id"])
    experiment = mlflow_client(shop.home).get_experiment(run.info.experiment_id)
    assert experiment.name == f"{shop.charter.name}-value"
    assert run.data.tags["feature_service"] == f"value_{shop.contract.fingerprint}"
    assert read_decisions(shop.engine, gate="value")[0].decision.reason == verdict.reason
    flat = rows.assign(**{VALUE.target: rows["spend_90d"]})  # they do spend as before
    kept = train_project(VALUE, flat, CutPlan((cuts[0],), (cuts[1],)), shop.contract, charter=shop.charter,
                         home=shop.home, engine=shop.engine, as_of=day("2024-10-01"))
    assert kept.verdict == "keep"
    few = rows[rows["event_timestamp"] == cuts[1]]
    with pytest.raises(DataError, match="0 mature training rows, needed are 200"):
        train_project(VALUE, few, CutPlan((cuts[0],), (cuts[1],)), shop.contract, charter=shop.charter,
                      home=shop.home, engine=shop.engine, as_of=day("2024-10-01"))
