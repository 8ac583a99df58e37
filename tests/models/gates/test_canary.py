"""The judge, on counts made by hand and on simulated customers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.decision import Decision
from models.gates.canary import MONITORS, customers_needed, judge, log_e_values
from models.gates.canary_counts import ArmCounts, Edges, Skew, StageCounts, slow_beyond, stage_coin
from models.gates.eprocess import Coins, excess_bound, worth
from models.limits import Rollout

LIMITS = Rollout()
EDGES = Edges((2000.0, 8000.0), (0.5, 0.1))
SAME = Skew(compared=500, customers=500, online_mean=0.2, batch_mean=0.2)


def arm(customers: int, failed: int = 0, *, refused: int = 0, slow: tuple[int, ...] | None = None) -> ArmCounts:
    usual = (customers // 2, customers // 10)
    return ArmCounts(customers, failed, refused, requests=customers, errors=failed, timed=customers,
                     slow=slow if slow is not None else usual)


def probe(customers: int, failed: int = 0, *, refused: int = 0, slow: tuple[int, ...] | None = None) -> ArmCounts:
    """A canary as fast as the champion: it is compared with 1.2 times the edges."""
    return arm(customers, failed, refused=refused, slow=slow or (customers * 38 // 100, customers * 6 // 100))


def stage(share: float, canary: ArmCounts, champion: ArmCounts) -> StageCounts:
    """All customers are new ones."""
    def coins(on_canary: int, on_champion: int) -> tuple[Coins, ...]:
        return (Coins(share, on_canary, on_champion),)

    pairs = list(zip(canary.slow or (0, 0), champion.slow or (0, 0), strict=True))
    return StageCounts(
        share, canary, champion, failed=coins(canary.failed, champion.failed),
        refused=coins(canary.refused, champion.refused), slow=tuple(coins(*pair) for pair in pairs),
        fast=tuple(coins(canary.timed - one, champion.timed - other) for one, other in pairs),
        first_seen=coins(canary.customers, champion.customers)[0])


def decide(*stages: StageCounts, minutes: float = 5, limits: Rollout = LIMITS, skew: Skew = SAME,
           fault: str | None = None) -> Decision:
    return judge(stages, limits, edges=EDGES, skew=skew, minutes_in_stage=minutes, fault=fault)


GOOD = stage(0.25, probe(500), arm(1500))


def test_a_canary_without_errors_advances_once_both_arms_have_enough_customers() -> None:
    decision = decide(GOOD)
    assert decision.verdict == "advance"
    assert "more failures than" in decision.reason
    early = decide(stage(0.05, probe(99), arm(1900)))
    assert early.verdict == "hold"
    assert "99 canary and 1900 champion customers" in early.reason
    assert "100 needed" in early.reason


def test_the_default_limits_let_a_good_canary_advance_with_a_hundred_customers_and_few_slow_ones() -> None:
    assert decide(stage(0.05, probe(100), arm(1900))).verdict == "advance"


def test_a_canary_of_the_shop_of_the_charter_advances_at_its_first_stage_as_slow_as_the_champion() -> None:
    """4,500 customers, 5 % of them: as slow as the champion, as where a millisecond is forgiven."""
    assert decide(stage(0.05, arm(225), arm(4275))).verdict == "advance"


def test_too_few_customers_to_exclude_slow_answers_are_told_how_many_would_do() -> None:
    decision = decide(stage(0.05, arm(120), arm(2280)))
    assert decision.verdict == "hold"
    assert "as fast as the champion, 201 customers would do" in decision.reason


def test_a_millisecond_more_is_harmless_however_fast_the_champion_is() -> None:
    assert [slow_beyond(edge, LIMITS) for edge in (500.0, 5000.0, 20_000.0)] == [1500.0, 6000.0, 24_000.0]


def test_no_alarm_is_not_enough_to_advance() -> None:
    decision = decide(stage(0.5, probe(120, 3), arm(120, 2)))
    assert decision.verdict == "hold"
    assert "cannot be excluded (limit 5.0%" in decision.reason


def test_slow_answers_that_cannot_be_excluded_hold() -> None:
    decision = decide(stage(0.5, probe(110, slow=(42, 17)), arm(110)))
    assert decision.verdict == "hold"
    assert "more answers slower than 8.0 ms" in decision.reason


@pytest.mark.parametrize(("change", "says"), [
    ({"timed": 0, "slow": (0, 0)}, "latencies of 0 canary and 1500 champion customers at 25%, 100 needed in each"),
    ({"timed": 99, "slow": (40, 9)}, "latencies of 99 canary"),
])
def test_a_log_without_latencies_holds(change: dict[str, int], says: str) -> None:
    decision = decide(replace(GOOD, canary=replace(GOOD.canary, **change), slow=(), fast=()))
    assert decision.verdict == "hold"
    assert says in decision.reason


@pytest.mark.parametrize(("skew", "says"), [
    (Skew(fault="nothing in the prediction log"), "nothing in the prediction log"),
    (Skew(compared=99, customers=99), "99 canary customers at 25% whose score can be compared with its batch score"),
])
def test_no_scores_to_compare_hold_and_at_the_time_limit_roll_back(skew: Skew, says: str) -> None:
    assert decide(GOOD, skew=skew).verdict == "hold"
    late = decide(GOOD, skew=skew, minutes=1440)
    assert late.verdict == "roll back"
    assert says in late.reason


def test_the_default_least_customers_suffices_for_the_default_excess() -> None:
    assert customers_needed(LIMITS.alpha, LIMITS.max_error_excess) <= LIMITS.least_customers


def test_a_canary_that_fails_more_customers_is_rolled_back_with_its_numbers() -> None:
    decision = decide(stage(0.05, probe(100, 9), arm(1900, 19)))
    assert decision.verdict == "roll back"
    assert "9 of 100 canary customers and 19 of 1900 champion customers failed at 5%" in decision.reason
    assert decision.evidence["failed_e_value"] > decision.evidence["e_limit"] == len(MONITORS) / LIMITS.alpha


def test_a_canary_that_refuses_customers_the_champion_knows_is_rolled_back() -> None:
    decision = decide(stage(0.05, probe(40, refused=20), arm(800, refused=8)))
    assert decision.verdict == "roll back"
    assert "refused (4xx)" in decision.reason


def test_refusals_that_fall_on_both_arms_alike_do_not_stop_a_canary() -> None:
    assert decide(stage(0.25, probe(250, refused=75), arm(750, refused=225))).verdict == "advance"


def test_a_slow_canary_is_rolled_back_and_a_faster_one_is_not() -> None:
    slow = decide(stage(0.25, probe(300, slow=(210, 90)), arm(900)))
    assert slow.verdict == "roll back"
    assert "90 of 300 canary customers waited longer than 9.6 ms and 90 of 900 champion customers" in slow.reason
    assert decide(stage(0.25, probe(300, slow=(1, 0)), arm(900))).verdict == "advance"


def test_scores_that_are_not_the_batch_scores_roll_back() -> None:
    decision = decide(GOOD, skew=replace(SAME, apart=60))
    assert decision.verdict == "roll back"
    assert "60 of 500 canary customers were scored more than 0.05 (logit) away" in decision.reason
    assert decide(GOOD, skew=replace(SAME, apart=10)).verdict == "advance"


def test_a_mean_score_outside_its_band_rolls_back_whatever_the_bets_say() -> None:
    decision = decide(GOOD, skew=replace(SAME, online_mean=0.26))
    assert decision.verdict == "roll back"
    assert "its mean score is 0.260 online and 0.200 in batch for the same rows of 500 customers" in decision.reason
    assert decide(GOOD, skew=replace(SAME, online_mean=float("nan"))).verdict == "roll back"
    few = replace(SAME, online_mean=0.26, customers=99, compared=99)
    assert decide(GOOD, skew=few).verdict == "hold"


@pytest.mark.parametrize("canary", [330, 700])
def test_a_sample_ratio_that_is_not_the_dealt_one_rolls_back(canary: int) -> None:
    decision = decide(stage(0.25, probe(canary), arm(1500)))
    assert decision.verdict == "roll back"
    assert f"sample-ratio mismatch: {canary} of {canary + 1500} new customers went to the canary" in decision.reason


def test_a_bet_that_stands_well_sends_no_more_customers() -> None:
    decision = decide(GOOD, skew=replace(SAME, apart=38))
    assert decision.verdict == "hold"
    assert "not proven" in decision.reason


def test_a_canary_that_fails_every_request_is_killed_before_there_are_enough_customers() -> None:
    canary = ArmCounts(customers=5, failed=5, requests=60, errors=60, timed=5, slow=(2, 0))
    decision = decide(stage(0.05, canary, arm(95)), minutes=0.1)
    assert decision.verdict == "roll back"
    assert decision.reason == "kill switch: 60 of 60 canary requests failed (100%, limit 20%)"


def test_the_kill_switch_waits_for_its_least_requests() -> None:
    canary = ArmCounts(customers=2, failed=2, requests=49, errors=49, timed=2, slow=(1, 0))
    assert decide(stage(0.05, canary, arm(40))).verdict == "hold"


@pytest.mark.parametrize(("champions", "verdict"), [(0, "roll back"), (399, "roll back"), (400, "hold")])
def test_a_canary_that_turns_away_whom_the_champion_would_not_is_killed(champions: int, verdict: str) -> None:
    """A 401 names no customer. Where the champion gives it half as often too, it is the clients' own doing."""
    champion = ArmCounts(requests=800, turned_away=champions)
    decision = decide(stage(0.05, ArmCounts(requests=60, turned_away=60), champion))
    assert decision.verdict == verdict
    if verdict == "roll back":
        assert decision.reason == ("kill switch: 60 of 60 canary requests failed or were turned away (60, seldom by "
                                   "the champion) (100%, limit 20%)")


