from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from models.charter import Problem, Value
from models.contract import Column, Contract
from models.errors import DataError
from models.evaluation.bootstrap import Interval, customer_weights
from models.study.history import Draws, History, Model, StudyConfig, draw, first_origin, study_cuts, walk_forward
from models.study.retraining_policy import (
    NEVER,
    Policy,
    age_models,
    interval_of,
    judge_history,
    model_in_use,
    pairs_wanted,
    policies,
    surely_worse,
    windows,
)
from models.training.contacts import WEIGHT

CONTRACT = Contract("id", "left", (), (
    Column("a", "float64", "numeric", "count", "one thing"),
    Column("b", "float64", "numeric", "count", "another"),
), {})
PROBLEM = Problem(horizon_days=30, label_delay_days=5)
VALUE = Value(customers=400, monthly_churners=120, share_found=0.5, share_who_stay=0.5, worth_of_saved=40,
              cost_of_contact=4, contact_budget=100)
CONFIG = StudyConfig(least_train_cuts=2, resamples=100)
AS_OF = datetime(2025, 9, 1, tzinfo=UTC)
TRAIN_CUTS = 4


def month(number: int) -> datetime:
    return datetime(2024 + number // 12, number % 12 + 1, 1, tzinfo=UTC)


def world(turn: float, *, seed: int = 1, customers: int = 400, cuts: int = 16) -> pd.DataFrame:
    """Customers at monthly cuts; what makes them leave turns from column a to column b by `turn` radians a month."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(cuts):
        a, b = rng.normal(size=(2, customers))
        odds = 2.5 * (np.cos(turn * number) * a + np.sin(turn * number) * b) - 1
        frames.append(pd.DataFrame({"id": [f"c{one}" for one in range(customers)], "event_timestamp": month(number),
                                    "left": (rng.random(customers) < 1 / (1 + np.exp(-odds))).astype(int),
                                    "a": a, "b": b}))
    return pd.concat(frames, ignore_index=True)


def fit(train: pd.DataFrame):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(train[["a", "b"]], train["left"])
    return lambda rows: model.predict_proba(rows[["a", "b"]])[:, 1]


def study(rows: pd.DataFrame, *, cost: float = 0.0, config: StudyConfig = CONFIG, value: Value = VALUE):
    history = walk_forward(rows, CONTRACT, PROBLEM, fit, config=config, as_of=AS_OF,
                           windows=windows(config, step_months=1, train_cuts=TRAIN_CUTS))
    found = policies(config, step_months=1, span_months=history.months[-1], train_cuts=TRAIN_CUTS)
    draws = draw(history, pairs_wanted(history, found, step_months=1, train_cuts=TRAIN_CUTS), value,
                 resamples=config.resamples, random_state=7)
    return judge_history(history, draws, found, config=config, train_cuts=TRAIN_CUTS, step_months=1,
                         cost_of_retraining=cost)


@pytest.fixture(scope="module")
def turning():
    return study(world(0.15))


def test_a_stable_world_is_retrained_seldom():
    found = study(world(0.0))
    assert found.decision.verdict == "seldom"
    assert found.decision.evidence["every_months"] == NEVER
    assert found.auc_lost_a_month.low < 0 < found.auc_lost_a_month.high
    assert abs(found.auc_lost_a_month.value) < 0.003


def test_a_turning_world_is_retrained_often_and_a_frozen_model_loses_with_every_month(turning):
    assert turning.decision.verdict in ("every month", "every 2 months")
    assert turning.auc_lost_a_month.low > 0.005
    lost = [age.auc_lost.value for age in turning.ages]
    assert lost[0] == 0.0
    assert lost[8] > lost[4] > lost[2] > 0
    never = next(one for one in turning.earned if one.policy.every == NEVER)
    assert never.surely_worse
    assert never.behind.low > 0


def test_what_a_retraining_costs_makes_it_rarer(turning):
    monthly = next(one for one in turning.earned if one.policy == Policy(1))
    never = next(one for one in turning.earned if one.policy.every == NEVER)
    gain = monthly.value.value - never.value.value
    dear = study(world(0.15), cost=2 * gain)
    assert dear.decision.evidence["every_months"] not in (1, 2)
    assert next(one for one in dear.earned if one.policy == Policy(1)).surely_worse


def test_a_cost_alone_decides_between_policies_that_earn_the_same():
    net = np.array([[100.0] * 101, [99.0] * 101])
    assert surely_worse(net, confidence=0.95).tolist() == [False, True]
    assert surely_worse(net[[0, 0]], confidence=0.95).tolist() == [False, False]


def test_the_best_of_many_equal_policies_is_seldom_taken_for_surely_better():
    """Twelve policies that differ by nothing but luck: a plain interval would reject one of them every other time."""
    rng = np.random.default_rng(3)
    rejected = 0
    for _ in range(200):
        seen = rng.normal(size=(12, 1))
        net = np.concatenate([seen, seen + rng.normal(size=(12, 200))], axis=1)
        rejected += surely_worse(net, confidence=0.95)[0]
    assert rejected <= 0.08 * 200


def test_a_policy_another_one_clearly_outdoes_is_surely_worse():
    rng = np.random.default_rng(3)
    seen = np.array([[0.0], [6.0], [5.5]])
    net = np.concatenate([seen, seen + rng.normal(size=(3, 200))], axis=1)
    assert surely_worse(net, confidence=0.95).tolist() == [True, False, False]


def test_too_few_customers_give_no_answer():
    found = study(world(0.05, customers=30, cuts=9), value=VALUE.model_copy(update={"contact_budget": 8}))
    assert found.decision.verdict == "no answer"
    assert "but it may lose" in found.decision.reason


def test_a_model_that_earns_nothing_gives_no_answer():
    rows = world(0.0)
    costly = VALUE.model_copy(update={"cost_of_contact": 30.0})
    history = walk_forward(rows, CONTRACT, PROBLEM, fit, config=CONFIG, as_of=AS_OF, windows=[TRAIN_CUTS])
    found = [Policy(NEVER), Policy(12)]
    draws = draw(history, pairs_wanted(history, found, step_months=1, train_cuts=TRAIN_CUTS), costly, resamples=100,
                 random_state=7)
    decision = judge_history(history, draws, found, config=CONFIG, train_cuts=TRAIN_CUTS, step_months=1,
                             cost_of_retraining=0).decision
    assert (decision.verdict, decision.reason.split(":")[0]) == ("no answer", "no policy would have earned anything")


def test_a_model_knows_the_labels_that_were_mature_at_its_cut_and_no_others():
    seen = []

    def watch(train: pd.DataFrame):
        seen.append(set(train["event_timestamp"]))
        return fit(train)

    rows = world(0.0, customers=50, cuts=8)
    history = walk_forward(rows, CONTRACT, PROBLEM, watch, config=CONFIG, as_of=AS_OF, windows=[1, 3])
    assert [f"{cut:%m}" for cut in history.cuts] == ["04", "05", "06", "07", "08"]  # March's is mature on April 5
    assert history.known == (2, 3, 4, 5, 6)
    assert history.months == (0, 1, 2, 3, 4)
    for origin, cut in enumerate(history.cuts):
        one, three = seen[2 * origin], seen[2 * origin + 1]
        assert all(known + timedelta(days=35) <= cut for known in three)
        assert one == {max(three)}
        assert len(three) == min(3, history.known[origin])
        assert len(history.scores[Model(origin, 1)]) == len(history.cuts) - origin


def test_a_row_that_stands_for_two_counts_as_two():
    """Three customers at one cut, the last stands for two: AUC and money by hand."""
    empty = (np.array([0.0, 1.0, 0.0]),)
    one = History((month(0),), (0,), (2,), empty, (np.array(["a", "b", "c"]),), (np.array([1.0, 1.0, 2.0]),),
                  {Model(0, 2): (np.array([0.9, 0.5, 0.1]),)})
    value = VALUE.model_copy(update={"contact_budget": 3})
    draws = draw(one, [(Model(0, 2), 0)], value, resamples=20, random_state=7)
    assert draws.auc[Model(0, 2), 0][0] == pytest.approx(2 / 3)  # b outranks c, who is two, and not a
    assert draws.value[Model(0, 2), 0][0] == pytest.approx(0.5 * 40 - 3 * 4)  # a, b and half of c
    for number, drawn in enumerate(customer_weights(one.entities[0], resamples=20, random_state=7), start=1):
        a, b, c = drawn * [1, 1, 2]
        wanted = b * c / (b * (a + c)) if b and a + c else np.nan
        assert draws.auc[Model(0, 2), 0][number] == pytest.approx(wanted, nan_ok=True)


def test_weights_of_a_training_set_reach_the_history():
    rows = world(0.0, customers=50, cuts=8)
    rows[WEIGHT] = np.arange(len(rows), dtype=float)
    history = walk_forward(rows, CONTRACT, PROBLEM, fit, config=CONFIG, as_of=AS_OF, windows=[3])
    wanted = rows[rows["event_timestamp"] == history.cuts[0]][WEIGHT].to_numpy()
    assert np.array_equal(history.weights[0], wanted)


def test_what_was_done_when_time_ran_out_is_kept_and_said():
    rows = world(0.0, customers=50)
    history = walk_forward(rows, CONTRACT, PROBLEM, fit, windows=[3], as_of=AS_OF,
                           config=CONFIG.model_copy(update={"max_seconds": 1e-9}))
    assert len(history.cuts) == CONFIG.least_test_cuts
    assert history.cut_short == ("stopped after 1e-09 s with 4 of 13 dates; later cuts are left out (max_seconds)")
    assert all(len(scores) == 4 - model.origin for model, scores in history.scores.items())


@pytest.mark.parametrize(("cuts", "words"), [
    (5, r"cannot study history as of 2025-09-01: 5 cuts have mature labels, 2 of them after the first 2 a model could "
        r"learn from, needed are 4\. Use a later AS_OF"),
    (1, r"1 cuts have mature labels, 0 of them"),
])
def test_a_short_history_is_one_clear_line(cuts, words):
    with pytest.raises(DataError, match=words):
        first_origin([month(number) for number in range(cuts)], PROBLEM, CONFIG, as_of=AS_OF)


def test_a_cut_of_one_class_is_refused_by_name():
    rows = world(0.0, customers=50)
    rows.loc[rows["event_timestamp"] == month(9), "left"] = 0
    with pytest.raises(DataError, match="at the cut 2024-10-01 all 50 rows are of one class"):
        walk_forward(rows, CONTRACT, PROBLEM, fit, config=CONFIG, as_of=AS_OF, windows=[3])


def test_study_cuts_are_those_with_mature_labels():
    cuts = study_cuts(PROBLEM, first_event=month(0), as_of=month(6))
    assert cuts == [month(1), month(2), month(3), month(4)]  # May's label is mature on June 5, June's on July 6


def history(cuts: int) -> History:
    empty = tuple(np.empty(0) for _ in range(cuts))
    return History(tuple(month(number) for number in range(cuts)), tuple(range(cuts)), tuple(range(2, cuts + 2)),
                   empty, empty, empty, {})


@pytest.mark.parametrize(("policy", "first", "cut", "wanted"), [
    (Policy(NEVER), 0, 5, (Model(0, 2), 0)),
    (Policy(1), 1, 5, (Model(5, 4), 5)),
    (Policy(1, "new"), 1, 5, (Model(5, 1), 5)),
    (Policy(3), 3, 5, (Model(3, 4), 1)),
    (Policy(3), 2, 5, (Model(5, 4), 2)),
    (Policy(3), 2, 4, (Model(2, 4), 1)),
    (Policy(3, "new"), 3, 2, (Model(0, 2), 0)),
])
def test_the_model_in_use_is_that_of_the_last_retraining(policy, first, cut, wanted):
    assert model_in_use(policy, history(6), cut, first=first, step_months=1, train_cuts=4) == wanted


def test_policies_that_history_cannot_tell_apart_are_left_out():
    assert policies(StudyConfig(), step_months=1, span_months=5, train_cuts=3) == [
        Policy(NEVER), Policy(3), Policy(2), Policy(2, "new"), Policy(1), Policy(1, "new")]
    assert policies(StudyConfig(), step_months=3, span_months=12, train_cuts=2) == [
        Policy(NEVER), Policy(12), Policy(6), Policy(3), Policy(3, "new")]


def test_ageing_compares_a_frozen_model_with_a_fresh_one_at_the_same_cut():
    """Two resamples, three cuts: a model loses 0.1 in its first month and 0.2 in its second."""
    auc = {(Model(0, 2), 0): 0.9, (Model(1, 3), 1): 0.8, (Model(2, 4), 2): 0.9,
           (Model(0, 2), 1): 0.7, (Model(1, 3), 2): 0.8, (Model(0, 2), 2): 0.7}
    draws = Draws({key: np.full(3, one) for key, one in auc.items()},
                  {key: np.full(3, 100 * one) for key, one in auc.items()})
    ages, slope = age_models(history(3), draws, train_cuts=4, step_months=1, confidence=0.9)
    assert [(age.months, age.pairs) for age in ages] == [(0, 3), (1, 2), (2, 1)]
    assert [age.auc_lost.value for age in ages] == pytest.approx([0, 0.1, 0.2])
    assert [age.auc.value for age in ages] == pytest.approx([2.6 / 3, 0.75, 0.7])
    assert [age.value_lost.value for age in ages] == pytest.approx([0, 10, 20])
    assert slope.value == pytest.approx(0.1)


def test_an_interval_of_lucky_draws_is_none():
    assert interval_of(np.array([0.5, 0.4, 0.6]), 0.9).low == pytest.approx(0.41)
    lucky = interval_of(np.array([0.5, 0.4, np.nan, np.nan]), 0.9)
    assert lucky.value == 0.5
    assert np.isnan([lucky.low, lucky.high]).all()
    assert isinstance(lucky, Interval)


@pytest.mark.parametrize(("months", "words"), [
    ((), "at least 1 item"), ((2, 1), "must rise strictly"), ((1, 1), "must rise strictly"),
    ((4,), "should be 1, 2, 3, 6 or 12"),
])
def test_months_between_retrainings_are_those_a_verdict_can_name(months, words):
    with pytest.raises(ValidationError, match=words):
        StudyConfig(every_months=months)
