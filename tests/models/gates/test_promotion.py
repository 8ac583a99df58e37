from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.charter import Charter, Value
from models.evaluation.metrics import evaluate, realised_value
from models.gates.earnings import front_value
from models.gates.floors import HeldOut
from models.gates.promotion import (
    best_baseline,
    judge_against_champion,
    judge_first,
    judge_promotion,
    wait_after_change,
)
from models.limits import PromotionGate

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


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(3, 400), budget=st.integers(1, 500), seed=st.integers(0, 10_000))
def test_the_front_of_a_ranking_is_worth_what_all_of_it_is(rows, budget, seed):
    rng = np.random.default_rng(seed)
    value = VALUE.model_copy(update={"contact_budget": budget})
    y, order = rng.integers(2, size=rows).astype(float), rng.permutation(rows)
    for counts in (np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(float), rng.random(rows)):
        assert front_value(y, order, value, counts) == pytest.approx(realised_value(y, order, value, counts))


def everything(y, truth, champion, entities, charter, changes=None):
    """The whole gate, with segments of no meaning and a quick model."""
    rows = HeldOut(y=y.astype(float), candidate=truth, champion=champion, entities=entities,
                   segments={"half": (np.arange(len(y)) % 2).astype(str)}, scoring_ms=0.01)
    return judge_promotion(
        replace(rows, **changes or {}), metrics=metrics(y, truth, entities), baselines={"noise": noisy(truth, 4)},
        charter=charter, segments=("half",), random_state=3, first=champion is None,
    )


@pytest.fixture
def charter() -> Charter:
    return Charter.model_validate({"name": "test", "problem": {"horizon_days": 30}, "value": VALUE.model_dump(),
                                   "promotion": LIMITS.model_dump()})


def test_the_whole_gate_promotes_a_better_model_with_the_evidence_of_every_floor(charter):
    y, truth, entities = world()
    for champion in (None, noisy(truth, 3)):
        decision = everything(y, truth, champion, entities, charter)
        assert decision.verdict == "promote", decision.reason
        assert {"gain_low", "calibration_slope", "worst_segment", "scoring_ms"} <= set(decision.evidence)


@pytest.mark.parametrize("changes", [
    {"segments": {}}, {"scoring_ms": None}, {"weight": np.full(2000, np.nan)}, {"weight": np.ones(3)},
    {"champion": np.full(2000, np.nan)}, {"candidate": np.full(2000, np.nan)}, {"candidate": np.full(3, 0.5)},
    {"y": np.ones(2000)}, {"y": np.full(2000, np.nan)}, {"y": np.full(2000, 2.0)}, {"y": np.tile([0.0, 2.0], 1000)},
    {"y": np.tile([0.0, 1.0, 1.0, np.nan], 500)}, {"y": np.empty(0)},
], ids=str)
def test_whatever_is_missing_the_answer_is_no(charter, changes):
    y, truth, entities = world()
    decision = everything(y, truth, noisy(truth, 3), entities, charter, changes)
    assert decision.verdict == "keep"
    assert decision.reason


@pytest.mark.parametrize("baselines", [
    {}, {"recency": np.full(2000, np.nan)}, {"recency": np.ones(3)}, {"recency": np.ones(2001)},
    {"noise": np.arange(2000.0), "recency": np.r_[np.nan, np.ones(1999)]},
], ids=["none", "not a number", "of other rows", "of more rows", "one of two"])
def test_a_first_model_without_a_baseline_for_every_row_is_not_promoted(charter, baselines):
    y, truth, entities = world()
    rows = HeldOut(y=y.astype(float), candidate=truth, champion=None, entities=entities, scoring_ms=0.01)
    decision = judge_promotion(rows, metrics=metrics(y, truth, entities), baselines=baselines, charter=charter,
                               segments=(), random_state=3, first=True)
    assert decision.verdict == "keep"
    assert "has no score for each test row" in decision.reason


@pytest.mark.parametrize("entities", [np.full(2000, "c1"), np.arange(2000) % 499, np.array(["c1"])],
                         ids=["one", "fewer than needed", "of other rows"])
@pytest.mark.parametrize("first", [True, False])
def test_an_interval_over_few_customers_promotes_nothing(charter, entities, first):
    y, truth, _ = world()
    decision = everything(y, truth, None if first else noisy(truth, 3), np.arange(2000), charter,
                          {"entities": entities})
    assert decision.verdict == "keep"
    assert "customers, needed are 500" in decision.reason


