from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest

from feature_repo.contract import Snapshot
from models.cuts import CutPlan
from models.training.fit import TrainingConfig, fit_candidate
from tasks.data.lake import raw_partition
from tasks.features.snapshots import build_snapshots
from tasks.home import Home
from tasks.training.evaluate import evaluate_candidate, figures
from tasks.training.provenance import Difference
from tasks.training.record import Dataset, Record
from tasks.training.reproduce import (
    Reproduction,
    compare_data,
    compare_problem,
    compare_rows,
    rebuild_data,
    rebuild_model,
    same_figure,
)
from tasks.training.training_set import build_set, content_hash
from tests.tasks.conftest import Shop, day, make_shop
from tests.tasks.training.experiment import record

CUTS = CutPlan(train=(day("2024-03-01"), day("2024-04-01")), test=(day("2024-06-01"),))
AS_OF = day("2024-07-10")


@dataclass
class World:
    shop: Shop
    record: Record


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """300 customers of whom a third stop ordering at some day, and the record of one training on them."""
    shop = make_shop(tmp_path_factory.mktemp("shop"))
    rng = np.random.default_rng(5)
    customers, orders = [], []
    for number in range(300):
        customers.append(f"c{number},2023-12-01,2023-06-01,1980,basic,search,2023-12-01")
        gap, ends = rng.uniform(4, 25), rng.choice([200, 200, rng.uniform(60, 190)])
        for at in np.cumsum(rng.exponential(gap, 60)):
            if at < ends:
                moment = day("2023-12-20") + np.timedelta64(int(at * 86400), "s").item()
                orders.append(f"o{len(orders)},c{number},{moment:%Y-%m-%dT%H:%M:%S},1,{rng.uniform(5, 50):.2f},"
                              f"{moment:%Y-%m-%dT%H:%M:%S}")
    shop.write("customers", *customers)
    shop.write("orders", *orders)
    shop.ingest("2024-07-10")
    build_snapshots(shop.contract, Snapshot, home=shop.home, engine=shop.engine, cuts=[*CUTS.train, *CUTS.test])
    made = build_set(shop.contract, shop.charter, CUTS, home=shop.home, engine=shop.engine, as_of=AS_OF, run_id="run-a")
    train, test = made.split()
    config = TrainingConfig(trials=3)
    candidate = fit_candidate(train, test, shop.contract, shop.charter, config)
    metrics = figures(candidate, evaluate_candidate(candidate, test, shop.contract, shop.charter, config))
    return World(shop, record(
        as_of=AS_OF, config=config.model_copy(update={"trials": 99, "search_seconds": 0.001}), charter=shop.charter,
        contract=shop.contract, dataset=Dataset.of(shop.engine), cuts=CUTS, training_set=made.name,
        content=made.content, snapshots=made.snapshots, metrics=metrics, search={"finished": 3},
    ))


def bytes_of(home: Home) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(home.root.rglob("*"))
            if path.is_file() and path.suffix not in (".lock",)}


@pytest.mark.service
def test_data_and_model_come_out_the_same_to_nine_digits_and_nothing_of_the_home_changes(world, tmp_path):
    """The search was ended by the clock after three of 99 trials: it is repeated for three."""
    shop, before = world.shop, bytes_of(world.shop.home)
    made = rebuild_data(world.record, shop.home, shop.engine, tmp_path)
    assert compare_rows(world.record, made) == []
    assert made.path.is_relative_to(tmp_path)
    answer = Reproduction(world.record, rebuild_model(world.record, made), ())
    assert answer.unequal == ()
    assert answer.same
    assert len(answer.metrics) > 40
    assert {"auc", "value", "brier", "threshold"} <= set(answer.metrics)
    assert bytes_of(shop.home) == before


@pytest.mark.service
def test_data_that_was_corrected_since_is_named_and_the_rows_that_come_of_it(world, tmp_path):
    shop = world.shop
    path = raw_partition(shop.home, "orders", AS_OF)
    kept = path.read_bytes()
    rows = pl.read_parquet(path)
    try:
        rows.filter(pl.int_range(pl.len()) % 3 > 0).write_parquet(path)  # a third of the orders is gone
        found = compare_data(world.record, shop.home, shop.engine)
        assert [one.what for one in found] == [f"data partition {path.relative_to(shop.home.lake)}"]
        made = rebuild_data(world.record, shop.home, shop.engine, tmp_path)
    finally:
        path.write_bytes(kept)
    assert [one.what for one in compare_rows(world.record, made)] == [
        *(f"rows of the snapshot {cut}" for cut in ("2024-03-01", "2024-04-01", "2024-06-01")),
        "rows of the training set"]
    answer = Reproduction(world.record, rebuild_model(world.record, made), tuple(found))
    assert not answer.same
    assert "auc: " in answer.text()


