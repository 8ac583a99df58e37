"""Files as a source: what a line is, what a type is, what is read again, and what a control file says of them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest

from feature_repo.contract import CONTRACT
from models.errors import DataError
from tasks.data.ingest import committed_loads
from tasks.data.lake import quarantine_partition, raw_partition
from tasks.data.sources import Sources, TableSource
from tests.tasks.conftest import ORDER_COLUMNS, Shop, day

FIRST, SECOND = "2024-02-01", "2024-03-01"
HEADER = ",".join(ORDER_COLUMNS)
GOOD = "o1,c1,2024-01-10,1,10.00,2024-01-10"
BAD = "o2,c1,2024-01-11,1,-3,2024-01-11"
MOMENT = datetime(2024, 1, 10, tzinfo=UTC)
TYPED = {"order_id": ["o1"], "customer_id": ["c1"], "ordered_at": [MOMENT], "items": [1], "amount": [Decimal("10.00")],
         "arrived_at": [MOMENT]}


def with_orders(shop: Shop, path: str, **settings: str) -> Shop:
    """The shop whose orders lie elsewhere in its landing folder."""
    source = TableSource(path=str(shop.home.landing / path), columns={name: name for name in ORDER_COLUMNS},
                         **{name: str(shop.home.landing / value) for name, value in settings.items()})
    tables = {**shop.sources.tables, "orders": source}
    return Shop(shop.home, shop.engine, shop.charter, CONTRACT.effective(tables, eligible_within_days=60),
                Sources(tables=tables))


def put(shop: Shop, content: bytes, file: str = "a.csv") -> None:
    path = shop.home.landing / "orders" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def raw(shop: Shop, as_of: str = FIRST) -> pl.DataFrame:
    return pl.read_parquet(raw_partition(shop.home, "orders", day(as_of))).sort("_line")


def bad(shop: Shop, as_of: str = FIRST) -> pl.DataFrame:
    return pl.read_parquet(quarantine_partition(shop.home, "orders", day(as_of))).sort("_line")


@pytest.mark.parametrize(("content", "line"), [
    (f"{HEADER}\n{GOOD}\n{BAD}\n", 3),
    (f"{HEADER}\n{GOOD}\n{BAD}", 3),
    (f"\ufeff{HEADER}\n{GOOD}\n{BAD}\n", 3),
    (f"{HEADER}\r\n{GOOD}\r\n{BAD}\r\n", 3),
    (f"{HEADER}\n{GOOD}\n\n\n{BAD}\n\n", 5),
    (f'{HEADER}\n{GOOD.replace("c1", chr(34) + "c1" + chr(10) + chr(34))}\n{BAD}\n', 4),
    (f'{HEADER}\r\n"o\r\n\r\n1",{GOOD[3:]}\r\n{BAD}\r\n', 5),
], ids=["plain", "no last line break", "BOM", "CRLF", "blank lines", "a quoted line break", "quoted CRLF"])
def test_the_line_of_a_bad_row_is_the_line_of_the_file_on_which_it_begins(shop, content, line):
    put(shop, content.encode())
    count = shop.ingest(FIRST).counts["orders"]
    assert (count.rows_in, count.kept, count.quarantined) == (2, 1, 1)
    assert bad(shop)["_line"].to_list() == [line]
    assert raw(shop)["_line"].to_list() == [2]


def test_a_row_with_too_many_cells_costs_the_row_and_not_the_file(shop):
    put(shop, f"{HEADER}\n{BAD.replace('-3', '3')},more\n{GOOD}\n".encode())
    assert shop.ingest(FIRST).counts["orders"].kept == 1
    assert bad(shop).select("_line", "reason").rows() == [(2, "has 7 cells where the header has 6")]


@pytest.mark.parametrize("rest", ["", "\n\n", '"o\n4",c1,2024-01-10,1,10.00,2024-01-10\n'],
                         ids=["a row a line", "blank lines", "a quoted line break"])
def test_a_row_that_was_cut_costs_the_row_and_an_empty_last_cell_does_not(shop, rest):
    empty = 'o3,"c1",2024-01-10,1,10.00,'
    put(shop, f'{HEADER}\n{GOOD}\n{empty}\no2,c1,2024-01-11,1,10.0\no5,"c,1",2024-01-11,1,10\n{rest}'.encode())
    shop.ingest(FIRST)
    assert raw(shop)["_line"].to_list()[:2] == [2, 3]
    assert bad(shop)["_line"].to_list() == [4, 5]
    assert all("has 5 cells where the header has 6" in reason for reason in bad(shop)["reason"])


@pytest.mark.parametrize(("amount", "kept"), [
    ("19.999", 0), ("1999e-3", 0), ("19.990", 1), ("19.99", 1), ("1.999e1", 1), ("0.30000000000000004", 1),
])
def test_a_decimal_that_rounding_would_change_is_quarantined(shop, amount, kept):
    put(shop, f"{HEADER}\n{GOOD}\n{BAD.replace('-3', amount)}\n".encode())
    assert shop.ingest(FIRST).counts["orders"].kept == 1 + kept
    assert bad(shop)["reason"].to_list() == ["amount has more than 2 decimals"] * (1 - kept)


@pytest.mark.parametrize("amounts", [[19.99, 19.999], [Decimal("19.990"), Decimal("19.999")]], ids=["float", "decimal"])
def test_a_decimal_of_a_typed_source_that_rounding_would_change_is_quarantined(shop, amounts):
    columns = {name: pl.Series(values * 2) for name, values in TYPED.items()}
    parquet(shop, **columns | {"order_id": pl.Series(["o1", "o2"]), "amount": pl.Series(amounts)}).ingest(FIRST)
    assert bad(shop)["reason"].to_list() == ["amount has more than 2 decimals"]


@pytest.mark.parametrize("file", ["A.CSV.GZ", "A.PARQUET"])
def test_a_suffix_in_capitals_is_the_same_suffix(shop, file):
    (shop.home.landing / "orders/a.csv").unlink()
    put(shop, gzip.compress(f"{HEADER}\n{GOOD}\n".encode()), file)
    if "PARQUET" in file:
        pl.DataFrame(TYPED).write_parquet(shop.home.landing / "orders" / file)
    assert with_orders(shop, f"orders/{file}").ingest(FIRST).counts["orders"].kept == 1


def test_gzipped_csv_is_read_with_its_lines(shop):
    (shop.home.landing / "orders/a.csv").unlink()
    put(shop, gzip.compress(f"{HEADER}\n{GOOD}\n{BAD}\n".encode()), "a.csv.gz")
    gzipped = with_orders(shop, "orders/*.csv.gz")
    assert gzipped.ingest(FIRST).counts["orders"].kept == 1
    assert bad(shop).select("_file", "_line").rows() == [("a.csv.gz", 3)]


@pytest.mark.parametrize(("content", "file", "said"), [
    (gzip.compress(b"x" * 1000, mtime=0)[:-9], "a.csv.gz", "is Compressed file ended before"),
    (b"no gzip", "a.csv.gz", "is Not a gzipped file"),
    (b"PAR1 no parquet", "a.parquet", "a.parquet is "),
    (f'{HEADER}\n"o1,c1,2024-01-10,1,10.00,2024-01-10\n{BAD}\n'.encode(), "a.csv", "cannot read orders: .*a.csv is "),
])
def test_a_damaged_file_is_refused_in_one_line(shop, content, file, said):
    put(shop, content, file)
    with pytest.raises(DataError, match=said) as caught:
        with_orders(shop, f"orders/{file}").ingest(FIRST)
    assert "\n" not in str(caught.value)
    assert committed_loads(shop.engine) == []


def parquet(shop: Shop, **columns: pl.Series) -> Shop:
    frame = pl.DataFrame({**TYPED, **columns})
    path = shop.home.landing / "parquet/a.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return with_orders(shop, "parquet/*.parquet")


@pytest.mark.parametrize(("column", "series", "expected"), [
    ("ordered_at", pl.Series([datetime(2024, 1, 9, 23, 30)]), datetime(2024, 1, 9, 23, 30, tzinfo=UTC)),
    ("ordered_at", pl.Series([date(2024, 1, 9)]), datetime(2024, 1, 9, tzinfo=UTC)),
    ("ordered_at", pl.Series([datetime(2024, 1, 9, 23, 30)]).cast(pl.Datetime("ns")).dt.replace_time_zone(
        "Europe/Paris"), datetime(2024, 1, 9, 22, 30, tzinfo=UTC)),
    ("ordered_at", pl.Series(["2024-01-09T23:30:00+02"]), datetime(2024, 1, 9, 21, 30, tzinfo=UTC)),
    ("order_id", pl.Series([1203]), "1203"),
    ("order_id", pl.Series(["x"], dtype=pl.Categorical), "x"),
    ("order_id", pl.Series([None]), None),
    ("items", pl.Series([3.0]), 3),
    ("items", pl.Series([3], dtype=pl.UInt8), 3),
    ("amount", pl.Series([10.1]), Decimal("10.10")),
    ("amount", pl.Series(["10.1"]), Decimal("10.10")),
], ids=str)
def test_parquet_is_read_in_its_own_types(shop, column, series, expected):
    loaded = parquet(shop, **{column: series})
    assert loaded.ingest(FIRST).counts["orders"].kept == 1
    row = raw(shop).row(0, named=True)
    assert (row[column], row["_line"]) == (expected, 1)


@pytest.mark.parametrize(("column", "series", "reason", "text"), [
    ("items", pl.Series([2.5]), "items is no int64", "2.5"),
    ("amount", pl.Series([float("inf")]), "amount is no decimal", "inf"),
    ("amount", pl.Series([float("nan")]), "amount is missing", "NaN"),
    ("amount", pl.Series([1e30]), "amount is no decimal", "1e+30"),
])
def test_a_cell_of_a_typed_source_that_is_no_value_of_ours_costs_its_row(shop, column, series, reason, text):
    good = pl.Series(["o2", "o1"])
    other = {name: pl.Series(values * 2) for name, values in TYPED.items()} | {"order_id": good}
    fine = {"items": 1.0, "amount": 1.0}[column]
    loaded = parquet(shop, **other, **{column: pl.Series([*series, fine])}) if column not in other else parquet(
        shop, **{**other, column: pl.Series([*series, fine])})
    assert loaded.ingest(FIRST).counts["orders"].kept == 1
    assert bad(shop).select("reason", column).row(0) == (reason, text)


@pytest.mark.parametrize(("column", "series", "said"), [
    ("amount", pl.Series([MOMENT]), "changed type: 'amount' of .*a.parquet is timestamp now, and amount is decimal"),
    ("ordered_at", pl.Series([1704844800]), "changed type: 'ordered_at' of .* is int now"),
    ("order_id", pl.Series([1.5]), "changed type: 'order_id' of .* is float now"),
    ("items", pl.Series([True]), "changed type: 'items' of .* is bool now"),
])
def test_a_column_of_another_type_refuses_the_batch_by_name(shop, column, series, said):
    with pytest.raises(DataError, match=said):
        parquet(shop, **{column: series}).ingest(FIRST)
    assert committed_loads(shop.engine) == []


def test_a_type_that_changed_between_loads_refuses_the_batch_though_it_still_parses(shop):
    parquet(shop, order_id=pl.Series([None])).ingest(FIRST)
    loaded = parquet(shop, amount=pl.Series(["10.00"]), order_id=pl.Series(["o1"]))
    with pytest.raises(DataError, match=r"'amount' is string now and was decimal at the loads before. Cast it in the"):
        loaded.ingest(SECOND)
    assert parquet(shop, order_id=pl.Series(["o1"])).ingest(SECOND).counts["orders"].kept == 1


def test_a_missing_column_of_parquet_refuses_the_batch_by_name(shop):
    loaded = parquet(shop)
    pl.DataFrame(TYPED).rename({"amount": "amuont"}).write_parquet(shop.home.landing / "parquet/a.parquet")
    with pytest.raises(DataError, match=r"no column 'amount' \(mapped to amount\); nearest known: amuont"):
        loaded.ingest(FIRST)


def test_the_same_rows_as_csv_and_as_parquet_are_the_same_rows(shop):
    shop.ingest(FIRST)
    count = parquet(shop).ingest(SECOND).counts["orders"]
    assert (count.rows_in, count.redelivered) == (1, 1)


def test_files_of_one_name_in_two_folders_are_two(orders_only, tmp_path):
    """Without order numbers: the equal row of each file is counted within it, whichever of them is read again."""
    row = "00001,1997-01-01,1,11.77"
    shop = orders_only(row)
    for folder in ("a", "b"):
        (tmp_path / "landing" / folder).mkdir()
        (tmp_path / "landing" / folder / "x.csv").write_text(f"customer_id,date,items,value\n{row}\n{row}\n")
    source = shop.sources.tables["orders"].model_copy(update={"path": str(tmp_path / "landing/*/x.csv")})
    shop.sources = Sources(tables={"orders": source})
    first = shop.ingest("1997-02-01").total
    assert (first.kept, first.redelivered) == (2, 2)
    (tmp_path / "landing/b/x.csv").write_text(f"customer_id,date,items,value\n{row}\n{row}\n{row}\n")
    again = shop.ingest("1997-03-01").total
    assert (again.rows_in, again.kept, again.redelivered, again.files_skipped) == (3, 1, 2, 1)


def test_a_file_whose_rows_have_not_all_arrived_is_read_again_though_it_did_not_change(shop):
    shop.write("orders", GOOD, "o2,c1,2024-02-10,1,5,2024-02-10")
    assert shop.ingest(FIRST).counts["orders"].rows_in == 1
    count = shop.ingest(SECOND).counts["orders"]
    assert (count.files_read, count.kept, count.redelivered) == (1, 1, 1)
    assert shop.ingest("2024-04-01").counts["orders"].files_skipped == 1


def test_a_refused_load_forgets_what_it_read(shop):
    shop.write("orders", *[BAD.replace("o2", f"b{number}") for number in range(9)])
    with pytest.raises(DataError, match="9 of 9 new rows are bad"):
        shop.ingest(FIRST)
    shop.charter = shop.charter.model_copy(update={
        "requirements": shop.charter.requirements.model_copy(update={"max_bad_share": 0.999}),
    })
    shop.write("orders", *[BAD.replace("o2", f"b{number}") for number in range(9)], GOOD)
    assert shop.ingest(FIRST).counts["orders"].files_read == 1


def test_an_unchanged_file_under_another_mapping_is_read_again(shop):
    shop.ingest(FIRST)
    source = shop.sources.tables["orders"]
    columns = {**source.columns, "amount": "items"}
    shop.sources = Sources(tables={**shop.sources.tables, "orders": source.model_copy(update={"columns": columns})})
    assert shop.ingest(SECOND).counts["orders"].files_read == 1


@pytest.fixture
def controlled(shop: Shop) -> Callable[[str], Shop]:
    """The shop with a control file beside its orders."""
    def make(text: str) -> Shop:
        (shop.home.landing / "totals.csv").write_text(text, encoding="utf-8")
        return with_orders(shop, "orders/*.csv", totals="totals.csv")

    return make


def test_a_control_file_that_agrees_lets_the_batch_pass(controlled):
    assert controlled("file,rows,amount\na.csv,1,10\n").ingest(FIRST).counts["orders"].kept == 1


@pytest.mark.parametrize(("text", "said"), [
    ("file,rows,amount\na.csv,2,10\n", r"rows of a.csv is 1, and .*totals.csv says 2.*nothing was written"),
    ("file,rows,amount\na.csv,1,10.01\n", r"sum of amount of a.csv is 10, and .*totals.csv says 10.01"),
    ("file,rows\na.csv,1\nb.csv,7\n", "names b.csv, which is not there. Complete the delivery"),
    ("file,rows\nb.csv,7\n", "says nothing of a.csv, which is there"),
    ("file,rows,amuont\na.csv,1,10\n", "has a column 'amuont'; nearest known: amount"),
    ("file,rows\na.csv,one\n", "not all of them numbers"),
    ("file,rows\na.csv,NaN\n", "not all of them numbers"),
    ("file,rows\na.csv,inf\n", "not all of them numbers"),
    ("file,rows\na.csv,1\nb.csv,1,7\n", "a line of b.csv with more or fewer cells than its header"),
    ("file,rows,amount\na.csv,1\n", "a line of a.csv with more or fewer cells than its header"),
    ("file,rows\na.csv,2\na.csv,1\n", "names a.csv twice. Deliver it with one line a file"),
    ("rows\n1\n", "needs a header `file,rows`"),
    ("", "needs a header `file,rows`"),
])
def test_a_control_file_that_disagrees_refuses_the_batch(controlled, shop, text, said):
    with pytest.raises(DataError, match=said):
        controlled(text).ingest(FIRST)
    assert committed_loads(shop.engine) == []


def test_a_control_file_that_is_missing_refuses_the_batch(shop):
    with pytest.raises(DataError, match=r"totals.csv cannot be read \(No such file or directory\). Deliver it"):
        with_orders(shop, "orders/*.csv", totals="totals.csv").ingest(FIRST)


def test_a_row_of_somebody_who_was_erased_is_dropped_and_counted(shop):
    from tasks.erasure.forgotten import entity_hash, remember_forgotten

    shop.write("customers", "c1,2024-01-01,2023-06-01,1980,basic,search,2024-01-01",
               "c2,2024-01-01,2023-06-01,1980,basic,search,2024-01-01")
    shop.write("orders", GOOD, "o2,c2,2024-01-11,1,-3,2024-01-11")
    remember_forgotten(shop.engine, entity_hash(shop.home, "c2", make_salt=True), who="w", why="y")
    load = shop.ingest(FIRST)
    count = load.counts["orders"]
    assert (count.rows_in, count.kept, count.quarantined, count.forgotten) == (2, 1, 0, 1)
    assert load.total.forgotten == 2
