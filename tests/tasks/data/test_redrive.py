from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from pydantic import SecretStr

from feature_repo.contract import RAW_TABLES, Orders
from models.errors import DataError
from tasks.data import redrive as redrive_module
from tasks.data.manifest import committed_files, committed_partitions, current_version, record_partitions, write_raw
from tasks.data.quarantine import list_quarantine
from tasks.data.redrive import Redrive, TableRedrive, redrive_quarantine
from tasks.data.sources import Sources, TableSource
from tests.tasks.conftest import Shop, day

FIRST = "2024-02-01"
GOOD = "o1,c1,2024-01-10,1,10.00,2024-01-10"


class LenientOrders(Orders):
    """The rule mended: an order may be refunded down to -5."""

    amount: pl.Decimal(18, 2) = pa.Field(ge=-5)  # type: ignore[valid-type]


MENDED = {**RAW_TABLES, "orders": LenientOrders}


@pytest.fixture
def shop(shop: Shop) -> Shop:
    """Here almost every row may be bad."""
    lenient = shop.charter.requirements.model_copy(update={"max_bad_share": 0.999, "max_data_age_days": 1000})
    shop.charter = shop.charter.model_copy(update={"requirements": lenient})
    return shop


def redrive(shop: Shop, schemas: Mapping[str, Any] = RAW_TABLES, *, dry_run: bool = False) -> Redrive:
    return redrive_quarantine(shop.sources, shop.contract, schemas, charter=shop.charter, home=shop.home,
                              engine=shop.engine, dry_run=dry_run)


def numbers(one: TableRedrive) -> tuple[int, int, int, int]:
    return one.waiting, one.passed, one.bad, one.redelivered


def orders(shop: Shop) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in committed_files(shop.home, shop.engine, "orders")])


def waiting(shop: Shop) -> list[tuple[str, int, tuple[str, ...]]]:
    orders = shop.contract.table("orders")
    return [(one.reason, one.rows, one.examples) for one in list_quarantine(shop.home, shop.engine, [orders])]


def test_after_the_rule_is_mended_what_passes_leaves_the_quarantine_and_enters_the_lake(shop):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,-3,2024-01-11", "o3,c1,2024-01-11,1,-9,2024-01-11")
    shop.ingest(FIRST)
    done = redrive(shop, MENDED)
    assert numbers(done.tables["orders"]) == (2, 1, 1, 0)
    assert sorted(orders(shop)["order_id"]) == ["o1", "o2"]
    assert waiting(shop) == [("amount fails greater_than_or_equal_to(-5)", 1, ("a.csv:4",))]
    assert done.line == "re-drove 2 quarantined rows = 1 passed + 1 still bad + 0 re-delivered"


def test_what_passes_was_not_known_at_the_last_load(shop):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,-3,2024-01-11")
    shop.ingest(FIRST)
    redrive(shop, MENDED)
    row = orders(shop).filter(pl.col("order_id") == "o2").row(0, named=True)
    assert row["created_timestamp"] > day(FIRST)
    assert (row["ordered_at"], row["_file"], row["_line"]) == (day("2024-01-11"), "a.csv", 3)


def test_an_order_of_a_customer_who_was_unknown_passes_once_the_customer_is_there(shop):
    shop.write("orders", GOOD, "o2,c2,2024-01-11,1,3,2024-01-11")
    shop.ingest(FIRST)
    shop.write("customers", "c2,2024-02-02,2023-06-01,1980,basic,search,2024-02-02", file="late.csv")
    shop.ingest("2024-03-01")
    assert numbers(redrive(shop).tables["orders"]) == (1, 1, 0, 0)
    assert waiting(shop) == []


def test_a_customer_who_passes_is_known_to_the_orders_of_the_same_re_drive(shop):
    shop.write("customers", "c1,2024-01-01,2023-06-01,1980,basic,search,2024-01-01",
               "c2,2024-01-01,2023-06-01,1980,gold,search,2024-01-01")
    shop.write("orders", GOOD, "o2,c2,2024-01-11,1,3,2024-01-11")
    shop.ingest(FIRST)

    class Customers(RAW_TABLES["customers"]):  # type: ignore[name-defined]
        plan: str = pa.Field(isin=["basic", "standard", "premium", "gold"])

    done = redrive(shop, {**RAW_TABLES, "customers": Customers})
    assert {name: numbers(one) for name, one in done.tables.items()} == {
        "customers": (1, 1, 0, 0), "orders": (1, 1, 0, 0),
    }


def test_a_row_that_the_mended_source_has_delivered_since_leaves_as_re_delivered(shop):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,ten,2024-01-11")
    shop.ingest(FIRST)
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,10,2024-01-11")
    shop.ingest("2024-03-01")
    assert numbers(redrive(shop).tables["orders"]) == (1, 0, 0, 1)
    assert waiting(shop) == []
    assert orders(shop).filter(pl.col("order_id") == "o2")["amount"].to_list() == [10]


