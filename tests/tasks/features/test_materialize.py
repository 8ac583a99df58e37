from __future__ import annotations

import logging
import subprocess
import sys
import time
from dataclasses import replace

import polars as pl
import pytest

from feature_repo.contract import Snapshot
from models.errors import DataError, PlatformError
from models.serving.features_online import open_online
from tasks.data.lake import snapshot_partition, write_partition
from tasks.features.apply import apply_features, open_store
from tasks.features.materialize import materialize_snapshot
from tasks.features.parity import check_parity
from tasks.features.snapshots import build_snapshot
from tests.tasks.conftest import REPO, day
from tests.tasks.features.online import read, spoil

FEBRUARY, MARCH = day("2024-02-01"), day("2024-03-01")


def test_online_equals_the_latest_snapshot_and_an_unknown_customer_is_unknown_on_every_store(filled):
    assert materialize_snapshot(filled.contract, filled.home, MARCH) == 2
    row = read(filled, "c1")
    assert (row.features["spend_total"], row.features["plan"], row.eligible, row.as_of) == (30, "basic", True, MARCH)
    assert read(filled, "c2").features["mean_gap_days"] is None  # one order has no gap
    assert read(filled, "nobody") is None


def test_a_snapshot_that_is_not_there_is_refused(filled):
    with pytest.raises(DataError, match="there is no snapshot of it"):
        materialize_snapshot(filled.contract, filled.home, day("2024-05-01"))


def test_a_snapshot_made_out_of_order_arrives_online_and_an_incremental_run_would_lose_it(filled):
    """Feast was told of everything until April, then the snapshot of March is made."""
    march = snapshot_partition(filled.home, filled.contract.fingerprint, MARCH)
    march.unlink()
    materialize_snapshot(filled.contract, filled.home, FEBRUARY)
    store = open_store(filled.home)
    store.materialize(FEBRUARY, day("2024-04-01"), feature_views=[filled.contract.view_name])
    build_snapshot(filled.contract, Snapshot, home=filled.home, engine=filled.engine, cut=MARCH)
    store.materialize_incremental(day("2024-05-01"), feature_views=[filled.contract.view_name])
    assert read(filled, "c1").as_of == FEBRUARY
    materialize_snapshot(filled.contract, filled.home, MARCH)
    assert read(filled, "c1").as_of == MARCH


def test_an_older_snapshot_fills_gaps_and_never_replaces_newer_values(filled):
    """c2 is in the snapshot of February alone."""
    path = snapshot_partition(filled.home, filled.contract.fingerprint, MARCH)
    write_partition(pl.read_parquet(path).filter(pl.col("customer_id") == "c1"), path)
    for cut in (MARCH, FEBRUARY, MARCH, FEBRUARY):
        materialize_snapshot(filled.contract, filled.home, cut)
    assert (read(filled, "c1").as_of, read(filled, "c1").features["orders_total"]) == (MARCH, 2)
    assert (read(filled, "c2").as_of, read(filled, "c2").features["orders_total"]) == (FEBRUARY, 1)


@pytest.mark.parametrize("stores", ["sqlite, sqlite"], indirect=True)  # in Redis Feast itself leaves newer rows alone
def test_feasts_own_writer_cannot_put_an_older_row_over_a_newer_one_either(filled):
    materialize_snapshot(filled.contract, filled.home, MARCH)
    open_store(filled.home).materialize(day("2024-01-31"), FEBRUARY, feature_views=[filled.contract.view_name])
    assert read(filled, "c1").as_of == MARCH


def test_putting_the_same_snapshot_online_again_mends_a_value_that_was_spoilt(filled):
    materialize_snapshot(filled.contract, filled.home, MARCH)
    spoil(filled, "c1", "orders_total", int64_val=77)
    assert read(filled, "c1").features["orders_total"] == 77
    materialize_snapshot(filled.contract, filled.home, MARCH)
    assert read(filled, "c1").features["orders_total"] == 2


def test_one_row_at_a_time_puts_online_what_the_snapshot_holds_and_says_how_far_it_is(filled, caplog):
    with caplog.at_level(logging.INFO, "tasks.features.materialize"):
        materialize_snapshot(filled.contract, filled.home, MARCH, rows_a_bucket=1)
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 2 rows of 2024-03-01 are online", "2 of 2 rows of 2024-03-01 are online"]
    assert check_parity(filled.contract, filled.home, MARCH).entities == 2


