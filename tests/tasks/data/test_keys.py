"""What names a row, which rows are new, and which correct an older one."""

from __future__ import annotations

import hashlib

import polars as pl
import pytest
import sqlalchemy as sa

from feature_repo.contract import RAW_TABLES
from models.errors import DataError
from tasks.data.keys import with_keys
from tasks.data.lake import hash_file, quarantine_partition, raw_partition
from tasks.data.redrive import redrive_quarantine
from tasks.data.sources import Sources, parse_text
from tests.tasks.conftest import ORDER_COLUMNS, Shop, day

FIRST, SECOND, THIRD = "2024-02-01", "2024-03-01", "2024-04-01"
ORDER = "o1,c1,2024-01-10,1,10.00,2024-01-10"


def versions(shop: Shop, as_of: str) -> dict[str, int]:
    frame = pl.read_parquet(raw_partition(shop.home, "orders", day(as_of))).sort("amount")
    return dict(zip(frame["amount"].cast(pl.String), frame["_version"], strict=True))


def test_a_row_whose_key_the_lake_does_not_have_is_version_0_and_each_correction_is_one_more(shop):
    shop.ingest(FIRST)
    shop.write("orders", "o1,c1,2024-01-10,1,11.00,2024-02-10", "o2,c1,2024-02-10,1,5.00,2024-02-10", file="b.csv")
    shop.ingest(SECOND)
    shop.write("orders", "o1,c1,2024-01-10,1,12.00,2024-03-10", file="c.csv")
    shop.ingest(THIRD)
    assert versions(shop, FIRST) == {"10.00": 0}
    assert versions(shop, SECOND) == {"5.00": 0, "11.00": 1}
    assert versions(shop, THIRD) == {"12.00": 2}


def deliver(shop: Shop, as_of: str, *amounts: str, file: str = "a.csv") -> list[str]:
    """The amounts that were kept of order o1, when a file has these in their order."""
    shop.write("orders", *[f"o1,c1,2024-01-10,1,{amount},2024-01-10" for amount in amounts], file=file)
    shop.ingest(as_of)
    frame = pl.read_parquet(raw_partition(shop.home, "orders", day(as_of))).sort("_version")
    return frame["amount"].cast(pl.String).to_list()


def test_a_correction_that_returns_to_an_earlier_value_is_a_correction(shop):
    assert deliver(shop, FIRST, "15.50") == ["15.50"]
    assert deliver(shop, SECOND, "99.00") == ["99.00"]
    assert deliver(shop, THIRD, "15.50") == ["15.50"]
    assert versions(shop, THIRD) == {"15.50": 2}
    assert deliver(shop, "2024-05-01", "15.50", "15.50") == []
    assert deliver(shop, "2024-06-01", "99.00") == ["99.00"]


def test_a_file_that_grows_holds_the_versions_before_and_returns_only_by_its_last_one(shop):
    deliver(shop, FIRST, "15.50")
    assert deliver(shop, SECOND, "15.50", "99.00") == ["99.00"]
    assert deliver(shop, THIRD, "15.50", "99.00", "99.00") == []
    assert deliver(shop, "2024-05-01", "15.50", "99.00", "15.50") == ["15.50"]
    assert deliver(shop, "2024-06-01", "15.50", "99.00", "15.50", "15.50") == []


def test_another_file_that_repeats_what_it_said_takes_no_correction_back(shop):
    deliver(shop, FIRST, "15.50")
    assert deliver(shop, SECOND, "99.00", file="b.csv") == ["99.00"]
    assert deliver(shop, THIRD, "15.50", "15.50") == []


def test_a_bad_row_that_is_delivered_again_is_known_though_a_good_one_came_before(shop):
    deliver(shop, FIRST, "15.50")
    deliver(shop, SECOND, "99.00", "-3")
    count = shop.ingest(THIRD).counts["orders"]
    shop.write("orders", "o1,c1,2024-01-10,1,99.00,2024-01-10", "o1,c1,2024-01-10,1,-3,2024-01-10", "")
    assert (count.quarantined, shop.ingest("2024-05-01").counts["orders"].quarantined) == (0, 0)