def test_a_re_delivered_row_is_known_when_its_old_file_grows_and_is_read_again(shop):
    bad = ["o2,c1,2024-01-11,1,ten,2024-01-11", "o3,c1,2024-01-11,1,-9,2024-01-11"]
    shop.write("orders", GOOD, *bad)
    shop.ingest(FIRST)
    shop.write("orders", "o2,c1,2024-01-11,1,10,2024-01-11", file="b.csv")
    shop.ingest("2024-03-01")
    assert numbers(redrive(shop).tables["orders"]) == (2, 0, 1, 1)
    assert waiting(shop) == [("amount is not between 0 and 1,000,000", 1, ("a.csv:4",))]
    assert numbers(redrive(shop).tables["orders"]) == (1, 0, 1, 0)
    shop.write("orders", GOOD, *bad, "o4,c1,2024-01-12,1,10,2024-01-12")
    counts = shop.ingest("2024-04-01").counts["orders"]
    assert (counts.kept, counts.quarantined) == (1, 0)
    texts = [pl.read_parquet(file) for file in committed_files(shop.home, shop.engine, "orders", kind="quarantine")]
    assert [row for frame in texts for row in frame.filter(pl.col("_line") == 3).select("_key", "amount").rows()] == [
        ("o2", None)]


def test_a_spoiled_copy_of_a_good_row_stays_though_the_good_one_is_not_in_the_quarantine(shop):
    shop.write("orders", GOOD, "o1,c1,2024-01-10,1,99.00,2024-01-10")
    shop.ingest(FIRST)
    assert numbers(redrive(shop).tables["orders"]) == (1, 0, 1, 0)
    assert waiting(shop)[0][0] == "order_id stands twice in the file with different content"


def test_a_re_drive_gives_the_reasons_that_ingest_gave(shop):
    shop.write("orders", GOOD, "o1,c1,2024-01-10,1,-9.00,2024-01-10", "o1,c1,2024-01-10,1,99.00,2024-01-10")
    shop.ingest(FIRST)
    before = waiting(shop)
    redrive(shop)
    assert waiting(shop) == before == [
        ("amount is not between 0 and 1,000,000", 1, ("a.csv:3",)),
        ("order_id stands twice in the file with different content", 1, ("a.csv:4",)),
    ]


def test_a_correction_that_was_bad_corrects_once_its_rule_is_mended(shop):
    shop.ingest(FIRST)
    shop.write("orders", "o1,c1,2024-01-10,1,-2.00,2024-02-10", "o4,c1,2024-02-10,1,1,2024-02-10", file="b.csv")
    shop.ingest("2024-03-01")
    assert numbers(redrive(shop, MENDED).tables["orders"]) == (1, 1, 0, 0)
    told = orders(shop).filter(pl.col("order_id") == "o1").sort("_version")
    assert told.select("amount", "_version").rows() == [(10, 0), (-2, 1)]


def test_a_dry_run_counts_the_same_and_changes_nothing(shop):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,-3,2024-01-11")
    shop.ingest(FIRST)
    version, files = current_version(shop.engine), sorted(shop.home.lake.rglob("*"))
    dry = redrive(shop, MENDED, dry_run=True)
    assert (current_version(shop.engine), sorted(shop.home.lake.rglob("*"))) == (version, files)
    assert dry.line == "would re-drive 1 quarantined rows = 1 passed + 0 still bad + 0 re-delivered"
    assert redrive(shop, MENDED).tables == dry.tables


def test_a_re_drive_that_changes_nothing_writes_nothing_and_a_second_one_finds_nothing_new(shop):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,-3,2024-01-11", "o3,c1,2024-01-11,1,-9,2024-01-11")
    shop.ingest(FIRST)
    before = committed_partitions(shop.engine, kind="quarantine")
    redrive(shop)
    assert committed_partitions(shop.engine, kind="quarantine") == before
    redrive(shop, MENDED)
    assert numbers(redrive(shop, MENDED).tables["orders"]) == (1, 0, 1, 0)
    assert len(orders(shop)) == 2


def test_a_row_that_was_re_driven_or_waits_is_known_when_its_file_comes_again(shop):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,-3,2024-01-11", "o3,c1,2024-01-11,1,-9,2024-01-11")
    shop.ingest(FIRST)
    redrive(shop, MENDED)
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,-3,2024-01-11", "o3,c1,2024-01-11,1,-9,2024-01-11", file="b.csv")
    counts = shop.ingest("2024-03-01").counts["orders"]
    assert (counts.kept, counts.quarantined) == (0, 0)


