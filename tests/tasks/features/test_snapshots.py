from __future__ import annotations

import math
from dataclasses import replace

import polars as pl
import pytest

from feature_repo.contract import Snapshot
from models.errors import ConfigError, DataError
from tasks.data.lake_sql import open_lake, run_sql, show_tables
from tasks.features.snapshots import build_snapshot, first_event, read_labels
from tests.bench.world import AS_OF, World
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


def test_gaps_trends_and_shares_agree_with_a_count_by_hand(shop):
    shop.write("orders",
               "o1,c1,2024-01-06,2,10.00,2024-01-06",  # a Saturday
               "o2,c1,2024-01-16,1,30.00,2024-01-16",
               "o3,c1,2024-02-15,1,50.00,2024-02-15",
               "o4,c1,2024-02-25,1,20.00,2024-02-25",  # a Sunday
               "o5,c1,2024-02-25,1,70.00,2024-02-25")  # the same instant: the larger one is the later
    shop.write("customers", "c1,2024-01-01,2023-06-01,1980,basic,search,2024-01-01",
               "c1,2024-02-01,2023-06-01,1980,premium,search,2024-02-01")
    shop.ingest("2024-06-01")
    row = snapshot(shop, "2024-03-01")
    assert (row["orders_7d"], row["spend_7d"], row["last_order"]) == (2, 90, 70)
    assert (row["mean_gap_days"], row["longest_gap_days"], row["last_gap_days"]) == (12.5, 30, 0)
    # Gaps of 10, 30, 10 and 0 days: mean 12.5, variance (6.25 + 306.25 + 6.25 + 156.25) / 4 = 118.75.
    assert row["gap_variation_180d"] == pytest.approx(118.75**0.5 / 12.5)
    assert row["last_gap_ratio"] == 0
    assert row["overdue_ratio"] == 5 / 12.5
    assert row["weekend_share_180d"] == 3 / 5
    assert row["orders_trend"] == pytest.approx(math.log((3 + 1) / (5 / 3 + 1)))
    assert row["spend_trend"] == pytest.approx(math.log((140 + 1) / (180 / 3 + 1)))
    assert (row["plan"], row["plan_changes_180d"]) == ("premium", 1)


def test_one_order_has_no_gaps_and_no_regularity(shop):
    shop.ingest("2024-06-01")
    row = snapshot(shop, "2024-02-01")
    names = ("mean_gap_days", "gap_variation_180d", "longest_gap_days", "last_gap_days", "last_gap_ratio")
    assert [row[name] for name in names] == [None] * 5
    assert row["last_order"] == 10


def test_of_a_corrected_row_each_moment_sees_the_version_known_then(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-01-15,1,5.00,2024-01-15")
    shop.ingest("2024-02-01")
    shop.write("orders", "o1,c1,2024-01-10,1,20.00,2024-02-10", file="b.csv")
    shop.ingest("2024-03-01")
    shop.write("orders", "o1,c1,2024-03-10,1,40.00,2024-03-15", file="c.csv")  # it had happened later
    shop.ingest("2024-05-01")
    seen = [snapshot(shop, cut)["spend_total"] for cut in ("2024-02-01", "2024-03-01", "2024-04-01")]
    assert seen == [15, 25, 45]
    assert snapshot(shop, "2024-02-01")["last_order"] == 5


def test_a_snapshot_that_breaks_a_check_is_not_published_and_says_why(shop):
    shop.ingest("2024-06-01")
    sql = shop.contract.sql["snapshot.sql"].replace("o.recency_days,", "-o.recency_days AS recency_days,", 1)
    shop.contract = replace(shop.contract, sql={**shop.contract.sql, "snapshot.sql": sql})
    with pytest.raises(DataError, match="recency_days fails greater_than_or_equal_to"):
        snapshot(shop, "2024-02-01")
    assert not list(shop.home.lake.rglob("cut=*"))


def test_a_memory_limit_that_is_none_or_far_too_small_is_refused_in_one_line(shop):
    shop.ingest("2024-06-01")
    with pytest.raises(ConfigError, match="CHURN_MEMORY_LIMIT='much'"):
        build_snapshot(shop.contract, Snapshot, home=shop.home, engine=shop.engine, cut=day("2024-02-01"),
                       memory_limit="much")
    with pytest.raises(DataError, match=r"cannot .*: Out of Memory Error: [^\n]*\. Raise CHURN_MEMORY_LIMIT$"):
        build_snapshot(shop.contract, Snapshot, home=shop.home, engine=shop.engine, cut=day("2024-02-01"),
                       memory_limit="1KB")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """Sixty thousand customers: several row groups, so that threads share them, and more than the limit below."""
    made = World(60_000, tmp_path_factory.mktemp("world"))
    made.fill_lake()
    return made


@pytest.mark.service
def test_every_feature_has_the_same_bytes_whatever_the_threads(world):
    found = []
    for threads in (1, 2, 4):
        with open_lake(world.contract, home=world.home, engine=world.engine, known_by=AS_OF) as lake:
            lake.execute(f"SET threads={threads}")
            show_tables(lake, world.contract, known_by=AS_OF, happened_before=AS_OF)
            rows = run_sql(lake, world.contract.sql["snapshot.sql"], name="snapshot.sql",
                           values={"cut": AS_OF, **world.contract.parameters})
        found.append(rows.sort("customer_id").write_ipc(None, compat_level=pl.CompatLevel.newest()).getvalue())
    assert found[0] == found[1] == found[2]


@pytest.mark.service
def test_below_its_memory_limit_duckdb_spills_gives_the_same_bytes_and_leaves_nothing_behind(world, monkeypatch):
    spilt = []

    def watched(connection, *rest, **named):
        done = run_sql(connection, *rest, **named)
        spilt.extend(world.home.lake.glob(".spill-*/*"))
        return done

    monkeypatch.setattr("tasks.features.snapshots.run_sql", watched)
    path = build_snapshot(world.contract, Snapshot, home=world.home, engine=world.engine, cut=AS_OF)
    whole, before = path.read_bytes(), len(spilt)
    path.unlink()
    killed = world.home.lake / ".spill-999999999-left"
    killed.mkdir()
    build_snapshot(world.contract, Snapshot, home=world.home, engine=world.engine, cut=AS_OF, memory_limit="60MB")
    assert path.read_bytes() == whole
    assert before == 0
    assert spilt
    assert not list(world.home.lake.glob(".spill-*"))
