"""What a release carries besides the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.contract import Column, Contract
from models.errors import ReleaseError
from models.gates.drift import assess_drift
from models.training.contacts import WEIGHT, weigh_uncontacted
from models.training.fit import split_rows
from tasks.training.payload import draw_reference, write_payload
from tests.tasks.training.experiment import CHARTER, CONTRACT, PLAN, candidate, rows

_, TEST = split_rows(rows(), PLAN)


def reference(folder: Path, test: pd.DataFrame = TEST) -> pd.DataFrame:
    model = replace(candidate(), probability=candidate().probability[test.index])
    write_payload(model, folder, contract=CONTRACT, charter=CHARTER, test=test, pins="", facts={})
    return pd.read_parquet(folder / "reference.parquet")


def test_the_reference_stands_for_the_contacted_who_were_left_out_of_training(tmp_path):
    """Of those silent for long all but one in five were contacted: drift must not be said to begin with them."""
    long = TEST["silent"] > 30
    left = TEST[~long | (np.arange(len(TEST)) % 5 == 0)]
    weighed = left.assign(**{WEIGHT: np.where(left["silent"] > 30, 5.0, 1.0)})
    share = (weighed[WEIGHT] * (left["silent"] > 30)).sum() / weighed[WEIGHT].sum()
    found = reference(tmp_path / "weighed", weighed)
    assert (found["silent"] > 30).mean() == pytest.approx(share, abs=0.06)
    assert (left["silent"] > 30).mean() < share - 0.08
    assert list(found.columns) == [*CONTRACT.feature_names, "churn_probability"]


def test_a_reference_drawn_by_weights_does_not_look_like_drift_to_the_same_customers():
    """A third of its rows are copies of others: taken for other customers, a quarter of the quiet checks flagged."""
    random, flagged = np.random.default_rng(3), 0
    names = [f"n{place}" for place in range(20)]
    contract = Contract("id", "left", (), tuple(Column(name, "float64", "numeric", "1", "a number") for name in names),
                        {})

    def customers(count: int) -> pd.DataFrame:
        score = random.beta(2, 5, count)
        return pd.DataFrame(random.normal(size=(count, 20)), columns=names).assign(
            churn_probability=score, event_timestamp=PLAN.test[-1])

    for _ in range(30):
        latest = customers(2000)
        score, holdout = latest["churn_probability"].to_numpy(), random.random(2000) < 0.1
        weights = weigh_uncontacted((score > np.quantile(score, 0.9)) & ~holdout, holdout, score)
        drawn, worth = draw_reference(latest[weights.kept].assign(**{WEIGHT: weights.weight}))
        assert 0.3 * len(drawn) < worth < len(drawn) == weights.kept.sum()
        report = assess_drift(drawn, customers(2000), contract, CHARTER.drift, dict.fromkeys(names, 0.05), worth=worth)
        assert report.problem is None
        flagged += bool(report.flagged)
    assert flagged <= 3


def test_where_nobody_was_contacted_each_customer_of_the_test_cut_stands_in_the_reference_once(tmp_path):
    """With the score of a model that has not seen them: of those it was fitted to it is surer, and others look new."""
    found = reference(tmp_path / "plain")
    assert sorted(found["silent"]) == sorted(TEST["silent"])
    assert sorted(found["churn_probability"]) == pytest.approx(sorted(candidate().probability), abs=1e-12)


def test_the_candidates_own_scores_say_of_whom_and_when(tmp_path):
    reference(tmp_path)
    found = pd.read_parquet(tmp_path / "scores.parquet")
    assert list(found.columns) == [CONTRACT.entity_key, "event_timestamp", "churn_probability"]
    assert not found.duplicated([CONTRACT.entity_key, "event_timestamp"]).any()


def test_a_model_whose_compiled_scorer_answers_otherwise_is_not_registered(tmp_path, monkeypatch):
    from models.serving.compiled import compile_pipeline

    def off(pipeline, contract):
        made = compile_pipeline(pipeline, contract)
        return replace(made, one=lambda row: made.one(row) + 1e-9)

    monkeypatch.setattr("tasks.training.payload.compile_pipeline", off)
    with pytest.raises(ReleaseError, match=r"compiled it scores up to 1e-09 away from its pipeline \(limit 1e-12\)"):
        reference(tmp_path)
