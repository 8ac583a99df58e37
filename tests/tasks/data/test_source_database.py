"""A real PostgreSQL as a source: by watermark, in one transaction, its password never told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event, Thread

import polars as pl
import pytest
import sqlalchemy as sa

from feature_repo.contract import CONTRACT
from models.errors import DataError
from tasks.data.ingest import committed_loads
from tasks.data.lake import quarantine_partition, raw_partition
from tasks.data.quality import read_scorecards
from tasks.data.quarantine import list_quarantine
from tasks.data.sources import Sources, TableSource
from tests.tasks.conftest import Shop, day

pytestmark = pytest.mark.service
COLUMNS = {"order_id": "number", "customer_id": "who", "ordered_at": "placed", "items": "pieces", "amount": "paid",
           "arrived_at": "landed"}
NAMELESS = {ours: theirs for ours, theirs in COLUMNS.items() if ours not in ("order_id", "arrived_at")}
TABLE = """CREATE TABLE orders (number bigint, who text, placed timestamptz, pieces int, paid numeric,
           landed timestamptz)"""


class Server:
    """The shop's own database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"),
                                       isolation_level="AUTOCOMMIT")

    def run(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.execute(sa.text(statement))

    def order(self, number: int, landed: str, paid: str = "10.00", placed: str | None = None) -> None:
        self.run(f"INSERT INTO orders VALUES ({number}, 'c1', '{placed or landed}', 1, {paid}, '{landed}')")


@pytest.fixture
def server(postgres_url: str) -> Iterator[Server]:
    made = Server(postgres_url)
    made.run(TABLE)
    yield made
    made.engine.dispose()


@pytest.fixture
def from_database(shop: Shop, server: Server) -> Callable[..., Shop]:
    """The shop whose orders come from the database."""
    def make(*, columns: dict[str, str] = COLUMNS, query: str = "SELECT * FROM orders;", watermark: str = "landed",
             url: str = server.url, **settings: float) -> Shop:
        source = TableSource(database=url, query=query, watermark=watermark, columns=columns, **settings)
        tables = {**shop.sources.tables, "orders": source}
        return Shop(shop.home, shop.engine, shop.charter, CONTRACT.effective(tables, eligible_within_days=60),
                    Sources(tables=tables))

    return make


def kept(shop: Shop, as_of: str) -> list[str]:
    frame = pl.read_parquet(raw_partition(shop.home, "orders", day(as_of)))
    return frame.sort("order_id")["order_id"].to_list()


def counts(shop: Shop, as_of: str) -> tuple[int, int, int, int]:
    count = shop.ingest(as_of).counts["orders"]
    return count.rows_in, count.kept, count.quarantined, count.redelivered


def test_rows_of_a_database_are_typed_by_the_contract_with_moments_in_utc(from_database, server):
    server.order(1, "2024-01-10 01:00:00+02", paid="10.5")
    shop = from_database()
    assert counts(shop, "2024-02-01") == (1, 1, 0, 0)
    row = pl.read_parquet(raw_partition(shop.home, "orders", day("2024-02-01"))).row(0, named=True)
    assert (row["order_id"], str(row["amount"]), row["ordered_at"].isoformat()) == (
        "1", "10.50", "2024-01-09T23:00:00+00:00")
    assert (row["_file"], row["_line"]) == ("database", None)


def test_only_what_landed_after_the_watermark_less_the_overlap_is_read_again(from_database, server):
    for number, landed in enumerate(["2024-01-10", "2024-01-20", "2024-01-21"], 1):
        server.order(number, landed)
    shop = from_database(overlap_days=1)
    assert counts(shop, "2024-02-01") == (3, 3, 0, 0)
    server.order(4, "2024-02-10")
    server.order(5, "2024-01-20 12:00")  # late, within the overlap
    assert counts(shop, "2024-03-01") == (4, 2, 0, 2)
    assert kept(shop, "2024-03-01") == ["4", "5"]


def test_what_landed_after_as_of_is_left_for_the_next_load(from_database, server):
    server.order(1, "2024-01-10")
    server.order(2, "2024-02-10")
    shop = from_database(overlap_days=0)
    assert counts(shop, "2024-02-01") == (1, 1, 0, 0)
    assert counts(shop, "2024-03-01") == (2, 1, 0, 1)


def test_a_row_that_landed_later_than_the_overlap_is_noticed_and_fetched(from_database, server):
    server.order(1, "2024-01-10")
    server.order(2, "2024-01-20")
    shop = from_database(overlap_days=1)
    shop.ingest("2024-02-01")
    server.order(3, "2024-01-05")
    server.order(4, "2024-02-05")
    assert counts(shop, "2024-03-01") == (4, 2, 0, 2)
    assert kept(shop, "2024-03-01") == ["3", "4"]
    measures = {measure.name: measure for score in read_scorecards(shop.engine)[-1].scores
                for measure in score.measures if score.table == "orders"}
    late = measures["rows that landed before the overlap"]
    assert (late.value, late.broken) == (1, True)
    assert counts(shop, "2024-04-01")[1:] == (0, 0, 1)  # noticed once


@pytest.mark.parametrize("change", [
    "DELETE FROM orders WHERE number <= 2",
    "UPDATE orders SET landed = '2024-02-05' WHERE number <= 2",
], ids=["two leave", "two are moved"])
def test_late_rows_are_fetched_though_as_many_others_left_the_range_they_fell_into(from_database, server, change):
    for number, landed in enumerate(["2024-01-03", "2024-01-04", "2024-01-20"], 1):
        server.order(number, landed)
    shop = from_database(overlap_days=1)
    shop.ingest("2024-02-01")
    server.run(change)
    server.order(8, "2024-01-05")
    server.order(9, "2024-01-06")
    shop.ingest("2024-03-01")
    assert {"8", "9"} <= set(kept(shop, "2024-03-01"))
    assert counts(shop, "2024-04-01")[1] == 0


def test_an_error_of_the_server_while_rows_are_on_their_way_is_one_line(from_database, server):
    server.run("INSERT INTO orders SELECT n, 'c1', '2024-01-10', 1, n, '2024-01-10' FROM generate_series(0, 5000) n")
    shop = from_database(query="SELECT number, who, placed, pieces, landed, 1 / (5000 - paid) AS paid FROM orders")
    with pytest.raises(DataError, match=r"^cannot read orders from its database: division by zero") as caught:
        shop.ingest("2024-02-01")
    assert "\n" not in str(caught.value)


def test_a_row_without_a_watermark_is_read_each_time_and_kept_once(from_database, server):
    server.order(1, "2024-01-10")
    server.run("INSERT INTO orders VALUES (2, 'c1', '2024-01-11', 1, 5, NULL)")
    shop = from_database()
    assert counts(shop, "2024-02-01") == (2, 2, 0, 0)
    assert counts(shop, "2024-03-01") == (2, 0, 0, 2)


def test_a_row_that_has_not_arrived_by_its_own_account_holds_the_watermark_back(from_database, server):
    server.order(1, "2024-01-10")
    server.run("INSERT INTO orders VALUES (2, 'c1', '2024-02-20', 1, 5, '2024-01-05')")
    shop = from_database(columns={ours: theirs for ours, theirs in COLUMNS.items() if ours != "arrived_at"},
                         overlap_days=0)
    assert counts(shop, "2024-02-01") == (1, 1, 0, 0)
    assert counts(shop, "2024-03-01") == (2, 1, 0, 1)


def test_equal_purchases_without_a_number_stay_as_many_as_they_are_whatever_the_overlap_reads(from_database, server):
    """Counted over equal content alone, they would be counted from one again in a window that cuts between them."""
    for landed in ("2024-01-10", "2024-01-10", "2024-01-20"):
        server.order(1, landed, placed="2024-01-09")
    shop = from_database(columns=NAMELESS, overlap_days=1)
    assert counts(shop, "2024-02-01") == (3, 3, 0, 0)
    server.order(1, "2024-01-20", placed="2024-01-09")
    server.order(1, "2024-02-20", placed="2024-01-09")
    assert counts(shop, "2024-03-01") == (3, 2, 0, 1)
    assert counts(shop, "2024-04-01")[1] == 0


def test_a_refused_load_leaves_the_watermark_where_it_was(from_database, server):
    server.order(1, "2024-01-10")
    shop = from_database(overlap_days=0)
    shop.ingest("2024-02-01")
    before = shop.engine.connect().execute(sa.text("SELECT watermark FROM watermarks")).scalars().all()
    for number in range(2, 12):
        server.order(number, "2024-02-10", paid="-1")
    with pytest.raises(DataError, match="10 of 10 new rows are bad"):
        shop.ingest("2024-03-01")
    assert shop.engine.connect().execute(sa.text("SELECT watermark FROM watermarks")).scalars().all() == before
    server.run("UPDATE orders SET paid = 1 WHERE paid < 0")
    assert counts(shop, "2024-03-01") == (11, 10, 0, 1)


def test_a_cell_that_is_no_value_of_ours_costs_its_row_and_stands_in_the_quarantine_as_it_was(from_database, server):
    server.order(1, "2024-01-10")
    server.order(2, "2024-01-10", paid="'NaN'")
    server.order(3, "2024-01-10", placed="infinity")
    server.order(4, "2024-01-10")
    shop = from_database()
    assert counts(shop, "2024-02-01") == (4, 2, 2, 0)
    frame = pl.read_parquet(quarantine_partition(shop.home, "orders", day("2024-02-01"))).sort("order_id")
    assert frame.select("amount", "ordered_at", "reason").rows() == [
        ("NaN", "2024-01-10 00:00:00", "amount is no decimal"), ("10.00", "infinity", "ordered_at is no timestamp")]
    waiting = list_quarantine(shop.home, shop.engine, [shop.contract.table("orders")])
    assert sorted(one.examples for one in waiting) == [("database order_id 2",), ("database order_id 3",)]


def test_a_count_that_disagrees_with_what_was_read_refuses_the_batch_with_both_numbers(from_database, server):
    for number in range(9):
        server.order(number, "2024-01-10")
    # A query that gives one row more each time it is asked.
    calls = "coalesce(nullif(current_setting('my.calls', true), ''), '0')::int + 1"
    calls = f"set_config('my.calls', ({calls})::text, false)"
    shop = from_database(query=f"SELECT o.* FROM orders o, (SELECT {calls}::int AS n OFFSET 0) c WHERE o.number < c.n")
    with pytest.raises(DataError, match=r"rows of what was read is (\d), and the database on 127.0.0.1 says (?!\1)\d"):
        shop.ingest("2024-02-01")
    assert committed_loads(shop.engine) == []


def test_a_sum_that_disagrees_refuses_the_batch(from_database, server):
    server.order(1, "2024-01-10", paid="10")
    paid = "paid + round((random() * 1000)::numeric, 2) AS paid"
    shop = from_database(query=f"SELECT number, who, placed, pieces, {paid}, landed FROM orders")
    with pytest.raises(DataError, match=r"sum of amount of what was read is [\d,.]+, and the database on .* says"):
        shop.ingest("2024-02-01")
    assert committed_loads(shop.engine) == []


@pytest.mark.parametrize(("change", "said"), [
    ("ALTER TABLE orders ALTER paid TYPE timestamptz USING now()", "'paid' of its query is timestamp now"),
    ("ALTER TABLE orders ALTER placed TYPE bigint USING 1", "changed type: 'placed' of its query is int"),
    ("ALTER TABLE orders RENAME paid TO payed", r"no column 'paid' \(mapped to amount\); nearest known: payed"),
    ("ALTER TABLE orders RENAME landed TO arrived", "no column 'landed'"),
    ("ALTER TABLE orders RENAME TO purchases", 'relation "orders" does not exist. Mend the query'),
])
def test_a_column_that_is_gone_or_of_another_type_refuses_the_batch_by_name(from_database, server, change, said):
    server.order(1, "2024-01-10")
    server.run(change)
    shop = from_database()
    with pytest.raises(DataError, match=said):
        shop.ingest("2024-02-01")
    assert committed_loads(shop.engine) == []


def test_a_type_that_changed_between_loads_refuses_the_batch_though_it_still_parses(from_database, server):
    server.order(1, "2024-01-10")
    shop = from_database()
    shop.ingest("2024-02-01")
    server.run("ALTER TABLE orders ALTER paid TYPE text")
    with pytest.raises(DataError, match=r"'paid' is string now and was decimal at the loads before. Cast it in the"):
        shop.ingest("2024-03-01")
    shop = from_database(query="SELECT number, who, placed, pieces, paid::numeric AS paid, landed FROM orders")
    assert counts(shop, "2024-03-01") == (1, 0, 0, 1)


def test_a_watermark_that_is_no_moment_is_refused(from_database, server):
    server.order(1, "2024-01-10")
    with pytest.raises(DataError, match="its watermark 'number' is int8, and has to be a timestamp or a date"):
        from_database(watermark="number").ingest("2024-02-01")


@pytest.mark.parametrize("watermark", ["placed::timestamp", "placed::date"])
def test_a_watermark_may_be_a_date_or_a_moment_without_a_zone(from_database, server, watermark):
    server.order(1, "2024-01-10 23:00+00")
    shop = from_database(query=f"SELECT *, {watermark} AS mark FROM orders", watermark="mark", overlap_days=0)
    assert counts(shop, "2024-02-01") == (1, 1, 0, 0)
    server.order(2, "2024-01-10 23:30+00")
    server.order(3, "2024-01-11 23:30+00")
    count = shop.ingest("2024-03-01").counts["orders"]
    assert count.kept == 2


@pytest.mark.parametrize(("wrong", "said"), [
    ({"port": "1"}, "Connection refused. Start it"),
    ({"database": "nowhere"}, 'database "nowhere" does not exist'),
    ({"user": "nobody"}, 'role "nobody" does not exist'),
    ({"database": "geheim%20wort"}, r'database "\*\*\*" does not exist'),
])
def test_an_error_says_what_is_wrong_and_never_the_password(from_database, server, wrong, said):
    host = server.url.split("@")[1].split(":")[0]
    name = server.url.rsplit("/", 1)[1]
    url = (f"postgresql://{wrong.get('user', 'root')}:geheim%20wort@{host}:{wrong.get('port', '5432')}/"
           f"{wrong.get('database', name)}")
    shop = from_database(url=url)
    with pytest.raises(DataError, match=said) as caught:
        shop.ingest("2024-02-01")
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "geheim" not in repr(shop.sources)


def test_a_source_that_reads_another_database_begins_at_its_beginning(from_database, server):
    for number in (1, 2, 3):
        server.order(number, "2024-01-02")
    server.order(4, "2024-01-10")
    shop = from_database()
    shop.ingest("2024-02-01")
    server.run("CREATE TABLE older AS SELECT 9 AS number, who, placed - interval '1 day' AS placed, pieces, paid, "
               "landed - interval '1 day' AS landed FROM orders LIMIT 1")
    assert counts(from_database(query="SELECT * FROM older"), "2024-03-01") == (1, 1, 0, 0)


def test_without_a_key_a_changed_mapping_is_refused_for_every_row_would_be_new(from_database, server):
    server.order(1, "2024-01-10")
    from_database(columns=NAMELESS).ingest("2024-02-01")
    with pytest.raises(DataError, match="mapping of arrived_at, order_id changed"):
        from_database().ingest("2024-03-01")


def test_the_time_zone_of_the_server_does_not_matter(from_database, server):
    server.order(1, "2024-01-10 23:00+00")
    server.run(f"ALTER DATABASE {server.url.rsplit('/', 1)[1]} SET timezone TO 'Asia/Tokyo'")
    shop = from_database(query="SELECT number, who, pieces, paid, landed, placed::timestamp AS placed FROM orders")
    shop.ingest("2024-02-01")
    row = pl.read_parquet(raw_partition(shop.home, "orders", day("2024-02-01"))).row(0, named=True)
    assert row["ordered_at"].isoformat() == "2024-01-10T23:00:00+00:00"


def test_a_query_that_would_change_the_source_is_refused(from_database, server):
    server.run("CREATE SEQUENCE calls")
    server.order(1, "2024-01-10")
    shop = from_database(query="SELECT *, nextval('calls') FROM orders")
    with pytest.raises(DataError, match=r"cannot execute nextval.* in a read-only transaction. Mend the query"):
        shop.ingest("2024-02-01")


def test_rows_that_land_while_it_is_read_do_not_disturb_the_count(from_database, server):
    server.order(0, "2024-01-10")
    shop = from_database(query="SELECT o.* FROM orders o, (SELECT pg_sleep(0.4)) AS slow")
    done = Event()

    def keep_landing() -> None:
        for number in range(1, 1000):
            if done.wait(0.02):
                return
            server.order(number, "2024-01-10")

    landing = Thread(target=keep_landing)
    landing.start()
    try:
        first = shop.ingest("2024-02-01").counts["orders"].kept
    finally:
        done.set()
        landing.join()
    with server.engine.connect() as connection:
        total = connection.execute(sa.text("SELECT count(*) FROM orders")).scalar_one()
    assert 0 < first < total
    assert first + shop.ingest("2024-03-01").counts["orders"].kept == total
