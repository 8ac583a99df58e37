"""The shadow's judge, on counts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.decision import Decision
from models.gates.canary_counts import Skew
from models.gates.shadow import ShadowCounts, judge_shadow
from models.limits import Rollout

LIMITS = Rollout()
SAME = Skew(compared=200, customers=200, online_mean=0.2, batch_mean=0.2)
ALL = ShadowCounts(requests=400, customers=200, score_difference=0.031, decisions_differ=0.12)


def decide(counts: ShadowCounts, *, skew: Skew = SAME, minutes: float = 5, fault: str | None = None) -> Decision:
    return judge_shadow(counts, LIMITS, skew=skew, minutes_in_stage=minutes, fault=fault)


def test_a_shadow_that_answers_all_and_scores_as_in_batch_advances_whatever_the_champion_thinks() -> None:
    decision = decide(replace(ALL, score_difference=0.5, decisions_differ=0.9))
    assert (decision.gate, decision.verdict) == ("shadow", "advance")
    assert "its scores are 0.500 from the champion's on average, 90% of its decisions are others" in decision.reason


def test_a_shadow_that_answers_nothing_is_killed() -> None:
    decision = decide(ShadowCounts(requests=60, missing=60, customers=40, customers_missing=40))
    assert decision.verdict == "roll back"
    assert decision.reason.startswith("kill switch: 60 of 60 requests the champion answered lack the shadow's answer")


def test_a_shadow_that_lacks_more_than_it_may_is_rolled_back() -> None:
    decision = decide(replace(ALL, missing=44, customers_missing=22))
    assert decision.verdict == "roll back"
    assert "44 of 400 requests the champion answered lack the shadow's answer (11.0%" in decision.reason


def test_a_few_more_missing_than_allowed_hold() -> None:
    decision = decide(replace(ALL, missing=10, customers_missing=4))
    assert decision.verdict == "hold"
    assert "(2.5%, limit 2%)" in decision.reason


def test_scores_apart_from_the_batch_scores_roll_back() -> None:
    assert "50 of 200 customers were scored" in decide(ALL, skew=replace(SAME, apart=50)).reason
    assert decide(ALL, skew=replace(SAME, online_mean=0.3)).verdict == "roll back"


@pytest.mark.parametrize(("counts", "skew", "fault"), [
    (ALL, SAME, "no evidence: the log cannot be read"),
    (ShadowCounts(), Skew(), None),
    (replace(ALL, customers=99), SAME, None),
    (ALL, replace(SAME, compared=99), None),
    (ALL, Skew(fault="no batch scores"), None),
])
def test_too_little_holds_and_at_the_time_limit_rolls_back(
    counts: ShadowCounts, skew: Skew, fault: str | None
) -> None:
    assert decide(counts, skew=skew, fault=fault).verdict == "hold"
    late = decide(counts, skew=skew, fault=fault, minutes=1440)
    assert (late.gate, late.verdict) == ("shadow", "roll back")
    assert late.reason.startswith("not enough evidence within 1440 minutes")
