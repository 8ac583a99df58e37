from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from models.errors import DataError, PlatformError
from tasks.data.lake import snapshot_partition, write_partition
from tasks.features.materialize import materialize_snapshot
from tasks.features.parity import check_parity
from tests.tasks.conftest import Shop, day
from tests.tasks.features.online import remove, spoil

FEBRUARY, MARCH = day("2024-02-01"), day("2024-03-01")


@pytest.fixture
def online(filled: Shop) -> Shop:
    """The snapshot of March is online."""
    materialize_snapshot(filled.contract, filled.home, MARCH)
    return filled


def test_what_was_put_online_equals_its_snapshot_in_every_value(online):
    found = check_parity(online.contract, online.home, MARCH)
    assert (found.entities, found.values) == (2, 2 * (1 + len(online.contract.features)))


@pytest.mark.parametrize(("feature", "value", "told"), [
    ("orders_total", {"int64_val": 3}, r"'c1' has orders_total = 3 \(int\) online, 2 \(int\) offline"),
    ("orders_total", {"double_val": 2.0}, r"'c1' has orders_total = 2.0 \(float\) online, 2 \(int\) offline"),
    ("spend_total", {}, r"'c1' has spend_total = nothing online, 30.0 \(float\) offline"),
    ("plan", {"string_val": "premium"}, r"'c1' has plan = 'premium' \(str\) online, 'basic' \(str\) offline"),
    ("eligible", {"bool_val": False}, r"'c1' has eligible = False \(bool\) online, True \(bool\) offline"),
])
def test_a_spoilt_value_fails_the_run_and_names_customer_and_feature(online, feature, value, told):
    spoil(online, "c1", feature, **value)
    with pytest.raises(DataError, match=told):
        check_parity(online.contract, online.home, MARCH)


def test_a_null_that_was_filled_is_seen(online):
    spoil(online, "c2", "mean_gap_days", double_val=0.0)
    with pytest.raises(DataError, match=r"'c2' has mean_gap_days = 0.0 \(float\) online, nothing offline"):
        check_parity(online.contract, online.home, MARCH)


def test_a_customer_who_is_missing_online_fails_the_run(online):
    remove(online, "c2")
    with pytest.raises(DataError, match=r"'c2' has .* as of never \(it is missing\) online, as of 2024-03-01 offline"):
        check_parity(online.contract, online.home, MARCH)


def test_a_customer_who_is_older_online_than_the_snapshot_fails_the_run(filled):
    materialize_snapshot(filled.contract, filled.home, FEBRUARY)
    with pytest.raises(DataError, match=r"as of 2024-02-01 00:00 online, as of 2024-03-01 offline"):
        check_parity(filled.contract, filled.home, MARCH)


def test_a_backfilled_cut_is_compared_with_the_newer_snapshot_that_is_online(online):
    materialize_snapshot(online.contract, online.home, FEBRUARY)
    assert check_parity(online.contract, online.home, FEBRUARY).entities == 2
    spoil(online, "c1", "orders_total", int64_val=1)  # as it was in February
    with pytest.raises(DataError, match=r"orders_total = 1 \(int\) online, 2 \(int\) offline"):
        check_parity(online.contract, online.home, FEBRUARY)


def test_an_online_row_of_a_snapshot_that_is_gone_fails_the_run(online):
    snapshot_partition(online.home, online.contract.fingerprint, MARCH).unlink()
    with pytest.raises(DataError, match=r"is of 2024-03-01 00:00, of which there is no snapshot"):
        check_parity(online.contract, online.home, FEBRUARY)


@pytest.mark.parametrize("stores", ["sqlite, sqlite"], indirect=True)
def test_nothing_to_compare_is_a_failure(online):
    path = snapshot_partition(online.home, online.contract.fingerprint, MARCH)
    write_partition(pl.read_parquet(path).clear(), path)
    for cut in (MARCH, day("2024-05-01")):
        with pytest.raises(DataError, match="there is nothing to compare, the snapshot has 0 rows"):
            check_parity(online.contract, online.home, cut)
    with pytest.raises(DataError, match="there is nothing to compare"):
        check_parity(online.contract, online.home, FEBRUARY, sample=0)


@pytest.mark.service  # Redis' client tries again for some seconds
@pytest.mark.parametrize("stores", ["sqlite, sqlite"], indirect=True)
def test_a_store_that_cannot_be_reached_is_a_failure(online):
    for away in (
        replace(online.home, online_store="redis://127.0.0.1:1/0", feature_registry=online.home.feast_registry,
                name="churn"),
        replace(online.home, feature_registry="postgresql://root@127.0.0.1:1/churn", name="churn"),
    ):
        with pytest.raises(PlatformError, match=r"cannot use the .*127\.0\.0\.1:1/"):
            check_parity(online.contract, away, MARCH)


def test_the_sample_is_as_large_as_asked_and_the_same_for_the_same_cut(online, monkeypatch):
    asked = []
    from tasks.features import parity

    real = parity._read_online
    monkeypatch.setattr(parity, "_read_online", lambda entities, *rest: asked.append(entities) or real(entities, *rest))
    for _ in range(2):
        assert check_parity(online.contract, online.home, MARCH, sample=1).entities == 1
    assert asked[0] == asked[1]
