"""The gate's verdict with real parts: a release on disk that is champion, a ledger, and fitted pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from flows.context import Context
from flows.experiment import Experiment, judge_candidate
from flows.settings import load_settings
from flows.summary import Stages
from flows.verdict import concept_changed_at, judge, must_wait
from models.charter import Charter
from models.cuts import CutPlan
from models.decision import Decision
from models.evaluation.evaluate import evaluate_scores
from models.evaluation.metrics import evaluate
from models.serving.scorer import predict
from models.training.baselines import Baseline
from models.training.contacts import WEIGHT
from models.training.fit import Candidate, TrainingConfig
from tasks.data.sources import Sources
from tasks.home import Home
from tasks.release import releases, rollouts
from tasks.state import open_state, record_decision
from tasks.training.record import Dataset
from tests.release_payload import CHARTER, tiny_contract, tiny_pipeline, tiny_rows, write_payload
from tests.tasks.conftest import Shop, day, make_shop

LIMITS = {"least_auc": 0.55, "max_brier": 0.5, "least_test_rows": 500, "resamples": 200, "max_scoring_ms": 100,
          "least_segment_rows": 200, "calibration_slope": [0.1, 20], "max_contact_gap": 0.9, "max_found_gap": 0.99}
TIER = replace(tiny_contract().snapshot[-1], segment=True)
CONTRACT = replace(tiny_contract(), snapshot=(*tiny_contract().snapshot[:-1], TIER))


def context(root: Path, **changes: Any) -> Context:
    home = Home(root)
    charter = Charter.model_validate({
        **CHARTER, "promotion": {**LIMITS, **changes}, "requirements": {"protected": ["visits"]},
        "value": {**CHARTER["value"], "contact_budget": 500, "worth_of_saved": 60},
    })
    return Context(load_settings(), charter, home, open_state(home.state_url), Sources(tables={}), CONTRACT,
                   datetime(2025, 6, 1, tzinfo=UTC))


def held_out(count: int = 3000) -> pd.DataFrame:
    """Who spends little leaves, visits say less: the release of the tests looks at nothing but visits."""
    rows = tiny_rows(count)
    spend = rows["spend"].fillna(30)
    chance = 1 / (1 + np.exp((spend - 20) / 8 + 0.3 * (rows["visits"] - 4)))
    left = (np.random.default_rng(5).random(count) < chance).astype(int)
    return rows.assign(member_id=[f"m{number:05}" for number in range(count)], left=left,
                       event_timestamp=pd.Timestamp("2025-04-01", tz="UTC"))


def candidate(rows: pd.DataFrame, pipeline: Any, here: Context) -> Candidate:
    probability = predict(pipeline, rows, CONTRACT)
    baseline = Baseline("visits", -1)
    metrics = evaluate(rows, probability, label="left", entity="member_id", value=here.charter.value)
    return Candidate("logistic", pipeline, 0.5, metrics, probability, baseline, 0.5, {}, {})


def good_pipeline(rows: pd.DataFrame) -> Any:
    from sklearn.pipeline import Pipeline

    pipeline = tiny_pipeline(rows)
    return Pipeline([*pipeline.steps[:-1], ("classify", LogisticRegression())]).fit(
        rows[CONTRACT.feature_names], rows["left"])


def make_champion(here: Context) -> None:
    folder = here.home.bentoml / "bentos" / "churn" / "one" / "src" / "release"
    write_payload(folder)
    releases.register_release(here.engine, release_id="churn:one", model_version="1", run_id="run", fingerprint="f",
                              as_of="2025-01-01", auc=0.7, monthly_value=1.0)
    opened = rollouts.open_new(here.engine, release_id="churn:one", strategy="basic", who="ada", why="test")
    assert rollouts.close(here.engine, opened, state="champion", reason="basic")


@pytest.fixture
def rows() -> pd.DataFrame:
    return held_out()


@pytest.fixture
def here(tmp_path: Path) -> Context:
    return context(tmp_path)


def test_the_first_model_is_judged_against_the_best_column_and_holds_every_floor(here, rows):
    decision = judge(here, candidate(rows, good_pipeline(rows), here), rows)
    assert decision.verdict == "promote", decision.reason
    assert decision.reason.startswith("first model: AUC")
    assert {"calibration_slope", "worst_segment_auc", "contact_gap.visits", "scoring_ms"} <= set(decision.evidence)


def test_the_ledger_names_the_baseline_the_gate_compared_with(here, rows):
    """On the test rows spend ranks better than visits, which was the best column of training."""
    one = replace(candidate(rows, good_pipeline(rows), here), baselines={"spend": -rows["spend"].fillna(30).to_numpy()})
    evaluation = evaluate_scores(rows["left"].to_numpy(), one.probability, rows["member_id"].to_numpy(),
                                 value=here.charter.value, resamples=20, random_state=0)
    cut = rows["event_timestamp"].iloc[0].to_pydatetime()
    experiment = Experiment(here, CutPlan((cut,), (cut,)), TrainingConfig(), "", None, Dataset("d1", "", ()), None,
                            Stages(loud=False))
    decision = judge_candidate.fn(experiment, one, evaluation, rows)
    assert "by spend alone" in decision.reason
    assert f"against {decision.evidence['baseline_auc']:.3f} by {decision.evidence['baseline_column']} alone" in (
        decision.reason)


def test_a_better_model_takes_the_place_of_the_champion_and_the_champion_itself_is_equal(here, rows):
    make_champion(here)
    better = judge(here, candidate(rows, good_pipeline(rows), here), rows)
    assert better.verdict == "promote", better.reason
    assert better.evidence["gain_low"] > 0
    same = judge(here, candidate(rows, tiny_pipeline(tiny_rows()), here), rows)
    assert (same.verdict, same.evidence.get("gain")) == ("keep", 0), same.reason


def test_a_champion_that_cannot_be_read_keeps_its_place_and_the_reason_says_why(here, rows):
    make_champion(here)
    (here.home.bentoml / "bentos/churn/one/src/release/pipeline.skops").unlink()
    decision = judge(here, candidate(rows, good_pipeline(rows), here), rows)
    assert decision.verdict == "keep"
    assert "the champion gave no scores" in decision.reason
    assert "pipeline.skops" in decision.reason


@pytest.mark.parametrize(("changes", "said"), [
    ({"calibration_slope": [0.001, 1]}, "calibration slope"),
    ({"least_segment_rows": 2900}, "no level of the segment column tier"),
    ({"max_contact_gap": 0.01}, "contacted: "),
    ({"max_scoring_ms": 1e-9}, "scoring takes"),
    ({"margin": 1e9}, "equal: "),
    ({"least_test_rows": 3001}, "3,000 test rows, needed are 3,001"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_each_limit_of_the_charter_can_keep_a_better_model_out(tmp_path, rows, changes, said):
    here = context(tmp_path, **changes)
    make_champion(here)
    decision = judge(here, candidate(rows, good_pipeline(rows), here), rows)
    assert decision.verdict == "keep"
    assert said in decision.reason


def test_an_evaluation_of_another_model_is_noticed(here, rows):
    one = candidate(rows, good_pipeline(rows), here)

    def evaluated(probability: np.ndarray) -> Any:
        return evaluate_scores(rows["left"].to_numpy(), probability, rows["member_id"].to_numpy(),
                               value=here.charter.value, resamples=20, random_state=0)

    assert judge(here, one, rows, evaluated(one.probability)).verdict == "promote"
    other = judge(here, one, rows, evaluated(one.probability[::-1]))
    assert other.verdict == "keep"
    assert other.reason.startswith("the evaluation is of other rows or another model: AUC 0.")


def test_a_model_that_says_something_else_than_what_was_judged_does_not_ship(here, rows):
    one = candidate(rows, good_pipeline(rows), here)
    decision = judge(here, replace(one, pipeline=tiny_pipeline(tiny_rows())), rows)
    assert decision.verdict == "keep"
    assert decision.reason.startswith("the model that would ship is not the one that was judged")


def test_rows_weighed_for_contacted_ones_are_counted_and_change_what_is_judged(here, rows):
    one = candidate(rows, good_pipeline(rows), here)
    plain = judge(here, one, rows)
    ones = judge(here, one, rows.assign(**{WEIGHT: 1.0}))
    shared = set(plain.evidence) - {"scoring_ms"}
    assert {name: plain.evidence[name] for name in shared} == {name: ones.evidence[name] for name in shared}
    weighed = judge(here, one, rows.assign(**{WEIGHT: np.where(rows["visits"] > 4, 1.5, 1.0)}))
    assert weighed.evidence["contacted_left_out"] == round(0.5 * (rows["visits"] > 4).sum())
    assert f"{weighed.evidence['contacted_left_out']:,} contacted customers left out" in weighed.reason
    assert weighed.evidence["candidate_auc"] != plain.evidence["candidate_auc"]
    broken = judge(here, one, rows.assign(**{WEIGHT: np.nan}))
    assert (broken.verdict, "weights" in broken.reason) == ("keep", True)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Context]:
    """A shop with orders since January, asked in summer; the ledger holds what the monitor said."""
    shop: Shop = make_shop(tmp_path)
    shop.ingest("2024-08-01")

    def make(as_of: str, *, verdict: str = "retrain", said_on: str = "2024-06-01", **evidence: str) -> Context:
        record_decision(shop.engine, Decision("drift", verdict, "moved", evidence), as_of=day(said_on))
        return Context(load_settings(), shop.charter, shop.home, shop.engine, shop.sources, shop.contract, day(as_of))

    return make


def test_after_a_change_of_the_concept_the_gate_waits_for_two_mature_cuts_and_says_until_when(changed):
    """Cuts are firsts of a month, labels mature after 35 days: June trains, July tests, on 5 August."""
    decision = must_wait(changed("2024-08-01", kind="concept"))
    assert decision is not None
    assert decision.verdict == "wait"
    assert "the concept changed on 2024-06-01" in decision.reason
    assert "there are on 2024-08-05" in decision.reason
    assert decision.evidence["waits_until"] == "2024-08-05T00:00:00+00:00"


def test_it_waits_no_longer_than_that_and_not_for_drift_of_the_data_or_what_was_found_good(changed):
    assert must_wait(changed("2024-08-05", kind="concept")) is None


@pytest.mark.parametrize("said", [
    {"kind": "data"}, {}, {"concept": "good", "verdict": "nothing"}, {"kind": "concept", "said_on": "2024-07-02"},
], ids=["of the data", "of no kind", "good", "later than asked"])
def test_other_drift_is_no_reason_to_wait(changed, said):
    assert must_wait(changed("2024-07-01", **said)) is None


def test_the_change_is_when_the_evidence_says_it_was(changed):
    here = changed("2024-08-01", kind="concept", changed_since="2024-03-15")
    assert concept_changed_at(here.engine, here.as_of) == day("2024-03-15")
    assert must_wait(here) is None


def test_a_change_that_every_check_still_sees_does_not_put_the_end_of_waiting_off(changed):
    """Seen on 1 June and at each check after it: June trains, July tests, on 5 August the waiting is over."""
    for said_on in ("2024-06-01", "2024-07-01", "2024-08-01"):
        here = changed("2024-08-04", kind="concept", said_on=said_on)
        assert concept_changed_at(here.engine, here.as_of) == day("2024-06-01")
    assert must_wait(here) is not None
    assert must_wait(replace(here, as_of=day("2024-08-05"))) is None


@pytest.mark.parametrize(("between", "still"), [
    (Decision("promotion", "promote", "better"), "2024-05-01"),
    (Decision("drift", "nothing", "calm", {"concept": "good"}), None),
], ids=["a promotion", "an all-clear"])
def test_a_change_after_a_promotion_or_an_all_clear_is_another_one(changed, between, still):
    here = changed("2024-08-05", kind="concept", said_on="2024-05-01")
    record_decision(here.engine, between, as_of=day("2024-06-01"))
    assert concept_changed_at(here.engine, here.as_of) == (day(still) if still else None)
    changed("2024-08-05", kind="concept", said_on="2024-07-01")
    assert concept_changed_at(here.engine, here.as_of) == day("2024-07-01")
    assert must_wait(here) is not None


def test_a_new_window_waits_as_well(changed):
    here = changed("2024-07-01")
    new = TrainingConfig(window="new", not_before=day("2024-06-01"))
    decision = must_wait(here, new)
    assert decision is not None
    assert decision.verdict == "wait"