@pytest.mark.parametrize("first", [True, False])
def test_figures_of_other_rows_do_not_lift_a_candidate_over_a_floor(charter, first):
    y, truth, entities = world()
    strict = charter.model_copy(update={"promotion": LIMITS.model_copy(update={"least_auc": 0.75})})
    weak = noisy(truth, 2)
    assert not metrics(y, weak, entities).auc >= 0.75 <= metrics(y, truth, entities).auc
    rows = HeldOut(y=y.astype(float), candidate=weak, champion=None if first else noisy(truth, 6), entities=entities,
                   scoring_ms=0.01)
    decision = judge_promotion(rows, metrics=metrics(y, truth, entities), baselines={"noise": noisy(truth, 6)},
                               charter=strict, segments=(), random_state=3, first=first)
    assert (decision.verdict, "below the floor of 0.750" in decision.reason) == ("keep", True)


def test_nothing_is_champion_is_said_by_the_caller_and_not_guessed_from_missing_scores(charter):
    y, truth, entities = world()
    rows = HeldOut(y=y.astype(float), candidate=truth, champion=None, entities=entities, scoring_ms=0.01)
    decision = judge_promotion(rows, metrics=metrics(y, truth, entities), baselines={"noise": noisy(truth, 4)},
                               charter=charter, segments=(), random_state=3, first=False)
    assert decision.verdict == "keep"
    assert "the champion gave no scores" in decision.reason


def test_the_first_model_meets_the_baseline_that_is_best_on_these_rows(charter):
    y, truth, entities = world()
    rows = HeldOut(y=y.astype(float), candidate=truth, champion=None, entities=entities, scoring_ms=0.01)
    weak, strong = noisy(truth, 4), truth.copy()
    assert best_baseline(rows, {"weak": weak, "strong": strong})[0] == "strong"
    decision = judge_promotion(rows, metrics=metrics(y, truth, entities), baselines={"weak": weak, "strong": strong},
                               charter=charter, segments=(), random_state=3, first=True)
    assert decision.verdict == "keep"
    assert "by strong alone" in decision.reason


def test_a_first_model_that_brings_no_money_is_refused_and_so_is_one_whose_money_is_no_number():
    y, truth, entities = world()
    for money in (0.0, -5.0, float("nan")):
        found = replace(metrics(y, truth, entities), value=money)
        decision = judge_first(y, truth, noisy(truth, 3), entities, baseline_column="recency", metrics=found,
                               limits=LIMITS, random_state=3)
        assert decision.verdict == "keep"
        assert "would cost more than it brings" in decision.reason


def test_weights_of_one_are_no_weights_and_doubling_a_row_is_a_weight_of_two():
    y, truth, entities = world(rows=1000)
    other, limits = noisy(truth, 1), LIMITS.model_copy(update={"margin": 0})
    plain, ones = (
        judge_against_champion(y, truth, other, entities, metrics=metrics(y, truth, entities), limits=limits,
                               value=VALUE, random_state=3, weight=weight) for weight in (None, np.ones(1000))
    )
    assert plain == ones
    twice = np.repeat(np.arange(1000), 2)
    copied = judge_against_champion(y[twice], truth[twice], other[twice], entities[twice], value=VALUE, random_state=3,
                                    metrics=metrics(y, truth, entities), limits=limits)
    weighed = judge_against_champion(y, truth, other, entities, metrics=metrics(y, truth, entities), limits=limits,
                                     value=VALUE, random_state=3, weight=np.full(1000, 2.0))
    for name in ("gain", "gain_low", "gain_high"):  # the same customers are drawn, each with both rows or the weight
        assert copied.evidence[name] == pytest.approx(weighed.evidence[name])


def test_after_a_change_the_gate_waits_until_the_very_day_on_which_two_cuts_are_mature(charter):
    """Cuts on firsts of a month, horizon 30 days, no delay: 1 May trains, 1 June tests, mature on 1 July."""
    def asked(as_of: str, changed: str | None = "2025-04-02"):
        moment = None if changed is None else datetime.fromisoformat(changed).replace(tzinfo=UTC)
        return wait_after_change(charter, changed_at=moment, first_event=datetime(2023, 1, 1, tzinfo=UTC),
                                 as_of=datetime.fromisoformat(as_of).replace(tzinfo=UTC))

    waiting = asked("2025-06-30")
    assert waiting is not None
    assert (waiting.verdict, waiting.evidence["waits_until"]) == ("wait", "2025-07-01T00:00:00+00:00")
    assert asked("2025-07-01") is None
    assert asked("2025-06-30", changed=None) is None
