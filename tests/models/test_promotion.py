from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.charter import PromotionGate, Value
from models.metrics import evaluate
from models.promotion import judge_against_champion, judge_first

VALUE = Value(customers=2000, monthly_churners=300, share_found=0.5, share_who_stay=0.5, worth_of_saved=50,
              cost_of_contact=4, contact_budget=300)
LIMITS = PromotionGate(least_auc=0.6, least_test_rows=500, resamples=300)


def world(seed: int = 0, rows: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, the true probability, and entities."""
    rng = np.random.default_rng(seed)
    truth = 1 / (1 + np.exp(-(rng.normal(size=rows) * 1.5 - 2)))
    return (rng.random(rows) < truth).astype(int), truth, np.array([f"c{n:05}" for n in range(rows)])


def metrics(y, probability, entities):
    rows = pd.DataFrame({"id": entities, "y": y})
    return evaluate(rows, probability, label="y", entity="id", value=VALUE)


def judged(y, candidate, champion, entities, limits=LIMITS):
    return judge_against_champion(y, candidate, champion, entities, metrics=metrics(y, candidate, entities),
                                  limits=limits, value=VALUE, random_state=3)


def noisy(truth: np.ndarray, sd: float, seed: int = 9) -> np.ndarray:
    logit = np.log(truth / (1 - truth)) + np.random.default_rng(seed).normal(scale=sd, size=len(truth))
    return 1 / (1 + np.exp(-logit))


def test_the_same_model_twice_is_equal_and_kept():
    y, truth, entities = world()
    decision = judged(y, truth, truth.copy(), entities)
    assert decision.verdict == "keep"
    assert decision.reason.startswith("equal")


def test_a_clearly_better_model_is_promoted_with_its_interval():
    y, truth, entities = world()
    decision = judged(y, truth, noisy(truth, 3), entities)
    assert decision.verdict == "promote"
    assert decision.evidence["gain_low"] > 0


def test_a_clearly_worse_model_is_kept_out():
    y, truth, entities = world()
    decision = judged(y, noisy(truth, 3), truth, entities)
    assert decision.verdict == "keep"
    assert decision.reason.startswith("worse")


def test_an_equally_good_model_is_seldom_promoted():
    promoted = 0
    for seed in range(40):
        y, truth, entities = world(seed)
        decision = judged(y, noisy(truth, 0.5, seed + 100), noisy(truth, 0.5, seed + 200), entities)
        promoted += decision.verdict == "promote"
    assert promoted <= 4  # 2.5 % of 40 is one


@pytest.mark.parametrize("champion", [None, np.full(2000, np.nan)], ids=["none", "not a number"])
def test_a_champion_without_scores_is_no_reason_to_promote(champion):
    y, truth, entities = world()
    assert judged(y, truth, champion, entities).verdict == "keep"


def test_too_few_rows_one_class_or_a_missed_floor_keep_the_champion():
    y, truth, entities = world()
    few = judged(y[:400], truth[:400], noisy(truth, 3)[:400], entities[:400])
    assert "400 test rows, needed are 500" in few.reason
    floor = judged(y, truth, noisy(truth, 3), entities, LIMITS.model_copy(update={"least_auc": 0.99}))
    assert "below the floor" in floor.reason
    assert {few.verdict, floor.verdict} == {"keep"}


def test_a_metric_that_is_no_number_fails_its_floor():
    y, truth, entities = world()
    broken = metrics(y, truth, entities)
    broken = type(broken)(**{**broken.__dict__, "auc": float("nan")})
    decision = judge_against_champion(y, truth, noisy(truth, 3), entities, metrics=broken, limits=LIMITS, value=VALUE,
                                      random_state=3)
    assert decision.verdict == "keep"


def test_the_first_model_must_beat_the_best_single_column():
    y, truth, entities = world()
    found = metrics(y, truth, entities)
    common = {"baseline_column": "recency", "metrics": found, "limits": LIMITS, "random_state": 3}
    assert judge_first(y, truth, noisy(truth, 3), entities, **common).verdict == "promote"
    assert judge_first(y, truth, truth.copy(), entities, **common).verdict == "keep"