@pytest.mark.service
def test_a_partition_that_is_gone_and_one_that_came_since_are_named(world):
    shop = world.shop
    assert compare_data(world.record, shop.home, shop.engine) == []
    first, *rest = world.record.dataset.partitions
    gone = replace(world.record.dataset, partitions=(*rest, {**first, "path": "raw/orders/load=1999.parquet"}))
    assert {(one.what, one.now == "absent") for one in compare_data(
        replace(world.record, dataset=gone), shop.home, shop.engine)} == {
        ("data partition raw/orders/load=1999.parquet", True), (f"data partition {first['path']}", False)}


@pytest.mark.service
def test_another_charter_or_contract_is_named_by_key_and_column(world):
    shop = world.shop
    assert compare_problem(world.record, shop.contract, shop.charter) == []
    value = shop.charter.value.model_copy(update={"contact_budget": 7})
    columns = tuple(column for column in shop.contract.snapshot if column.name != "recency_days")
    found = compare_problem(world.record, replace(shop.contract, snapshot=columns),
                            shop.charter.model_copy(update={"value": value}))
    assert found[0].line == ("charter value.contact_budget (the recorded one was used): 600 when it was recorded, "
                             "7 now")
    assert "in column recency_days" in found[1].what
    assert found[1].recorded == shop.contract.fingerprint


@pytest.mark.service
def test_two_training_sets_built_at_once_are_two_whole_files_with_the_same_rows(world):
    shop, start = world.shop, threading.Barrier(2, timeout=60)

    def one(run_id: str):
        start.wait()
        return build_set(shop.contract, shop.charter, CUTS, home=shop.home, engine=shop.engine, as_of=AS_OF,
                         run_id=run_id)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, ["run-b", "run-c"])
    assert first.path != second.path
    assert first.content == second.content == world.record.content
    assert content_hash(pl.read_parquet(first.path)) == content_hash(pl.read_parquet(second.path)) == first.content


@pytest.mark.parametrize(("recorded", "seen", "same"), [
    (0.8123456789012345, 0.8123456789112345, True), (0.81234567, 0.81234569, False), (7560.0, 7560.0, True),
    (0.0, 1e-12, True), (float("nan"), float("nan"), True), (float("nan"), 0.5, False), (0.5, float("nan"), False),
    (None, 0.5, False), (0.5, None, False), (float("inf"), 1.0, False),
])
def test_figures_are_the_same_to_nine_digits(recorded, seen, same):
    assert same_figure(recorded, seen) is same


def test_what_is_printed_says_what_differs_and_each_figure_with_both_values():
    seen = record(metrics={"auc": 0.8, "lift": 4.0})
    libraries = (Difference("library numpy", "2.0", "2.1"),)
    said = Reproduction(seen, {"auc": 0.7, "lift": 4.0}, libraries).text()
    assert "not the same: 1 of 2 figures of run r1 differ" in said
    assert "library numpy: 2.0 when it was recorded, 2.1 now" in said
    assert "auc: 0.8 recorded, 0.7 now (-0.1)" in said
    assert "lift" not in said.split("figures:")[1]
    assert Reproduction(seen, {"auc": 0.8, "lift": 4.0}, libraries).text().startswith("the same: 2 of 2 figures")
    assert "not deterministic here" in Reproduction(seen, {"auc": 0.7, "lift": 4.0}, ()).text()


def test_no_figures_at_all_are_no_reproduction():
    assert not Reproduction(record(metrics={}), {}, ()).same


@pytest.mark.parametrize("change", ["value", "order", "null", "name"])
def test_the_hash_of_rows_follows_every_value_their_order_and_their_names(change):
    rows = pl.DataFrame({"a": [1.0, 2.0, None], "b": ["x", None, ""]})
    other = {"value": rows.with_columns(a=pl.Series([1.0, 2.5, None])), "order": rows.reverse(),
             "null": rows.with_columns(b=pl.Series(["x", "", None])), "name": rows.rename({"a": "c"})}[change]
    assert content_hash(other) != content_hash(rows) == content_hash(rows.clone())
