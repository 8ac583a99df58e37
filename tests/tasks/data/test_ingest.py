from __future__ import annotations

import polars as pl
import pytest

from models.errors import DataError
from tasks.data.ingest import committed_loads
from tasks.data.lake import quarantine_partition, raw_partition
from tasks.data.quality import read_scorecards
from tests.tasks.conftest import Shop, day

FIRST = "2024-02-01"


def reasons(shop: Shop, as_of: str = FIRST) -> list[str]:
    frame = pl.read_parquet(quarantine_partition(shop.home, "orders", day(as_of)))
    return frame.sort("_line")["reason"].to_list()


@pytest.mark.parametrize(("row", "reason"), [
    ("o2,c1,2024-01-11,1,-3,2024-01-11", "amount is not between 0 and 1,000,000"),
    ("o2,c1,2024-01-11,1,ten,2024-01-11", "amount is no decimal"),
    ("o2,,2024-01-11,1,10,2024-01-11", "customer_id is missing"),
    ("o2,c1,2024-13-11,1,10,2024-01-11", "ordered_at is no timestamp"),
    ("o2,c1,2024-01-12,1,10,2024-01-11", "ordered_at is later than arrived_at"),
    ("o2,nobody,2024-01-11,1,10,2024-01-11", "customer_id is unknown to customers"),
    ("o1,c1,2024-01-11,1,99,2024-01-11", "order_id stands twice in the file with different content"),
    ("o2,c1,2024-01-11,0,-1,2024-01-11", "amount is not between 0 and 1,000,000; items is not between 1 and 10,000"),
])
def test_a_bad_row_is_quarantined_with_every_reason_and_the_good_ones_go_on(shop, row, reason):
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", row)
    load = shop.ingest(FIRST)
    assert load.counts["orders"].kept == 1
    assert reasons(shop) == [reason]