def test_of_two_rows_of_a_key_in_one_batch_the_later_to_arrive_has_the_higher_version(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,12.00,2024-01-12")
    shop.write("orders", "o1,c1,2024-01-10,1,11.00,2024-01-11", file="b.csv")
    shop.ingest(FIRST)
    assert versions(shop, FIRST) == {"11.00": 0, "12.00": 1}


def test_a_key_that_stands_only_in_the_quarantine_is_version_0_once_it_is_good(shop):
    shop.write("orders", ORDER, "o2,c1,2024-01-11,1,-3,2024-01-11")
    shop.ingest(FIRST)
    shop.write("orders", ORDER, "o2,c1,2024-01-11,1,3.00,2024-02-11")
    shop.ingest(SECOND)
    assert versions(shop, SECOND) == {"3.00": 0}


def test_a_hash_is_the_same_in_every_version_of_every_library(shop):
    shop.ingest(FIRST)
    row = pl.read_parquet(raw_partition(shop.home, "orders", day(FIRST))).row(0, named=True)
    # MD5 of amount, arrived_at, customer_id, items, order_id, ordered_at; moments as microseconds, apart by 0x1f.
    spelt = "\x1f".join(["10.00", "1704844800000000", "c1", "1", "o1", "1704844800000000"]).encode()
    assert row["_content"] == int.from_bytes(hashlib.md5(spelt).digest()[8:], "little")
    assert row["_key"] == "o1"


def test_without_a_declared_key_content_and_occurrence_are_the_key(orders_only):
    shop = orders_only(*["00001,1997-01-01,1,11.77"] * 2)
    shop.ingest("1997-02-01")
    keys = pl.read_parquet(raw_partition(shop.home, "orders", day("1997-02-01")))["_key"].sort().to_list()
    spelt = "\x1f".join(["11.77", "00001", "1", "852076800000000"]).encode()
    assert keys == [f"{hashlib.md5(spelt).hexdigest()}#{number}" for number in range(2)]


def test_a_value_in_one_column_is_another_content_than_the_same_value_in_the_next(shop):
    columns = {name: [None, None] for name in ORDER_COLUMNS} | {"customer_id": ["a", None], "order_id": [None, "a"]}
    text = pl.DataFrame({**columns, "_file": "a.csv", "_line": [2, 3]}).with_columns(pl.col(pl.Null).cast(pl.String))
    typed, _ = parse_text(text, shop.contract.table("orders"))
    keyed = with_keys(typed, shop.contract.table("orders"), set(ORDER_COLUMNS))
    assert keyed["_content"].n_unique() == 2
    assert keyed["_key"][0].endswith("#0")
    assert keyed["_key"][1] == "a"


def test_without_a_key_another_mapping_is_refused_for_every_row_would_be_a_new_one(orders_only):
    shop = orders_only("00001,1997-01-01,1,11.77")
    shop.ingest("1997-02-01")
    source = shop.sources.tables["orders"]
    columns = {**source.columns, "order_id": "customer_id"}
    shop.sources = Sources(tables={"orders": source.model_copy(update={"columns": columns})})
    with pytest.raises(DataError, match="mapping of order_id changed"):
        shop.ingest("1997-03-01")


def test_a_key_that_is_no_longer_mapped_is_refused_for_every_row_would_be_a_new_one(shop):
    shop.ingest(FIRST)
    source = shop.sources.tables["orders"]
    columns = {ours: theirs for ours, theirs in source.columns.items() if ours != "order_id"}
    shop.sources = Sources(tables={**shop.sources.tables, "orders": source.model_copy(update={"columns": columns})})
    with pytest.raises(DataError, match="mapping of order_id changed"):
        shop.ingest(SECOND)


@pytest.mark.parametrize(("older", "said"), [
    ("DELETE FROM partitions", r"an older version wrote it \(it lacks a manifest\). Use another CHURN_HOME"),
    ("", r"an older version wrote it \(it lacks _version\)"),
])
def test_a_lake_of_an_older_version_is_refused_and_not_mixed_in(shop, older, said):
    shop.ingest(FIRST)
    if older:
        with shop.engine.begin() as connection:
            connection.execute(sa.text(older))
    for table in ("orders", "customers"):
        path = raw_partition(shop.home, table, day(FIRST))
        pl.read_parquet(path).drop("_version").write_parquet(path)
        with shop.engine.begin() as connection:
            connection.execute(sa.text("UPDATE partitions SET sha256 = :sha256 WHERE path = :path"),
                               {"sha256": hash_file(path), "path": str(path.relative_to(shop.home.lake))})
    with pytest.raises(DataError, match=said):
        shop.ingest(SECOND)


@pytest.mark.parametrize("place", [raw_partition, quarantine_partition], ids=["raw", "quarantine"])
@pytest.mark.parametrize("again", [
    lambda shop: shop.ingest(THIRD),
    lambda shop: redrive_quarantine(shop.sources, shop.contract, RAW_TABLES, charter=shop.charter, home=shop.home,
                                    engine=shop.engine),
], ids=["ingest", "re-drive"])
def test_a_file_of_any_load_that_is_not_as_it_was_committed_is_refused(shop, place, again):
    shop.ingest(FIRST)
    shop.ingest(SECOND)
    path = place(shop.home, "orders", day(FIRST))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"load=2024-02-01.parquet is not what the manifest lists: its bytes changed"):
        again(shop)
    path.unlink()
    with pytest.raises(DataError, match=r"load=2024-02-01.parquet is missing from the lake, and the manifest"):
        again(shop)
