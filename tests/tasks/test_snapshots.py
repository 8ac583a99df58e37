from __future__ import annotations

import polars as pl
import pytest

from feature_repo.contract import Snapshot
from models.errors import DataError
from tasks.snapshots import build_snapshot, first_event, read_labels
from tests.tasks.conftest import Shop, day

ROWS = (
    "o1,c1,2024-01-10,2,10.00,2024-01-10",
    "o2,c1,2024-01-20,1,30.00,2024-01-20",
    "o3,c1,2024-02-10,1,50.00,2024-02-10",
    "o4,c1,2024-03-05,1,70.00,2024-03-05",
)


def snapshot(shop: Shop, cut: str) -> dict[str, object]:
    path = build_snapshot(shop.contract, Snapshot, home=shop.home, engine=shop.engine,
                          cut=day(cut))
    return pl.read_parquet(path).row(0, named=True)


def test_features_agree_with_a_count_by_hand(shop):
    shop.write("orders", *ROWS)
    shop.ingest("2024-04-01")
    row = snapshot(shop, "2024-03-01")
    assert row["recency_days"] == 20
    assert row["first_order_days"] == 51
    assert (row["orders_30d"], row["orders_90d"], row["orders_total"]) == (1, 3, 3)
    assert (row["spend_30d"], row["spend_90d"], row["max_order"]) == (50, 90, 50)
    assert row["mean_gap_days"] == 15.5
    assert row["items_90d"] == 4
    assert (row["age_years"], row["plan"]) == (44, "basic")
    assert row["eligible"] is True
    assert row["event_timestamp"] == row["created_timestamp"] == day("2024-03-01")


def test_an_order_at_the_cut_belongs_to_the_label_and_not_to_the_features(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-02-01,1,10.00,2024-02-01")
    shop.ingest("2024-06-01")
    assert snapshot(shop, "2024-02-01")["orders_total"] == 1
    labels = read_labels(shop.contract, problem=shop.charter.problem, home=shop.home, engine=shop.engine,
                         cuts=[day("2024-02-01"), day("2024-03-01")], as_of=day("2024-06-01"))
    assert labels["churned"].to_list() == [False, True]


def test_an_order_that_had_not_arrived_by_the_cut_is_no_part_of_its_features(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-01-31,1,10.00,2024-02-03")
    shop.ingest("2024-06-01")
    assert snapshot(shop, "2024-02-01")["orders_total"] == 1
    assert snapshot(shop, "2024-03-01")["orders_total"] == 2


def test_a_correction_shows_from_its_arrival_on_and_leaves_the_past_alone(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10")
    shop.ingest("2024-02-01")
    shop.write("orders", "o1,c1,2024-01-10,1,99.00,2024-02-15", file="b.csv")
    shop.ingest("2024-03-01")
    assert snapshot(shop, "2024-02-01")["spend_total"] == 10
    assert snapshot(shop, "2024-03-01")["spend_total"] == 99


def test_a_published_snapshot_is_never_rewritten(shop):
    shop.ingest("2024-06-01")
    path = build_snapshot(shop.contract, Snapshot, home=shop.home, engine=shop.engine,
                          cut=day("2024-02-01"))
    before = path.stat().st_mtime_ns
    snapshot(shop, "2024-02-01")
    assert path.stat().st_mtime_ns == before


def test_without_a_customers_table_its_features_leave_the_snapshot(orders_only):
    shop = orders_only("00001,1997-01-01,1,11.77")
    shop.ingest("1997-03-01")
    row = snapshot(shop, "1997-03-01")
    assert "age_years" not in row
    assert row["recency_days"] == 59


def test_a_label_that_is_not_mature_is_refused(shop):
    shop.ingest("2024-06-01")
    with pytest.raises(DataError, match="its label is mature on 2024-06-05"):
        read_labels(shop.contract, problem=shop.charter.problem, home=shop.home, engine=shop.engine,
                    cuts=[day("2024-05-01")], as_of=day("2024-06-01"))


def test_a_snapshot_before_the_first_row_is_refused(shop):
    shop.ingest("2024-06-01")
    with pytest.raises(DataError, match="no row had arrived before it"):
        snapshot(shop, "2023-06-01")


def test_the_first_event_is_that_of_a_table_every_source_has(shop):
    shop.ingest("2024-06-01")
    assert first_event(shop.contract, home=shop.home, engine=shop.engine, as_of=day("2024-06-01")) == day("2024-01-10")


def test_a_snapshot_or_a_label_later_than_the_last_load_is_refused(shop):
    shop.ingest("2024-03-01")
    with pytest.raises(DataError, match="as of 2024-04-01: the last load is of 2024-03-01"):
        snapshot(shop, "2024-04-01")
    with pytest.raises(DataError, match="Run ingest first"):
        read_labels(shop.contract, problem=shop.charter.problem, home=shop.home, engine=shop.engine,
                    cuts=[day("2024-02-01")], as_of=day("2024-06-01"))


def test_another_eligibility_is_another_contract_with_snapshots_of_its_own(shop):
    shop.write("orders", *ROWS)
    shop.ingest("2024-06-01")
    assert snapshot(shop, "2024-06-01")["eligible"] is False
    shop.contract = shop.contract.effective(["orders", "customers"], eligible_within_days=100)
    assert snapshot(shop, "2024-06-01")["eligible"] is True
