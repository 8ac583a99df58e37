"""Every refusal of the data stages is tried, and stands in docs/runbook.md with the sentence it prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from deploy.local.backfill import read_values
from deploy.local.forget import check_values
from feature_repo.contract import CONTRACT, RAW_TABLES
from flows.settings import REPO, Settings, load_place
from models.errors import PipelineError
from tasks.data.backfill import days_between
from tasks.data.lake import raw_partition
from tasks.data.redrive import redrive_quarantine
from tasks.data.sources import Sources, TableSource, load_sources
from tasks.erasure.forget import Place, find_person
from tasks.erasure.retention import plan_retention
from tasks.features.materialize import materialize_snapshot
from tasks.features.snapshots import build_snapshot
from tasks.locks import hold
from tasks.monitoring.truth import truth_partition
from tests.tasks.conftest import ORDER_COLUMNS, Shop, day, make_shop

pytestmark = pytest.mark.service  # whole stores for each test: together more seconds than `make check` has

FIRST, HEADER = "2024-02-01", ",".join(ORDER_COLUMNS)
ORDERS = {name: name for name in ORDER_COLUMNS}


def land(shop: Shop, content: bytes) -> None:
    (shop.home.landing / "orders/a.csv").write_bytes(content)


def of_orders(shop: Shop, **source: Any) -> None:
    shop.sources = Sources(tables={**shop.sources.tables, "orders": TableSource(columns=ORDERS, **source)})


def require(shop: Shop, **limits: float) -> None:
    requirements = shop.charter.requirements.model_copy(update=limits)
    shop.charter = shop.charter.model_copy(update={"requirements": requirements})


def sources_file(shop: Shop, text: str, variables: Mapping[str, str] | None = None) -> None:
    path = shop.home.root / "sources.yaml"
    path.write_text(text, encoding="utf-8")
    load_sources(path, CONTRACT, variables=variables or {})


# --- sources ---------------------------------------------------------------------------------------------------------

def no_file(shop: Shop) -> None:
    (shop.home.landing / "orders/a.csv").unlink()
    shop.ingest(FIRST)


def empty_file(shop: Shop) -> None:
    land(shop, b"")
    shop.ingest(FIRST)


def no_rows(shop: Shop) -> None:
    land(shop, f"{HEADER}\n".encode())
    shop.ingest(FIRST)


def not_utf8(shop: Shop) -> None:
    land(shop, f"{HEADER}\no1,Zoë,2024-01-10,1,1,2024-01-10\n".encode("latin-1"))
    shop.ingest(FIRST)


def missing_column(shop: Shop) -> None:
    land(shop, HEADER.replace("ordered_at", "orderd_at").encode() + b"\no1,c1,2024-01-10,1,1,2024-01-10\n")
    shop.ingest(FIRST)


def changed_type(shop: Shop) -> None:
    row = {"order_id": "o1", "customer_id": "c1", "ordered_at": datetime(2024, 1, 10), "items": 1,
           "amount": datetime(2024, 1, 10), "arrived_at": datetime(2024, 1, 10)}
    pl.DataFrame([row]).write_parquet(shop.home.landing / "orders/a.parquet")
    of_orders(shop, path=str(shop.home.landing / "orders/a.parquet"))
    shop.ingest(FIRST)


def type_of_before(shop: Shop) -> None:
    of_orders(shop, path=str(shop.home.landing / "orders/*.parquet"))
    row = {"order_id": "o1", "customer_id": "c1", "ordered_at": "2024-01-10", "items": "1", "amount": 10.0,
           "arrived_at": "2024-01-10"}
    pl.DataFrame([row]).write_parquet(shop.home.landing / "orders/a.parquet")
    shop.ingest(FIRST)
    pl.DataFrame([{**row, "order_id": "o2", "amount": "10.0"}]).write_parquet(shop.home.landing / "orders/b.parquet")
    shop.ingest("2024-03-01")


def other_total(shop: Shop) -> None:
    (shop.home.landing / "totals.csv").write_text("file,rows,amount\na.csv,2,10\n", encoding="utf-8")
    of_orders(shop, path=str(shop.home.landing / "orders/*.csv"), totals=str(shop.home.landing / "totals.csv"))
    shop.ingest(FIRST)


def file_not_in_totals(shop: Shop) -> None:
    (shop.home.landing / "totals.csv").write_text("file,rows,amount\nb.csv,1,10\n", encoding="utf-8")
    of_orders(shop, path=str(shop.home.landing / "orders/*.csv"), totals=str(shop.home.landing / "totals.csv"))
    shop.ingest(FIRST)


def unreachable_database(shop: Shop) -> None:
    of_orders(shop, database="postgresql://root@127.0.0.1:1/shop", query="select * from orders", watermark="landed")
    shop.ingest(FIRST)


def password_in_the_file(shop: Shop) -> None:
    sources_file(shop, "tables: {orders: {database: 'postgresql://me:secret@host/shop', query: select 1, "
                       "watermark: landed, columns: {}}}")


def variable_not_set(shop: Shop) -> None:
    sources_file(shop, "tables: {orders: {path: '${NOWHERE}/orders.csv', columns: {}}}")


def unmapped_column(shop: Shop) -> None:
    sources_file(shop, "tables: {orders: {path: orders.csv, columns: {customer_id: who}}}")


# --- the batch as a whole --------------------------------------------------------------------------------------------

def before_the_last_load(shop: Shop) -> None:
    shop.ingest("2024-03-01")
    shop.ingest(FIRST)


def before_the_first_row(shop: Shop) -> None:
    shop.ingest("2023-12-01")


def too_many_bad_rows(shop: Shop) -> None:
    require(shop, max_bad_share=0.05)
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-01-11,1,-3,2024-01-11")
    shop.ingest(FIRST)


def too_few_rows(shop: Shop) -> None:
    for nth, count in enumerate([40, 40, 40, 40, 40, 4]):
        when = f"2024-02-{10 + nth}"
        shop.write("orders", *[f"{when}-{one},c1,{when},1,10,{when}" for one in range(count)], file=f"{when}.csv")
        shop.ingest(f"2024-02-{11 + nth}")


def missing_days(shop: Shop) -> None:
    require(shop, max_missing_days=3)
    shop.write("orders", "o2,c1,2024-01-15,1,10,2024-01-15", file="b.csv")
    shop.ingest(FIRST)


def stopped_feed(shop: Shop) -> None:
    require(shop, max_data_age_days=7)
    shop.ingest("2024-01-15")
    shop.ingest("2024-02-15")


# --- the lake --------------------------------------------------------------------------------------------------------

def older_lake(shop: Shop) -> None:
    shop.ingest(FIRST)
    with shop.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM partitions"))
    shop.ingest("2024-03-01")


def lost_file(shop: Shop) -> None:
    shop.ingest(FIRST)
    raw_partition(shop.home, "orders", day(FIRST)).unlink()
    shop.ingest("2024-03-01")


def changed_file(shop: Shop) -> None:
    shop.ingest(FIRST)
    path = raw_partition(shop.home, "orders", day(FIRST))
    path.write_bytes(path.read_bytes() + b" ")
    shop.ingest("2024-03-01")


def busy_lake(shop: Shop) -> None:
    with hold(shop.home, "lake"), hold(shop.home, "lake", patience_seconds=0):
        pass


def nothing_to_redrive(shop: Shop) -> None:
    redrive_quarantine(shop.sources, shop.contract, RAW_TABLES, charter=shop.charter, home=shop.home,
                       engine=shop.engine)


def not_loaded(shop: Shop) -> None:
    shop.ingest(FIRST)
    build_snapshot(shop.contract, None, home=shop.home, engine=shop.engine, cut=day("2024-03-01"))


def no_snapshot(shop: Shop) -> None:
    shop.ingest(FIRST)
    materialize_snapshot(shop.contract, shop.home, day(FIRST))


# --- care ------------------------------------------------------------------------------------------------------------

def stranger(shop: Shop) -> None:
    shop.ingest(FIRST)
    find_person("c999", Place(shop.home, shop.engine, shop.contract, shop.sources, REPO))


def online_elsewhere(shop: Shop) -> None:
    shop.ingest(FIRST)
    shop.home.online_record.write_text("redis://127.0.0.1:6379/7\n")
    find_person("c1", Place(shop.home, shop.engine, shop.contract, shop.sources, REPO))


def forgotten_by_nobody(_shop: Shop) -> None:
    check_values({"CUSTOMER": "c1", "YES": "1"})


def nothing_to_keep(shop: Shop) -> None:
    plan_retention(shop.charter, shop.contract, shop.home, shop.engine)


def damaged_truth(shop: Shop) -> None:
    shop.ingest(FIRST)
    path = truth_partition(shop.home, day(FIRST))
    path.parent.mkdir()
    path.write_bytes(b"PAR1 no more")
    plan_retention(shop.charter, shop.contract, shop.home, shop.engine)


def backfill_backwards(_shop: Shop) -> None:
    days_between(day("2024-02-01"), day("2024-01-01"), step_days=1, step_months=None)


def backfill_without_dates(_shop: Shop) -> None:
    read_values({})


def backfill_by_nothing(_shop: Shop) -> None:
    read_values({"START": "2024-01-01", "END": "2024-02-01", "STEP_DAYS": "soon"})


# --- stores ----------------------------------------------------------------------------------------------------------

def strange_online_store(shop: Shop) -> None:
    load_place(Settings(home=shop.home.root, online_store="127.0.0.1:6379"))


def strange_registry(shop: Shop) -> None:
    load_place(Settings(home=shop.home.root, feature_registry="mysql://host/db"))


REFUSALS: tuple[Callable[[Shop], None], ...] = (
    no_file, empty_file, no_rows, not_utf8, missing_column, changed_type, type_of_before, other_total,
    file_not_in_totals, unreachable_database, password_in_the_file, variable_not_set, unmapped_column,
    before_the_last_load, before_the_first_row, too_many_bad_rows, too_few_rows, missing_days, stopped_feed,
    older_lake, lost_file, changed_file, busy_lake, nothing_to_redrive, not_loaded, no_snapshot,
    stranger, online_elsewhere, forgotten_by_nobody, nothing_to_keep, damaged_truth, backfill_backwards,
    backfill_without_dates, backfill_by_nothing, strange_online_store, strange_registry,
)


def sentence(refuse: Callable[[Shop], None], shop: Shop) -> str:
    with pytest.raises(PipelineError) as refused:
        refuse(shop)
    text = str(refused.value).replace(str(shop.home.root), "HOME")
    return re.sub(r"process \d+", "process 4711", text)


@pytest.mark.parametrize("refuse", REFUSALS, ids=lambda refuse: refuse.__name__)
def test_the_runbook_holds_the_sentence_that_a_refusal_prints(refuse, shop):
    said = sentence(refuse, shop)
    assert "\n" not in said, "one line"
    assert said in (REPO / "docs/runbook.md").read_text(encoding="utf-8").splitlines()


def test_the_runbook_holds_no_sentence_that_nothing_prints(tmp_path):
    blocks = re.findall(r"^```\n(.*?)\n```$", (REPO / "docs/runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    said = set()
    for number, refuse in enumerate(REFUSALS):
        said.add(sentence(refuse, make_shop(tmp_path / str(number))))
    assert set(blocks) == said
