from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from feature_repo.contract import Snapshot
from models.errors import DataError
from tasks.features import apply_features, join_point_in_time, materialize_snapshot, open_store
from tasks.snapshots import build_snapshot, read_labels
from tests.tasks.conftest import REPO, Shop, day

CUTS = ("2024-02-01", "2024-03-01")


@pytest.fixture
def filled(shop) -> Shop:
    """Two customers, one of them silent since January, and two snapshots in Feast."""
    shop.write("customers", "c1,2024-01-01,2023-06-01,1980,basic,search,2024-01-01",
               "c2,2024-01-01,2023-06-01,1990,premium,social,2024-01-01")
    shop.write("orders", "o1,c1,2024-01-10,1,10,2024-01-10", "o2,c1,2024-02-10,1,20,2024-02-10",
               "o3,c2,2023-12-15,1,30,2024-01-01")
    shop.ingest("2024-06-01")
    for cut in CUTS:
        build_snapshot(shop.contract, Snapshot, home=shop.home, engine=shop.engine,
                       cut=day(cut))
    apply_features(shop.contract, shop.home)
    return shop


def test_a_label_meets_the_features_of_its_own_cut_and_only_who_was_eligible(filled):
    labels = read_labels(filled.contract, problem=filled.charter.problem, home=filled.home, engine=filled.engine,
                         cuts=[day(cut) for cut in CUTS], as_of=day("2024-06-01"))
    joined = join_point_in_time(labels, filled.contract, filled.home)
    rows = joined.select("customer_id", "orders_total", "churned").rows()
    assert rows == [("c1", 1.0, 0), ("c2", 1.0, 1), ("c1", 2.0, 1)]  # in March c2 had been silent for 77 days


def test_online_equals_the_latest_snapshot_and_an_unknown_customer_is_not_found(filled):
    assert materialize_snapshot(filled.contract, filled.home, day("2024-03-01")) == 2
    store = open_store(filled.home)
    answer = store.get_online_features(
        features=store.get_feature_service(filled.contract.service_name),
        entity_rows=[{"customer_id": "c1"}, {"customer_id": "nobody"}],
    ).to_dict()
    assert answer["spend_total"] == [30, None]
    assert answer["plan"] == ["basic", None]


def test_a_snapshot_made_out_of_order_still_arrives_online(filled):
    materialize_snapshot(filled.contract, filled.home, day("2024-03-01"))
    build_snapshot(filled.contract, Snapshot, home=filled.home, engine=filled.engine,
                   cut=day("2024-04-01"))
    assert materialize_snapshot(filled.contract, filled.home, day("2024-04-01")) == 2


def test_materializing_a_cut_without_a_snapshot_is_refused(filled):
    with pytest.raises(DataError, match="there is no snapshot of it"):
        materialize_snapshot(filled.contract, filled.home, day("2024-05-01"))


def test_every_feature_stands_in_the_registry_with_description_unit_and_owner(filled):
    view = open_store(filled.home).get_feature_view(filled.contract.view_name)
    fields = {field.name: field for field in view.schema}
    for column in filled.contract.features:
        assert fields[column.name].description == column.description
        assert fields[column.name].tags["unit"] == column.unit
    assert view.owner


def test_the_online_store_can_be_read_while_it_is_written(filled):
    materialize_snapshot(filled.contract, filled.home, day("2024-03-01"))
    with closing(sqlite3.connect(filled.home.feast_online)) as writer, closing(
            sqlite3.connect(filled.home.feast_online, timeout=0)) as reader:
        table = writer.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        writer.execute("BEGIN EXCLUSIVE")
        assert reader.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] > 0


@pytest.mark.service
def test_the_feast_command_works_on_the_same_definitions(filled):
    environment = {
        **os.environ, "PYTHONPATH": str(REPO), "FEAST_REGISTRY_PATH": filled.home.feast_registry,
        "FEAST_ONLINE_PATH": str(filled.home.feast_online),
        "FEAST_SNAPSHOTS": str(filled.home.lake / "snapshots"),
    }
    feast = [str(Path(sys.executable).parent / "feast"), "-c", str(REPO / "feature_repo")]
    planned = subprocess.run([*feast, "plan"], env=environment, capture_output=True, text=True, check=False,
                             timeout=120)
    assert planned.returncode == 0, planned.stderr
    assert "No changes" in planned.stdout
    listed = subprocess.run([*feast, "feature-services", "list"], env=environment, capture_output=True, text=True,
                            check=True, timeout=120)
    assert filled.contract.service_name in listed.stdout