def test_the_registry_tells_what_was_put_online(filled):
    materialize_snapshot(filled.contract, filled.home, MARCH)
    view = open_store(filled.home).get_feature_view(filled.contract.view_name)
    assert view.most_recent_end_time == MARCH


@pytest.mark.parametrize("stores", [pytest.param("redis, sqlite", marks=pytest.mark.service)], indirect=True)
def test_two_charters_on_one_redis_do_not_meet(filled):
    homes = [replace(filled.home, name=letter + filled.home.name) for letter in "ab"]
    for home, cut in zip(homes, (MARCH, FEBRUARY), strict=True):
        apply_features(filled.contract, home)
        materialize_snapshot(filled.contract, home, cut)
    assert [read(filled, "c1", home).as_of for home in homes] == [MARCH, FEBRUARY]


@pytest.mark.service
@pytest.mark.parametrize("stores", ["sqlite, sqlite"], indirect=True)
def test_an_online_store_that_is_away_is_named_without_its_password(filled):
    away = replace(filled.home, online_store="redis://:secret@127.0.0.1:1/0",
                   feature_registry=filled.home.feast_registry)
    for use in (lambda: apply_features(filled.contract, away),
                lambda: materialize_snapshot(filled.contract, away, MARCH)):
        with pytest.raises(PlatformError, match=r"cannot use the online store redis://127\.0\.0\.1:1/0") as raised:
            use()
        assert "secret" not in str(raised.value)


WRITER = """
import sys
from datetime import datetime
from pathlib import Path
from models.contract import Contract
from tasks.home import Home
from tasks.features.materialize import materialize_snapshot

home = Home(Path(sys.argv[1]), sys.argv[2], sys.argv[3] or None)
contract = Contract.from_json(next((home.lake / "snapshots").glob("*.json")).read_text())
import feast
print("writing", flush=True)
materialize_snapshot(contract, home, datetime.fromisoformat(sys.argv[4]))
"""


@pytest.mark.service
@pytest.mark.parametrize("stores", ["sqlite, sqlite", "redis, sqlite"], indirect=True)
def test_readers_go_on_while_another_process_puts_ten_thousand_customers_online(filled, record_property):
    """Each snapshot says the same number in every feature, so half a row of each would show."""
    contract, home, many = filled.contract, filled.home, 10_000
    columns = {"float64": pl.Float64, "int64": pl.Int64}
    for number, cut in ((1, FEBRUARY), (2, MARCH)):
        moment = pl.lit(cut).cast(pl.Datetime("us", "UTC"))
        write_partition(pl.DataFrame({"customer_id": [f"m{each:05d}" for each in range(many)]}).with_columns(
            moment.alias("event_timestamp"), moment.alias("created_timestamp"), pl.lit(True).alias("eligible"),
            *(pl.lit(number).cast(columns[column.dtype]).alias(column.name) if column.role == "numeric"
              else pl.lit("basic" if number == 1 else "premium").alias(column.name) for column in contract.features),
        ), snapshot_partition(home, contract.fingerprint, cut))
    materialize_snapshot(contract, home, FEBRUARY)
    read_one = open_online(home.feast_registry, home.feast_online_place, contract, project=home.feast_project,
                           service_name=contract.service_name, view=contract.view_name)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(home.root), home.name, home.online_store or "",
                               MARCH.isoformat()], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    worst, seen, reads = 0.0, set(), 0
    while writer.poll() is None:
        began = time.perf_counter()
        row = read_one(f"m{(reads * 7919) % many:05d}")
        worst, reads = max(worst, time.perf_counter() - began), reads + 1
        values = {row.features[name] for name in contract.numeric}
        assert values == ({1.0} if row.as_of == FEBRUARY else {2.0})
        seen.add(row.as_of)
    assert writer.returncode == 0
    assert read_one("m00000").as_of == MARCH
    assert seen == {FEBRUARY, MARCH} or reads < 100
    record_property("worst_read_ms", round(worst * 1000, 1))
    print(f"{home.feast_online_place.split(':')[0]}: {reads:,} reads, the worst waited {worst * 1000:.1f} ms")
