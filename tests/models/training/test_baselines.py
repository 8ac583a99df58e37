from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from models.charter import Value
from models.contract import Column, Contract
from models.errors import DataError
from models.evaluation.ranks import auc
from models.training.baselines import baseline_values, best_single_column, one_column_scores
from tests.models.training.fit_data import CONTRACT, rows

VALUE = Value(customers=10, monthly_churners=2, share_found=0.5, share_who_stay=0.5, worth_of_saved=10,
              cost_of_contact=1, contact_budget=2)
GROUPED = Contract("id", "left", (), (
    Column("days", "float64", "numeric", "days", "since", group="recency", sign=1),
    Column("weeks", "float64", "numeric", "weeks", "since, in noise", group="recency", sign=1),
    Column("visits", "float64", "numeric", "count", "how often", group="frequency", sign=-1),
    Column("height", "float64", "numeric", "cm", "no side stated", group="person"),
), {})


def world() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    left = rng.integers(0, 2, 400)
    return pd.DataFrame({
        "id": [f"c{number}" for number in range(400)], "left": left, "days": left + rng.normal(size=400),
        "weeks": left + 5 * rng.normal(size=400), "visits": rng.normal(size=400) - left, "height": left * 1.0,
    })


def test_each_group_gives_its_best_column_in_the_direction_the_contract_states():
    frame = world()
    scores = one_column_scores(frame, frame["left"].to_numpy(), frame, GROUPED, random_state=1)
    assert set(scores) == {"days", "visits"}  # height would be best, and the contract states no side of it
    for name, sign in (("days", 1), ("visits", -1)):
        assert auc(frame["left"].to_numpy(), scores[name]) == pytest.approx(
            auc(frame["left"].to_numpy(), sign * frame[name].to_numpy()))
        assert scores[name].mean() == pytest.approx(frame["left"].mean(), abs=0.01)  # probabilities


def test_a_contract_that_states_no_side_has_no_one_column_models():
    plain = replace(CONTRACT, snapshot=tuple(replace(column, sign=0) for column in CONTRACT.snapshot))
    assert one_column_scores(rows(), rows()["left"].to_numpy(), rows(), plain, random_state=1) == {}


def test_the_best_single_column_is_found_with_its_direction():
    frame = rows().assign(silent=lambda frame: -frame["silent"])
    found = best_single_column(frame, frame["left"].to_numpy(), CONTRACT)
    assert (found.column, found.sign) == ("silent", -1)


def test_nobody_brings_nothing_and_everyone_all_churners_less_all_contacts():
    y, scores = np.array([1, 0, 1, 0]), {"days": np.array([0.9, 0.8, 0.1, 0.2])}
    values = baseline_values(y, scores, ["a", "b", "c", "d"], VALUE)
    assert values == {"nobody": 0.0, "everyone": 2 * 0.5 * 10 - 4, "days": 1 * 0.5 * 10 - 2}
    weighted = baseline_values(y, scores, ["a", "b", "c", "d"], VALUE, np.array([2.0, 1.0, 3.0, 1.0]))
    assert weighted == {"nobody": 0.0, "everyone": 5 * 0.5 * 10 - 7, "days": 2 * 0.5 * 10 - 2}


def test_a_contract_without_a_number_has_no_baseline_and_says_so():
    words = replace(CONTRACT, snapshot=CONTRACT.snapshot[2:])
    with pytest.raises(DataError, match="none of the 1 features is numeric"):
        best_single_column(rows(), rows()["left"].to_numpy(), words)
