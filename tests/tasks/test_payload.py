"""What a release carries besides the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.contacts import WEIGHT
from models.training import split_rows
from tasks.payload import write_payload
from tests.tasks.experiment import CHARTER, CONTRACT, PLAN, candidate, rows


def reference(folder: Path, train: pd.DataFrame) -> pd.DataFrame:
    _, test = split_rows(rows(), PLAN)
    write_payload(candidate(), folder, contract=CONTRACT, charter=CHARTER, train=train, test=test, pins="", facts={})
    return pd.read_parquet(folder / "reference.parquet")


def test_the_reference_stands_for_the_contacted_who_were_left_out_of_training(tmp_path):
    """Of those silent for long all but one in five were contacted: drift must not be said to begin with them."""
    train, _ = split_rows(rows(), PLAN)
    latest = train[train["event_timestamp"] == PLAN.train[-1]]
    long = latest["silent"] > 30
    left = latest[~long | (np.arange(len(latest)) % 5 == 0)]
    weighed = left.assign(**{WEIGHT: np.where(left["silent"] > 30, 5.0, 1.0)})
    share = (weighed[WEIGHT] * (left["silent"] > 30)).sum() / weighed[WEIGHT].sum()
    found = reference(tmp_path / "weighed", weighed)
    assert (found["silent"] > 30).mean() == pytest.approx(share, abs=0.06)
    assert (left["silent"] > 30).mean() < share - 0.08
    assert list(found.columns) == [*CONTRACT.feature_names, "churn_probability"]


def test_where_nobody_was_contacted_each_customer_of_the_latest_cut_stands_in_the_reference_once(tmp_path):
    train, _ = split_rows(rows(), PLAN)
    found = reference(tmp_path / "plain", train)
    latest = train.loc[train["event_timestamp"] == PLAN.train[-1], "silent"]
    assert sorted(found["silent"]) == sorted(latest)