def test_errors_and_who_was_turned_away_count_together_for_the_kill_switch() -> None:
    assert decide(stage(0.05, ArmCounts(requests=60, errors=6, turned_away=6), arm(40))).verdict == "hold"
    assert decide(stage(0.05, ArmCounts(requests=60, errors=6, turned_away=7), arm(40))).verdict == "roll back"


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


def test_a_difference_within_what_is_harmless_does_not_roll_back_however_many_customers() -> None:
    big = stage(0.5, probe(200_000, 20_000), arm(200_000, 17_500))
    assert decide(big).verdict == "advance"
    assert decide(big, limits=LIMITS.model_copy(update={"max_error_ratio": 1.05})).verdict == "roll back"


def test_a_canary_that_fails_less_never_alarms() -> None:
    values = log_e_values([stage(0.5, probe(500, 0), arm(500, 40))], LIMITS, edges=EDGES, skew=SAME)
    assert values["failed"] < 0


def test_the_coin_of_a_customer_who_was_seen_before_is_what_the_dealing_leaves() -> None:
    """Of customers above 0.05, those below 0.25 become canary: 0.2 of 0.95."""
    assert stage_coin(0.25, None) == 0.25
    assert stage_coin(0.25, 0.05) == pytest.approx(0.2 / 0.95)
    dealt = np.random.default_rng(1).random(100_000)
    left = dealt[dealt >= 0.05]
    assert (left < 0.25).mean() == pytest.approx(stage_coin(0.25, 0.05), abs=0.005)


def test_more_errors_than_the_margin_are_not_excluded_by_few_customers() -> None:
    assert excess_bound((2, 100), (2, 100), alpha=0.05) > LIMITS.max_error_excess
    assert worth(0.0) == 1