def test_the_newest_load_comes_first_among_the_examples_and_lines_stand_in_order(shop):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,-3,2024-01-11")
    shop.ingest(FIRST)
    shop.write("orders", "o3,c1,2024-02-11,1,-3,2024-02-11", "o4,c1,2024-02-11,1,-3,2024-02-11",
               "o5,c1,2024-02-11,1,3,2024-02-11", file="b.csv")
    shop.ingest("2024-03-01")
    assert waiting(shop) == [("amount is not between 0 and 1,000,000", 3, ("b.csv:2", "b.csv:3", "a.csv:3"))]


def test_two_equal_purchases_that_were_bad_come_back_as_two(orders_only):
    shop = orders_only("00001,1997-01-01,1,11.77", *["00002,1997-01-02,1,-1"] * 2)
    shop.charter = shop.charter.model_copy(update={
        "requirements": shop.charter.requirements.model_copy(update={"max_bad_share": 0.9})
    })
    shop.ingest("1997-02-01")
    assert numbers(redrive(shop, MENDED).tables["orders"]) == (2, 2, 0, 0)
    assert shop.ingest("1997-03-01").total.kept == 0


def test_a_row_with_more_cells_than_its_header_is_not_mended_by_what_was_cut_off(shop):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,3,2024-01-11,more")
    shop.ingest(FIRST)
    before = waiting(shop)
    assert before[0][0] == "has 7 cells where the header has 6"
    assert numbers(redrive(shop).tables["orders"]) == (1, 0, 1, 0)
    assert waiting(shop) == before


def test_a_row_of_a_database_without_a_declared_key_keeps_the_one_that_holds_its_watermark(orders_only):
    shop = orders_only("00001,1997-01-01,1,11.77", "00002,1997-01-02,1,-1")
    shop.charter = shop.charter.model_copy(update={
        "requirements": shop.charter.requirements.model_copy(update={"max_bad_share": 0.9})
    })
    shop.ingest("1997-02-01")
    (old,) = committed_partitions(shop.engine, kind="quarantine")
    rows = pl.read_parquet(shop.home.lake / old.path).with_columns(_key=pl.lit("by watermark#0"))
    path = (shop.home.lake / old.path).with_name("load=1997-02-01,1.parquet")
    new = write_raw(shop.home, rows, path, table="orders", kind="quarantine", as_of=old.as_of)
    with shop.engine.begin() as connection:
        record_partitions(connection, [new], remove=[old])
    source = TableSource(database=SecretStr("postgresql://nowhere"), query="SELECT", watermark="landed",
                         columns=shop.sources.tables["orders"].columns)
    shop.sources = Sources(tables={"orders": source})
    redrive(shop, MENDED)
    assert "by watermark#0" in orders(shop)["_key"].to_list()


def test_new_reasons_stand_in_place_of_the_old_ones(shop):
    shop.write("orders", GOOD, "o2,nobody,2024-01-11,1,-9,2024-01-11")
    shop.ingest(FIRST)
    shop.write("customers", "nobody,2024-02-02,2023-06-01,1980,basic,search,2024-02-02", file="late.csv")
    shop.ingest("2024-03-01")
    done = redrive(shop).tables["orders"]
    assert done.reasons == (("amount is not between 0 and 1,000,000", 1),)
    assert waiting(shop) == [("amount is not between 0 and 1,000,000", 1, ("a.csv:3",))]


@pytest.mark.parametrize("at", ["_commit", "_drop_struck"])
def test_killed_before_or_after_the_transaction_the_lake_is_whole_and_another_try_completes_it(shop, monkeypatch, at):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,-3,2024-01-11")
    shop.ingest(FIRST)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(redrive_module, at, die)
        with pytest.raises(KeyboardInterrupt):
            redrive(shop, MENDED)
    assert (len(orders(shop)), len(waiting(shop))) == ((1, 1) if at == "_commit" else (2, 0))
    redrive(shop, MENDED)
    assert (len(orders(shop)), len(waiting(shop))) == (2, 0)


def test_without_a_load_there_is_nothing_to_re_drive(shop):
    with pytest.raises(DataError, match="cannot re-drive the quarantine: nothing was loaded yet"):
        redrive(shop)


def test_a_missing_file_of_the_quarantine_is_said_and_not_taken_for_an_empty_one(shop):
    shop.write("orders", GOOD, "o2,c1,2024-01-11,1,-3,2024-01-11")
    shop.ingest(FIRST)
    committed_files(shop.home, shop.engine, "orders", kind="quarantine")[0].unlink()
    with pytest.raises(DataError, match=r"quarantine/orders/load=.* is missing from the lake, .*Restore it"):
        redrive(shop)
