from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from models.charter import Charter, Problem, Value
from models.contract import Column, Contract
from models.cuts import CutPlan
from models.errors import DataError
from models.estimators import out_of_fold
from models.training import TrainingConfig, check_enough, fit_candidate, split_rows

CUTS = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3)]
PLAN = CutPlan(train=tuple(CUTS[:2]), test=(CUTS[2],))
CONTRACT = Contract("id", "left", (), (
    Column("silent", "float64", "numeric", "days", "since the last visit", minimum=0),
    Column("noise", "float64", "numeric", "count", "nothing"),
    Column("tier", "string", "categorical", "tier", "which", nullable=True, categories=("a", "b")),
), {})
CHARTER = Charter(
    name="test", problem=Problem(horizon_days=30),
    value=Value(customers=100, monthly_churners=20, share_found=0.5, share_who_stay=0.5, worth_of_saved=10,
                contact_budget=40),
)


def rows(seed: int = 1, customers: int = 400) -> pd.DataFrame:
    """Each customer at three cuts; who has been silent leaves, the rest is noise."""
    rng = np.random.default_rng(seed)
    frames = []
    for cut in CUTS:
        silent = rng.gamma(2, 10, customers)
        left = rng.random(customers) < 1 / (1 + np.exp(-(silent - 30) / 6))
        frames.append(pd.DataFrame({
            "id": [f"c{number}" for number in range(customers)], "event_timestamp": cut, "left": left.astype(int),
            "silent": np.where(rng.random(customers) < 0.05, np.nan, silent), "noise": rng.normal(size=customers),
            "tier": rng.choice(np.array(["a", "b", None], dtype=object), customers),
        }))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def candidate():
    train, test = split_rows(rows(), PLAN)
    return fit_candidate(train, test, CONTRACT, CHARTER, TrainingConfig())


def test_training_and_test_rows_are_those_of_their_cuts():
    train, test = split_rows(rows(), PLAN)
    assert set(train["event_timestamp"]) == set(CUTS[:2])
    assert set(test["event_timestamp"]) == {CUTS[2]}


def test_a_candidate_learns_what_there_is_and_names_the_column_that_carries_it(candidate):
    assert candidate.metrics.auc > 0.8
    assert candidate.baseline.column == "silent"
    assert candidate.baseline.sign == 1
    assert candidate.importance["silent"] > 0.8
    assert sum(candidate.importance.values()) == pytest.approx(1)


def test_the_same_seed_gives_the_same_model(candidate):
    train, test = split_rows(rows(), PLAN)
    again = fit_candidate(train, test, CONTRACT, CHARTER, TrainingConfig())
    assert np.array_equal(again.probability, candidate.probability)
    assert again.threshold == candidate.threshold


def test_shuffled_labels_teach_nothing():
    shuffled = rows().assign(left=lambda frame: np.random.default_rng(4).permutation(frame["left"]))
    train, test = split_rows(shuffled, PLAN)
    found = fit_candidate(train, test, CONTRACT, CHARTER, TrainingConfig())
    assert abs(found.metrics.auc - 0.5) < 0.1


def test_the_threshold_is_the_budget_of_one_cut_among_rows_the_model_had_not_seen(candidate):
    train, _ = split_rows(rows(), PLAN)
    scores = out_of_fold(candidate.estimator, train, train["left"].to_numpy(), CONTRACT, random_state=7)
    latest = scores[(train["event_timestamp"] == CUTS[1]).to_numpy()]
    assert (latest >= candidate.threshold).sum() == CHARTER.value.contact_budget


def test_the_estimator_with_the_least_cross_validated_loss_is_chosen(candidate):
    assert candidate.validation_loss[candidate.estimator] == min(candidate.validation_loss.values())
    assert len(set(candidate.validation_loss.values())) == 2


def test_too_few_labels_say_how_many_there_are_how_many_are_needed_and_when_there_may_be_more():
    train, test = split_rows(rows(customers=100), PLAN)
    with pytest.raises(DataError, match=r"200 mature training labels, needed are 500; .* one more cut is 2024-05-01"):
        check_enough(train, test, CONTRACT, CHARTER, as_of=datetime(2024, 4, 1, tzinfo=UTC),
                     next_as_of=datetime(2024, 5, 1, tzinfo=UTC))


def test_one_class_only_is_too_few_of_the_other():
    train, test = split_rows(rows().assign(left=0), PLAN)
    with pytest.raises(DataError, match="fewest churners 0"):
        check_enough(train, test, CONTRACT, CHARTER, as_of=CUTS[2], next_as_of=CUTS[2])


def test_a_new_window_needs_the_date_it_begins_at():
    with pytest.raises(ValidationError, match="needs the date"):
        TrainingConfig(window="new")
