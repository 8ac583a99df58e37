"""The judge, on counts made by hand and on simulated customers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from models.canary import (
    ArmCounts,
    StageCounts,
    customers_needed,
    excess_bound,
    judge,
    log_e_value,
    share_bound,
    share_ratio,
)
from models.charter import Rollout
from models.decision import Decision

LIMITS = Rollout()


def arm(customers: int, failed: int = 0, *, refused: int = 0) -> ArmCounts:
    return ArmCounts(customers, failed, failed, refused, refused, requests=customers, errors=failed)


def stage(share: float, canary: ArmCounts, champion: ArmCounts) -> StageCounts:
    return StageCounts(share, canary, champion)


def decide(*stages: StageCounts, minutes: float = 5, limits: Rollout = LIMITS, fault: str | None = None) -> Decision:
    return judge(stages, limits, minutes_in_stage=minutes, fault=fault)


def test_a_canary_without_errors_advances_once_both_arms_have_enough_customers() -> None:
    assert decide(stage(0.05, arm(100), arm(1900))).verdict == "advance"
    early = decide(stage(0.05, arm(99), arm(1900)))
    assert early.verdict == "hold"
    assert "99 canary and 1900 champion customers" in early.reason
    assert "100 needed" in early.reason


def test_no_alarm_is_not_enough_to_advance() -> None:
    decision = decide(stage(0.5, arm(100, 2), arm(100, 2)))
    assert decision.verdict == "hold"
    assert "cannot be excluded (limit 5.0%" in decision.reason


def test_the_default_least_customers_suffices_for_the_default_excess() -> None:
    assert customers_needed(LIMITS.alpha, LIMITS.max_error_excess) <= LIMITS.least_customers


def test_a_canary_that_fails_more_customers_is_rolled_back_with_its_numbers() -> None:
    decision = decide(stage(0.05, arm(100, 8), arm(1900, 19)))
    assert decision.verdict == "roll back"
    assert "8 of 100 canary customers and 19 of 1900 champion customers failed at 5%" in decision.reason
    assert decision.evidence["failed_e_value"] > decision.evidence["e_limit"]


def test_a_canary_that_refuses_customers_the_champion_knows_is_rolled_back() -> None:
    decision = decide(stage(0.05, arm(40, refused=20), arm(800, refused=8)))
    assert decision.verdict == "roll back"
    assert "refused (404 or 422)" in decision.reason


def test_refusals_that_fall_on_both_arms_alike_do_not_stop_a_canary() -> None:
    assert decide(stage(0.25, arm(250, refused=75), arm(750, refused=225))).verdict == "advance"


def test_a_canary_that_fails_every_request_is_killed_before_there_are_enough_customers() -> None:
    canary = ArmCounts(customers=5, failed=5, requests=60, errors=60)
    decision = decide(stage(0.05, canary, arm(95)), minutes=0.1)
    assert decision.verdict == "roll back"
    assert decision.reason == "kill switch: 60 of 60 canary requests failed (100%, limit 20%)"


def test_the_kill_switch_waits_for_its_least_requests() -> None:
    canary = ArmCounts(customers=2, failed=2, requests=49, errors=49)
    assert decide(stage(0.05, canary, arm(40))).verdict == "hold"


def test_the_kill_switch_leaves_a_canary_at_its_limit_alone() -> None:
    assert decide(stage(0.05, ArmCounts(requests=60, errors=12), arm(40))).verdict == "hold"
    assert decide(stage(0.05, ArmCounts(requests=60, errors=13), arm(40))).verdict == "roll back"


@pytest.mark.parametrize("fault", [None, "no evidence: the access log cannot be read"])
def test_silence_holds_and_at_the_time_limit_rolls_back(fault: str | None) -> None:
    nothing = stage(0.05, ArmCounts(), ArmCounts())
    assert decide(nothing, fault=fault, minutes=1439).verdict == "hold"
    late = decide(nothing, fault=fault, minutes=1440)
    assert late.verdict == "roll back"
    assert late.reason.startswith("not enough evidence within 1440 minutes")


def test_a_difference_too_small_to_matter_does_not_roll_back() -> None:
    big = stage(0.5, arm(200_000, 20_000), arm(200_000, 18_000))
    assert math.exp(log_e_value([big])) > 40
    assert share_ratio([big]) == pytest.approx(20 / 18)
    assert decide(big).verdict != "roll back"
    assert decide(big, limits=LIMITS.model_copy(update={"max_error_ratio": 1.1})).verdict == "roll back"


def test_a_canary_that_fails_less_never_alarms() -> None:
    assert log_e_value([stage(0.5, arm(500, 0), arm(500, 40))]) < 0


def test_evidence_multiplies_over_stages_each_with_its_own_share() -> None:
    first, second = stage(0.05, arm(100, 2), arm(1900, 1)), stage(0.5, arm(900, 9), arm(900, 3))
    assert log_e_value([first, second]) == pytest.approx(log_e_value([first]) + log_e_value([second]))


def test_who_failed_in_an_earlier_stage_is_not_counted_again() -> None:
    again = replace(arm(900, 9), first_failed=0)
    assert log_e_value([stage(0.5, again, arm(900))]) == 0


def test_the_bound_covers_the_true_share_at_every_look() -> None:
    rng = np.random.default_rng(7)
    looks = np.arange(20, 1001, 49)
    missed = 0
    for _ in range(200):
        failed = np.cumsum(rng.random(1000) < 0.03)
        missed += any(share_bound(int(failed[n - 1]), int(n), alpha=0.05, upper=True) < 0.03 for n in looks)
    assert missed <= 10  # 5 % of 200


def test_the_excess_bound_of_equal_arms_shrinks_with_customers() -> None:
    bounds = [excess_bound(stage(0.5, arm(n, n // 50), arm(n, n // 50)), alpha=0.05) for n in (100, 1_000, 10_000)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < 0.02


def rollouts_at_every_look(rng: np.random.Generator, *, canary_share_failing: float) -> Decision:
    """One rollout of 6,000 customers who come one after the other, looked at every 40th; the last decision."""
    decision = decide(stage(0.05, ArmCounts(), ArmCounts()))
    done: list[StageCounts] = []
    for share in LIMITS.stages:
        on_canary = rng.random(2000) < share
        fails = rng.random(2000) < np.where(on_canary, canary_share_failing, 0.01)
        for seen in range(40, 2001, 40):
            canary = arm(int(on_canary[:seen].sum()), int((on_canary & fails)[:seen].sum()))
            champion = arm(int((~on_canary)[:seen].sum()), int((~on_canary & fails)[:seen].sum()))
            here = stage(share, canary, champion)
            decision = decide(*done, here, limits=LIMITS.model_copy(update={"least_customers": 2000}))  # never advances
            if decision.verdict == "roll back":
                return decision
        done.append(here)
    return decision


def test_a_harmless_canary_is_rolled_back_at_most_as_often_as_alpha_whatever_the_number_of_looks() -> None:
    rng = np.random.default_rng(11)
    rolled_back = sum(rollouts_at_every_look(rng, canary_share_failing=0.01).verdict == "roll back" for _ in range(200))
    assert rolled_back <= 200 * LIMITS.alpha


def test_a_canary_with_five_points_more_errors_is_rolled_back() -> None:
    rng = np.random.default_rng(12)
    found = sum(rollouts_at_every_look(rng, canary_share_failing=0.06).verdict == "roll back" for _ in range(40))
    assert found == 40