def test_a_quarantined_row_keeps_its_text_its_file_and_its_line(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-01-11,1,ten,2024-01-11")
    shop.ingest(FIRST)
    row = pl.read_parquet(quarantine_partition(shop.home, "orders", day(FIRST))).row(0, named=True)
    assert (row["amount"], row["_file"], row["_line"], row["dimensions"]) == ("ten", "a.csv", 3, "accuracy")


def test_a_spoiled_copy_that_stands_first_does_not_push_out_the_good_row_of_its_key(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,-10.00,2024-01-10", "o1,c1,2024-01-10,1,10.00,2024-01-10")
    assert shop.ingest(FIRST).counts["orders"].kept == 1
    assert reasons(shop) == ["amount is not between 0 and 1,000,000"]


def test_every_row_is_kept_quarantined_or_dropped_as_re_delivered(shop):
    good = "o1,c1,2024-01-10,1,10.00,2024-01-10"
    shop.write("orders", good, good, "o2,c1,2024-01-11,1,-3,2024-01-11")
    counts = shop.ingest(FIRST).counts["orders"]
    assert (counts.rows_in, counts.kept, counts.quarantined, counts.redelivered) == (3, 1, 1, 1)


def test_the_same_batch_again_changes_nothing(shop):
    first = shop.ingest(FIRST)
    assert shop.ingest(FIRST) == first
    later = shop.ingest("2024-03-01").counts["orders"]
    assert (later.rows_in, later.kept, later.files_skipped) == (0, 0, 1)
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-03-10,1,10.00,2024-03-10")
    changed = shop.ingest("2024-04-01").counts["orders"]
    assert (changed.kept, changed.redelivered, changed.files_read, changed.files_skipped) == (1, 1, 1, 0)


def test_two_equal_purchases_without_an_order_number_stay_two_and_stay_two_when_delivered_again(orders_only):
    rows = ("00001,1997-01-01,1,11.77", "00001,1997-01-01,1,11.77", "00002,1997-01-02,1,5")
    shop = orders_only(*rows)
    assert shop.ingest("1997-02-01").total.kept == 3
    orders_only(*rows, "00002,1997-02-02,1,5")
    again = shop.ingest("1997-03-01").total
    assert (again.kept, again.redelivered) == (1, 3)


def test_leading_zeros_of_a_key_stay(orders_only):
    shop = orders_only("00001,1997-01-01,1,11.77")
    shop.ingest("1997-02-01")
    assert pl.read_parquet(raw_partition(shop.home, "orders", day("1997-02-01")))["customer_id"].to_list() == ["00001"]


def test_what_has_not_arrived_yet_is_no_part_of_a_load(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-02-20,1,10.00,2024-02-20")
    assert shop.ingest(FIRST).counts["orders"].rows_in == 1
    assert shop.ingest("2024-03-01").counts["orders"].kept == 1


def test_rows_of_a_begun_file_that_have_not_arrived_are_counted_beside_the_sum(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-01-11,1,10.00,2924-01-11")
    shop.write("orders", "o3,c1,2024-02-10,1,10.00,2024-02-10", file="of-next-month.csv")
    load = shop.ingest(FIRST)
    assert (load.counts["orders"].rows_in, load.counts["orders"].waiting) == (1, 1)
    assert load.total.line == "2 in = 2 kept + 0 quarantined + 0 re-delivered; 1 not arrived yet"
    measures = [measure for score in read_scorecards(shop.engine)[-1].scores for measure in score.measures]
    assert [measure.value for measure in measures if measure.name == "rows not arrived yet"] == [1]
    assert committed_loads(shop.engine) == [load]


def test_a_row_that_shows_up_after_a_load_was_not_known_then(shop):
    shop.ingest(FIRST)
    shop.write("orders", "o2,c1,2024-01-15,1,10.00,2024-01-15", file="late.csv")
    shop.ingest("2024-03-01")
    created = pl.read_parquet(raw_partition(shop.home, "orders", day("2024-03-01")))["created_timestamp"][0]
    assert created > day(FIRST)


def test_an_as_of_before_the_last_load_is_refused(shop):
    shop.ingest("2024-03-01")
    with pytest.raises(DataError, match="the last load is of 2024-03-01"):
        shop.ingest(FIRST)


def test_an_as_of_before_the_first_row_is_refused_with_the_date_that_would_do(shop):
    with pytest.raises(DataError, match="its first row arrived 2024-01-01"):
        shop.ingest("2023-12-01")


def test_too_many_bad_rows_refuse_the_whole_batch_and_write_nothing(shop):
    strict = shop.charter.requirements.model_copy(update={"max_bad_share": 0.05})
    shop.charter = shop.charter.model_copy(update={"requirements": strict})
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-01-11,1,-3,2024-01-11")
    with pytest.raises(DataError, match=r"1 of 2 new rows are bad \(50.0%\), at most 5.0%"):
        shop.ingest(FIRST)
    assert committed_loads(shop.engine) == []
    assert not shop.home.lake.exists()


def test_a_feed_that_has_stopped_is_refused_for_its_silence_looks_like_customers_who_left(shop):
    strict = shop.charter.requirements.model_copy(update={"max_data_age_days": 7})
    shop.charter = shop.charter.model_copy(update={"requirements": strict})
    assert shop.ingest("2024-01-15").counts["orders"].kept == 1
    with pytest.raises(DataError, match=r"newest event is of 2024-01-10, at most 7 days old .*nothing was written"):
        shop.ingest("2024-02-15")
    assert [load.as_of for load in committed_loads(shop.engine)] == [day("2024-01-15")]
    assert not raw_partition(shop.home, "orders", day("2024-02-15")).exists()


def test_the_dataset_version_changes_with_the_data_and_only_with_it(shop):
    first = shop.ingest(FIRST).dataset_version
    assert shop.ingest("2024-03-01").dataset_version != first  # another load, another partition
    lake = shop.home.lake
    before = {path: path.read_bytes() for path in lake.rglob("*.parquet")}
    shop.ingest("2024-03-01")
    assert before == {path: path.read_bytes() for path in lake.rglob("*.parquet")}


@pytest.mark.parametrize(("content", "said"), [
    (b"", "is empty"),
    (b"order_id,customer_id,ordered_at,items,amount,arrived_at\n", "has a header but no rows"),
    ("order_id,customer_id,ordered_at,items,amount,arrived_at\no1,Zoë,2024-01-10,1,1,2024-01-10\n".encode("latin-1"),
     "is not UTF-8"),
    (b"order_id,customer_id,orderd_at,items,amount,arrived_at\no1,c1,2024-01-10,1,1,2024-01-10\n",
     "no column 'ordered_at' .*nearest known: orderd_at"),
])
def test_a_source_file_that_cannot_be_read_says_why(shop, content, said):
    (shop.home.landing / "orders/a.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        shop.ingest(FIRST)
    assert committed_loads(shop.engine) == []


def test_a_missing_source_file_names_the_path(shop):
    (shop.home.landing / "orders/a.csv").unlink()
    with pytest.raises(DataError, match=r"no file matches .*landing/orders/\*.csv"):
        shop.ingest(FIRST)
