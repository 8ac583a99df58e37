from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from examples.shop.generate import write_world
from examples.shop.law import World
from feature_repo.contract import Snapshot
from models.errors import DataError
from tasks.features.snapshots import build_snapshots, read_labels
from tasks.training.leaks import refuse_leaks
from tests.tasks.conftest import Shop, day, make_shop

pytestmark = pytest.mark.service  # a sample world and 435 pairs of features take some seconds
CUTS = [day(f"2024-0{month}-01") for month in (4, 5, 6, 7)]
AS_OF = "2024-08-20"


def sample_rows(folder: Path, seed: int, customers: int = 1500) -> tuple[Shop, pd.DataFrame]:
    """The training rows of a small sample world, through the real ingest and the real snapshots."""
    shop = make_shop(folder)
    shutil.rmtree(shop.home.landing)
    write_world(shop.home.landing, World(seed=seed, customers=customers, months=8))
    shop.ingest(AS_OF)
    stores = {"home": shop.home, "engine": shop.engine}
    features = pd.concat(map(pd.read_parquet, build_snapshots(shop.contract, Snapshot, cuts=CUTS, **stores)))
    labels = read_labels(shop.contract, problem=shop.charter.problem, cuts=CUTS, as_of=day(AS_OF), **stores)
    rows = features[features["eligible"]].merge(labels.to_pandas(), on=["customer_id", "event_timestamp"])
    return shop, rows.reset_index(drop=True)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return sample_rows(tmp_path_factory.mktemp("sample"), seed=7)


def refused(sample, **planted: object) -> str:
    shop, rows = sample
    with pytest.raises(DataError) as error:
        refuse_leaks(rows.assign(**planted), shop.contract, shop.charter, random_state=1)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_honest_rows_are_let_through_without_a_word(sample):
    shop, rows = sample
    assert refuse_leaks(rows, shop.contract, shop.charter, random_state=1) == ()


def test_the_error_names_the_column_the_figure_the_limit_and_what_to_do(sample):
    churned = sample[1]["churned"].to_numpy(dtype=float)
    text = refused(sample, spend_7d=np.where(churned, 0.0, 1.0 + sample[1]["spend_7d"]))
    assert text.startswith(f"cannot train on {len(churned):,} rows: ")
    assert "spend_7d alone tells churners from stayers with AUC 1.0000, more than is plausible (0.99)" in text
    assert "leave it out of the contract" in text


def test_two_columns_that_add_up_to_the_label_are_both_named(sample):
    rows = sample[1]
    text = refused(sample, spend_7d=rows["spend_total"] + rows["churned"])
    assert "spend_7d and spend_total" in text.replace("spend_total and spend_7d", "spend_7d and spend_total")
    assert "add up to the label" in text


def test_a_label_on_its_head_is_refused(sample):
    assert "the label stands on its head" in refused(sample, churned=~sample[1]["churned"])


def test_rows_that_cannot_train_are_told_as_that_and_counted_over_all_of_them(sample):
    rows = sample[1]
    spent = rows["spend_7d"].where(np.arange(len(rows)) % 50 != 0, np.inf)
    assert f"'spend_7d' is infinite in {np.isinf(spent).sum():,} of {len(rows):,}" in refused(sample, spend_7d=spent)
    empty = dict.fromkeys((column.name for column in sample[0].contract.features), None)
    assert "none of the 31 features has a value in any" in refused(sample, **empty)


def test_many_leaks_are_named_three_and_counted(sample):
    churned = sample[1]["churned"].to_numpy(dtype=float)
    text = refused(sample, **dict.fromkeys(("spend_7d", "spend_30d", "orders_7d", "age_years", "items_90d"), churned))
    assert text.count("alone tells") == 3
    assert "and 2 more" in text


def test_twenty_sample_worlds_give_no_false_alarm(tmp_path):
    for seed in range(20):
        shop, rows = sample_rows(tmp_path / str(seed), seed, customers=600)
        assert refuse_leaks(rows, shop.contract, shop.charter, random_state=seed) == ()
