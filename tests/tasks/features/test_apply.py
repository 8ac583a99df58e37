from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from models.errors import DataError, PlatformError
from tasks.data.lake import snapshot_partition
from tasks.features.apply import apply_features, join_point_in_time, open_store
from tasks.features.feature_stores import check_stores, claim_stores
from tasks.features.materialize import materialize_snapshot
from tasks.features.parity import check_parity
from tasks.features.snapshots import read_labels
from tasks.home import Home
from tests.tasks.conftest import REPO, Shop, day

CUTS = ("2024-02-01", "2024-03-01")


def labels_of(filled: Shop):
    return read_labels(filled.contract, problem=filled.charter.problem, home=filled.home, engine=filled.engine,
                       cuts=[day(cut) for cut in CUTS], as_of=day("2024-06-01"))


def test_a_label_meets_the_features_of_its_own_cut_and_only_who_was_eligible(filled):
    joined = join_point_in_time(labels_of(filled), filled.contract, filled.home)
    rows = joined.select("customer_id", "orders_total", "churned").rows()
    assert rows == [("c1", 1.0, 0), ("c2", 1.0, 1), ("c1", 2.0, 1)]  # in March c2 had been silent for 77 days


def test_joining_one_customer_at_a_time_gives_what_joining_all_at_once_gives(filled):
    labels = labels_of(filled)
    whole = join_point_in_time(labels, filled.contract, filled.home)
    assert join_point_in_time(labels, filled.contract, filled.home, entities_a_join=1).equals(whole)
    assert join_point_in_time(labels.sample(fraction=1, shuffle=True, seed=1), filled.contract, filled.home,
                              entities_a_join=1).equals(whole)


def test_labels_of_nobody_eligible_give_no_rows_and_no_labels_are_refused(filled):
    labels = labels_of(filled)
    silent = labels.filter((labels["customer_id"] == "c2") & (labels["event_timestamp"] == day("2024-03-01")))
    joined = join_point_in_time(silent, filled.contract, filled.home)
    assert joined.is_empty()
    assert set(filled.contract.feature_names) < set(joined.columns)
    with pytest.raises(DataError, match="there are no labels"):
        join_point_in_time(labels.clear(), filled.contract, filled.home)


def test_every_feature_stands_in_the_registry_with_description_unit_and_owner(filled):
    view = open_store(filled.home).get_feature_view(filled.contract.view_name)
    fields = {field.name: field for field in view.schema}
    for column in filled.contract.features:
        assert fields[column.name].description == column.description
        assert fields[column.name].tags["unit"] == column.unit
    assert view.owner


def test_contracts_applied_at_once_all_stand_in_the_registry(filled):
    contracts = [replace(filled.contract, parameters={"eligible_within_days": days}) for days in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda contract: apply_features(contract, filled.home), contracts))
    names = {view.name for view in open_store(filled.home).list_feature_views()}
    assert names == {contract.view_name for contract in (filled.contract, *contracts)}


def test_a_store_opened_where_another_had_been_in_memory_lists_its_own_views(filled, tmp_path):
    other, elsewhere = replace(filled.contract, parameters={"eligible_within_days": 7}), Home(tmp_path / "elsewhere")
    apply_features(other, elsewhere)
    for _ in range(50):
        for home, contract in ((filled.home, filled.contract), (elsewhere, other)):
            listed = open_store(home).list_all_feature_views(allow_cache=True)
            assert [view.name for view in listed] == [contract.view_name]


def test_a_store_that_does_not_answer_is_named_without_its_password(filled):
    away = replace(filled.home, feature_registry="postgresql://root:secret@127.0.0.1:1/churn")
    with pytest.raises(PlatformError, match=r"cannot use the feature registry .*127\.0\.0\.1:1/churn") as raised:
        apply_features(filled.contract, away)
    assert "secret" not in str(raised.value)


def test_a_database_that_does_not_exist_is_to_be_created_and_a_damaged_file_moved_away(filled, postgres_url):
    away = replace(filled.home, feature_registry=postgres_url + "_none")
    with pytest.raises(PlatformError, match=r"database 'churn_test_\w+_none' does not exist\. Create it, or mend"):
        apply_features(filled.contract, away)
    if not filled.home.online_store:
        filled.home.feast_online.write_bytes(b"no database" * 999)
        with pytest.raises(PlatformError, match=r"online\.db: file is not a database\. Move the file away and run"):
            apply_features(filled.contract, filled.home)


def test_another_home_of_the_charter_is_refused_on_the_same_stores_until_the_mark_of_the_first_is_deleted(filled):
    apply_features(filled.contract, filled.home)  # its own home, again
    if not (filled.home.online_store or filled.home.feature_registry):
        return  # in the home, nobody else's
    other = replace(filled.home, root=filled.home.root / "other")
    for visit in (check_stores, claim_stores):
        with pytest.raises(PlatformError, match=r"belongs to the home .*if that home is gone, delete the Redis key"):
            visit(other)
    Redis.from_url(other.online_store).delete(f"churn-home:{other.feast_project}")
    if not other.feature_registry:
        claim_stores(other)
        with pytest.raises(PlatformError, match=r"belongs to the home .*other"):
            apply_features(filled.contract, filled.home)
        return
    with pytest.raises(PlatformError, match=r"the feature registry .*: DELETE FROM churn_homes WHERE project = '\w+'$"):
        check_stores(other)


def test_a_damaged_snapshot_is_named_wherever_it_is_read(filled):
    materialize_snapshot(filled.contract, filled.home, day("2024-03-01"))
    labels = labels_of(filled)
    path = snapshot_partition(filled.home, filled.contract.fingerprint, day("2024-03-01"))
    path.write_bytes(path.read_bytes()[:-100])
    for read in (lambda: materialize_snapshot(filled.contract, filled.home, day("2024-03-01")),
                 lambda: check_parity(filled.contract, filled.home, day("2024-03-01")),
                 lambda: join_point_in_time(labels, filled.contract, filled.home)):
        with pytest.raises(DataError, match=r"^[^\n]*cut=2024-03-01\.parquet[^\n]*Move the file away[^\n]*$"):
            read()


@pytest.mark.service
def test_the_feast_command_works_on_the_same_definitions(filled):
    store = open_store(filled.home)
    online = {"type": "sqlite", "path": str(filled.home.feast_online)}
    if filled.home.online_store:
        online = {"type": "redis", "connection_string": store.config.online_store.connection_string}
    environment = {
        **os.environ, "PYTHONPATH": str(REPO), "FEAST_REGISTRY_PATH": filled.home.feast_registry,
        "FEAST_PROJECT": filled.home.feast_project, "FEAST_ONLINE_STORE": json.dumps(online),
        "FEAST_SNAPSHOTS": str(filled.home.lake / "snapshots"),
    }
    feast = [str(Path(sys.executable).parent / "feast"), "-c", str(REPO / "feature_repo")]
    planned = subprocess.run([*feast, "plan"], env=environment, capture_output=True, text=True, check=False,
                             timeout=120)
    assert planned.returncode == 0, (planned.returncode, planned.stderr, planned.stdout)  # -9: killed for memory
    assert "No changes" in planned.stdout, (planned.stdout, planned.stderr)
    listed = subprocess.run([*feast, "feature-services", "list"], env=environment, capture_output=True, text=True,
                            check=False, timeout=120)
    assert listed.returncode == 0, (listed.returncode, listed.stderr, listed.stdout)
    assert filled.contract.service_name in listed.stdout
