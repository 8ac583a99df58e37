"""Contacts from their source to the weights of a training set, on a lake of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from feature_repo.contract import CONTRACT, Snapshot
from models.cuts import CutPlan
from models.errors import DataError
from models.serving.scorer import in_holdout
from models.training.contacts import WEIGHT, contacted_left_out, row_weights
from tasks.data.sources import Sources, TableSource
from tasks.features.snapshots import build_snapshots
from tasks.training.contacts import contact_evidence, leave_out_contacted, read_contacted
from tasks.training.training_set import build_set
from tests.tasks.conftest import Shop, day, make_shop

COLUMNS = ("customer_id", "contacted_at", "arrived_at")
PEOPLE = [f"c{number:03}" for number in range(400)]
CUTS = [day("2024-02-01"), day("2024-03-01")]


@pytest.fixture
def campaign(tmp_path: Path) -> Shop:
    """Four hundred customers with an order in January; a source of contacts, still without a row that counts."""
    shop = make_shop(tmp_path)
    tables = {**shop.sources.tables, "contacts": TableSource(
        path=str(shop.home.landing / "contacts/*.csv"), columns={name: name for name in COLUMNS})}
    shop.sources = Sources(tables=tables)
    shop.contract = CONTRACT.effective(tables, eligible_within_days=60)
    shop.write("customers", *(f"{one},2024-01-01,2023-06-01,1980,basic,search,2024-01-01" for one in PEOPLE))
    shop.write("orders", *(f"o{one},{one},2024-01-{1 + number % 28:02},1,10.00,2024-01-29"
                           for number, one in enumerate(PEOPLE)))
    return shop


def contact(shop: Shop, *rows: str) -> None:
    folder = shop.home.landing / "contacts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8")


def rows_of(shop: Shop) -> pl.DataFrame:
    """A training set with one feature that matters for nothing, at both cuts."""
    frames = [pl.DataFrame({
        "customer_id": PEOPLE, "event_timestamp": [cut] * len(PEOPLE), "churned": [0, 1] * (len(PEOPLE) // 2),
    }).with_columns(pl.col("event_timestamp").dt.cast_time_unit("us"),
                    *(pl.lit(None, pl.String if name in shop.contract.categorical else pl.Float64).alias(name)
                      for name in shop.contract.feature_names)).with_columns(
        pl.int_range(pl.len()).cast(pl.Float64).alias(shop.contract.numeric[0])) for cut in CUTS]
    return pl.concat(frames)


def left_out(shop: Shop, as_of: str = "2024-06-01"):
    return leave_out_contacted(rows_of(shop), shop.contract, shop.charter, home=shop.home, engine=shop.engine,
                               as_of=day(as_of))


def test_a_contact_counts_for_the_cut_in_whose_label_window_it_lies(campaign):
    """The window is [cut, cut + 30 days): the first moment is in it, the last is not."""
    contact(campaign, "c001,2024-01-31T23:59:59,2024-02-01", "c002,2024-02-01,2024-02-01",
            "c003,2024-03-01T23:59:59,2024-03-02", "c004,2024-03-02,2024-03-02", "c004,2024-03-03,2024-03-03")
    campaign.ingest("2024-06-01")
    found = read_contacted(campaign.contract, campaign.charter, home=campaign.home, engine=campaign.engine, cuts=CUTS,
                           as_of=day("2024-06-01"))
    assert found.rows() == [("c002", CUTS[0]), ("c003", CUTS[0]), ("c003", CUTS[1]), ("c004", CUTS[1])]


def test_contacted_rows_leave_the_training_set_and_the_others_count_for_them(campaign):
    taken = [one for one in PEOPLE[:200] if not in_holdout(one, salt="shop", share=0.05)][::2]
    contact(campaign, *(f"{one},2024-02-10,2024-02-10" for one in taken))
    campaign.ingest("2024-06-01")
    rows, found = left_out(campaign)
    first = rows.filter(pl.col("event_timestamp") == CUTS[0])
    assert not set(first["customer_id"]) & set(taken)
    assert len(first) == len(PEOPLE) - len(taken)
    assert first[WEIGHT].sum() == pytest.approx(len(PEOPLE))
    assert first.filter(pl.col("customer_id") < "c200")[WEIGHT].mean() > 1.5
    assert rows.filter(pl.col("event_timestamp") == CUTS[1])[WEIGHT].unique().to_list() == [1]  # no contact in March
    assert contact_evidence(found)["contacted_left_out"] == len(taken)
    assert rows.select(pl.exclude(WEIGHT)).columns == rows_of(campaign).columns


def test_each_cut_is_weighed_by_its_own_contacts_and_knows_of_no_later_ones(campaign):
    """In February the low half by one column was contacted, in March by another: who is left stands for its like."""
    other = np.random.default_rng(0).permutation(len(PEOPLE))
    rows = rows_of(campaign).with_columns(pl.Series(campaign.contract.numeric[1], [*other, *other], pl.Float64))

    def contacted(month: int, people: list[str]) -> None:
        taken = [one for one in people if not in_holdout(one, salt="shop", share=0.05)][::2]
        folder = campaign.home.landing / "contacts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{month}.csv").write_text("\n".join(
            [",".join(COLUMNS), *(f"{one},2024-0{month}-10,2024-0{month}-10" for one in taken)]), encoding="utf-8")

    def weighed(as_of: str) -> pl.DataFrame:
        campaign.ingest(as_of)
        return leave_out_contacted(rows, campaign.contract, campaign.charter, home=campaign.home,
                                   engine=campaign.engine, as_of=day(as_of))[0]

    contacted(2, PEOPLE[:200])
    alone = weighed("2024-06-01")
    contacted(3, [one for one, place in zip(PEOPLE, other, strict=True) if place < 200])
    both = weighed("2024-06-02")
    first, second = (both.filter(pl.col("event_timestamp") == cut) for cut in CUTS)
    assert first.equals(alone.filter(pl.col("event_timestamp") == CUTS[0]))
    low = pl.col(campaign.contract.numeric[1]) < 200
    assert second.filter(low)[WEIGHT].sum() == pytest.approx(200, abs=5)


def test_where_nobody_was_contacted_or_no_source_says_so_the_training_set_is_what_it_was(campaign):
    contact(campaign, "c001,2023-05-01,2023-05-01")  # long before
    campaign.ingest("2024-06-01")
    rows, found = left_out(campaign)
    assert rows.equals(rows_of(campaign))
    assert contact_evidence(found) == found == {}
    campaign.contract = replace(campaign.contract, absent=("contacts",))
    assert left_out(campaign)[0].equals(rows_of(campaign))


def test_a_contact_that_had_not_arrived_is_not_known(campaign):
    contact(campaign, "c001,2024-02-10,2024-05-20")
    campaign.ingest("2024-06-01")
    assert left_out(campaign, as_of="2024-05-01")[1] == {}
    assert contact_evidence(left_out(campaign)[1])["contacted_left_out"] == 1


def test_when_all_of_a_kind_were_contacted_nothing_can_be_learnt_and_the_error_says_what_to_do(campaign):
    contact(campaign, *(f"{one},2024-02-10,2024-02-10" for one in PEOPLE[:100]))
    campaign.ingest("2024-06-01")
    with pytest.raises(DataError, match=r"cannot learn from the cut 2024-02-01: 100 of 400 customers were contacted, "
                                        r"and for 100 of them nobody like them was left alone"):
        left_out(campaign)


def test_a_month_without_a_campaign_is_no_broken_feed(campaign):
    """Five months with a contact of every third customer, then one with a single contact."""
    for month in range(2, 8):
        landed = f"2024-{month:02}-20"
        path = campaign.home.landing / "orders" / f"{month}.csv"
        path.write_text("order_id,customer_id,ordered_at,items,amount,arrived_at\n" + "\n".join(
            f"o{month}{one},{one},{landed},1,10,{landed}" for one in PEOPLE) + "\n", encoding="utf-8")
        people = PEOPLE[::3] if month < 7 else PEOPLE[:1]
        folder = campaign.home.landing / "contacts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{month}.csv").write_text("\n".join(
            [",".join(COLUMNS), *(f"{one},{landed},{landed}" for one in people)]) + "\n", encoding="utf-8")
        load = campaign.ingest(f"2024-{month:02}-25")
    assert load.counts["contacts"].kept == 1


def test_mapping_contacts_renames_no_feature_view(campaign):
    without = CONTRACT.effective(["orders", "customers"], eligible_within_days=60)
    assert campaign.contract.fingerprint == without.fingerprint
    reads = replace(campaign.contract, sql={"snapshot.sql": "SELECT count(*) FROM contacts"})
    assert reads.fingerprint != replace(without, sql=reads.sql).fingerprint
    told = replace(campaign.contract, sql={"snapshot.sql": "SELECT 1 -- not from contacts"})
    assert told.fingerprint == replace(without, sql=told.sql).fingerprint


@pytest.mark.service  # Feast
def test_a_training_set_is_built_without_the_contacted_and_says_how_many(campaign):
    taken = [one for one in PEOPLE[:200] if not in_holdout(one, salt="shop", share=0.05)][::2]
    contact(campaign, *(f"{one},2024-03-10,2024-03-10" for one in taken))
    campaign.ingest("2024-06-01")
    build_snapshots(campaign.contract, Snapshot, home=campaign.home, engine=campaign.engine, cuts=CUTS)
    built = build_set(campaign.contract, campaign.charter, CutPlan((CUTS[0],), (CUTS[1],)), home=campaign.home,
                      engine=campaign.engine, as_of=day("2024-06-01"), run_id="r1")
    train, test = built.split()
    assert built.contacts["contacted_left_out"] == len(taken)
    assert (len(train), len(test)) == (len(PEOPLE), len(PEOPLE) - len(taken))
    assert row_weights(train).tolist() == [1] * len(PEOPLE)
    assert row_weights(test).sum() == pytest.approx(len(PEOPLE))
    assert contacted_left_out(row_weights(test)) == len(taken)
