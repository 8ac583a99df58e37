"""The canary's judge: advance, hold or roll back, from counts of customers in both arms (`canary_counts`).

If the canary is harmless, the arm of a customer to whom something happens is a coin of known share. Each monitor bets
against that with its part of `alpha` (`eprocess`): whoever looks, however often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

from models.decision import Decision
from models.gates.canary_counts import ArmCounts, Edges, Skew, StageCounts, slow_beyond
from models.gates.eprocess import (
    ANY,
    FEW,
    Coins,
    excess_bound,
    log_mean_exp,
    log_ratio_bet,
    log_seldom_bet,
    log_share_bet,
    log_slow_bet,
    share_bound,
    worth,
)
from models.limits import Rollout

MONITORS: Final = ("failed", "refused", "slow", "skew", "sample_ratio")  # each at its part of alpha
SUSPECT: Final = 3.0  # a bet that stands this well is no time to send more customers
SELDOM: Final = 0.1  # the champion is slower this often at most: latencies at which a canary must be shown no worse
Evidence = dict[str, float | int | str | None]


def judge(
    stages: Sequence[StageCounts], limits: Rollout, *, edges: Edges, skew: Skew, minutes_in_stage: float,
    fault: str | None = None,
) -> Decision:
    """Decide on the last of `stages`.

    Roll back: the canary fails outright, or turns away whom the champion does not (kill switch); or one of `MONITORS`
    is worth more than `len(MONITORS) / alpha`, whatever the number of looks; or the canary's mean score is far from its
    batch scores'; or the stage's time is over. Advance: enough customers in both arms, enough of them with a latency
    and a pair of scores, and the canary shown to be no worse (`max_error_excess`, `max_slow_excess`); that no alarm
    rang is not enough. Else hold.

    Args:
        stages: all stages so far, the present one last.
        fault: why there is no evidence (missing or unreadable log); holds until the time limit.
    """
    if fault or not stages:
        return wait("canary", fault or "no stage was counted", {}, limits, minutes_in_stage)
    here = stages[-1]
    canary = here.canary
    limit = len(MONITORS) / limits.alpha
    e_values = {name: worth(log_e) for name, log_e in log_e_values(stages, limits, edges=edges, skew=skew).items()}
    evidence = _shown(here, skew, e_values, limit, minutes_in_stage)
    turned_away = _turned_away(here)
    lost = canary.errors + turned_away
    if canary.requests >= limits.kill_least_requests and lost > limits.kill_error_share * canary.requests:
        also = f" or were turned away ({turned_away}, seldom by the champion)" if turned_away else ""
        return Decision("canary", "roll back", (
            f"kill switch: {lost} of {canary.requests} canary requests failed{also} "
            f"({lost / canary.requests:.0%}, limit {limits.kill_error_share:.0%})"), evidence)
    for name, e_value in e_values.items():
        if e_value >= limit:
            return Decision("canary", "roll back", f"{_alarm(name, here, limits, edges, skew)}; e-value {e_value:,.3g} "
                            f"(limit {limit:g})", evidence)
    if too_far(skew, limits):
        return Decision("canary", "roll back", far_apart(skew, limits), evidence)
    reason = (_missing(here, limits, skew) or _not_shown(here, limits, edges, evidence)
              or _suspected(e_values, here, limits, edges, skew))
    if reason:
        return wait("canary", reason, evidence, limits, minutes_in_stage)
    return Decision("canary", "advance", (
        f"{_failures(here)}, {skew.apart} of {skew.customers} scores apart at {here.share:.0%}: more failures than "
        f"{evidence['excess_bound']:.1%} and more slow answers than {evidence['slow_excess_bound']:.1%} above the "
        f"champion's are excluded (limits {limits.max_error_excess:.1%}, {limits.max_slow_excess:.1%}); largest "
        f"e-value {max(e_values.values()):.3g} (limit {limit:g})"), evidence)


def log_e_values(
    stages: Sequence[StageCounts], limits: Rollout, *, edges: Edges, skew: Skew
) -> dict[str, float]:
    """Log worth of each monitor's bets over all stages, by name."""
    fresh = [stage.first_seen for stage in stages if stage.first_seen]
    by_edge = [
        log_slow_bet([coins for stage in stages if stage.slow for coins in stage.slow[edge]],
                     [coins for stage in stages if stage.fast for coins in stage.fast[edge]], share)
        for edge, share in enumerate(edges.slow_share)
    ]
    return {
        "failed": log_ratio_bet([coins for stage in stages for coins in stage.failed], limits.max_error_ratio),
        "refused": log_ratio_bet([coins for stage in stages for coins in stage.refused], limits.max_error_ratio),
        "slow": log_mean_exp(by_edge) if by_edge else 0.0,
        "skew": log_share_bet(skew.apart, skew.customers, limits.max_skew_share),
        "sample_ratio": log_mean_exp([log_ratio_bet(fresh, limits.max_sample_ratio),
                                      log_seldom_bet(fresh, limits.max_sample_ratio)]),
    }


def too_far(skew: Skew, limits: Rollout) -> bool:
    """Whether the mean score lies outside the absolute band; few customers prove no mean."""
    gap = abs(skew.online_mean - skew.batch_mean)
    return skew.customers >= limits.least_customers and not gap <= limits.max_score_gap


def far_apart(skew: Skew, limits: Rollout) -> str:
    return (f"its mean score is {skew.online_mean:.3f} online and {skew.batch_mean:.3f} in batch for the same rows of "
            f"{skew.customers} customers (limit of the difference {limits.max_score_gap:g})")


def wait(
    gate: Literal["canary", "shadow"], reason: str, evidence: Evidence, limits: Rollout, minutes: float
) -> Decision:
    """Hold, but not for ever."""
    evidence = {**evidence, "minutes_in_stage": round(minutes, 2)}
    if minutes >= limits.time_limit_minutes:
        return Decision(gate, "roll back", f"not enough evidence within {limits.time_limit_minutes:g} minutes: "
                        + reason, evidence)
    return Decision(gate, "hold", f"{reason} ({minutes:.0f} of at most {limits.time_limit_minutes:g} minutes)",
                    evidence)


@lru_cache(maxsize=16)
def customers_needed(alpha: float, max_error_excess: float) -> int:
    """Canary customers with which a canary without any failure is shown to be no worse."""
    least = 1
    while share_bound(0, least, alpha=alpha / 2, upper=True) > max_error_excess:
        least += max(1, least // 50)
    return least


def _turned_away(here: StageCounts) -> int:
    """The canary's, where the champion turns away less than half as large a share; else it is the clients' doing."""
    canary, champion = here.canary, here.champion
    more = canary.turned_away * champion.requests > 2 * champion.turned_away * canary.requests
    return canary.turned_away if more or not champion.requests else 0


@lru_cache(maxsize=64)
def timed_needed(alpha: float, max_slow_excess: float, share: float) -> int:
    """Canary customers with which one that is slow as seldom as the champion is shown to be no slower."""
    least = 10
    while True:
        usual, others = round(SELDOM * least), round(least * (1 - share) / share)
        bound = excess_bound((usual, least), (round(SELDOM * others), others), alpha=alpha, prior=ANY)
        if bound <= max_slow_excess or least > 1_000_000:
            return least
        least += max(1, least // 50)


def _missing(here: StageCounts, limits: Rollout, skew: Skew) -> str | None:
    """What there is too little of to say anything."""
    canary, champion, least = here.canary, here.champion, limits.least_customers
    if min(canary.customers, champion.customers) < least:
        return (f"{canary.customers} canary and {champion.customers} champion customers at {here.share:.0%}, "
                f"{least} needed in each")
    if min(canary.timed, champion.timed) < least:
        return (f"latencies of {canary.timed} canary and {champion.timed} champion customers at {here.share:.0%}, "
                f"{least} needed in each")
    if skew.fault:
        return skew.fault
    if skew.compared < least:
        return (f"{skew.compared} canary customers at {here.share:.0%} whose score can be compared with its batch "
                f"score, {least} needed")
    return None


def _not_shown(here: StageCounts, limits: Rollout, edges: Edges, evidence: Evidence) -> str | None:
    """What is not excluded yet; writes the bounds into `evidence`."""
    canary, champion = here.canary, here.champion
    excess = excess_bound((canary.failed, canary.customers), (champion.failed, champion.customers),
                          alpha=limits.alpha, prior=FEW)
    at_edge = list(zip(canary.slow, champion.slow, edges.us, strict=True))
    seldom = [one for one in at_edge if one[1] <= SELDOM * champion.timed] or at_edge[-1:]  # slower than it was
    bounds = [(excess_bound((slow, canary.timed), (usual, champion.timed), alpha=limits.alpha, prior=ANY), us)
              for slow, usual, us in seldom]
    slow_excess, us = max(bounds, default=(1.0, math.nan))
    evidence |= {"excess_bound": round(excess, 4), "slow_excess_bound": round(slow_excess, 4)}
    if excess > limits.max_error_excess:
        needed = customers_needed(limits.alpha, limits.max_error_excess)
        return (f"{_failures(here)}; more failures than the champion's up to {excess:.1%} cannot be excluded (limit "
                f"{limits.max_error_excess:.1%}; without a failure {needed} customers would do)")
    if slow_excess > limits.max_slow_excess:
        needed = timed_needed(limits.alpha, limits.max_slow_excess, round(here.share, 2))
        return (f"{canary.timed} canary customers at {here.share:.0%}: more answers slower than {us / 1000:.1f} ms "
                f"than the champion's up to {slow_excess:.1%} cannot be excluded (limit {limits.max_slow_excess:.1%}; "
                f"as fast as the champion, {needed} customers would do)")
    return None


def _suspected(
    e_values: dict[str, float], here: StageCounts, limits: Rollout, edges: Edges, skew: Skew
) -> str | None:
    name = max(e_values, key=lambda one: e_values[one])
    return (f"{_alarm(name, here, limits, edges, skew)}: not proven, e-value {e_values[name]:.3g} (below {SUSPECT:g} "
            "goes on)" if e_values[name] >= SUSPECT else None)


def _shown(
    here: StageCounts, skew: Skew, e_values: dict[str, float], limit: float, minutes: float
) -> Evidence:
    arms = (("canary", here.canary), ("champion", here.champion))
    first = here.first_seen
    return {
        "share": here.share, "minutes_in_stage": round(minutes, 2),
        **{f"{arm}_{name}": getattr(counts, name) for arm, counts in arms
           for name in ("customers", "failed", "refused", "requests", "errors", "timed", "turned_away")},
        "share_seen": round(first.canary / max(first.canary + first.champion, 1), 4) if first else None,
        "scores_compared": skew.customers, "scores_apart": skew.apart,
        "online_mean": round(skew.online_mean, 4), "batch_mean": round(skew.batch_mean, 4),
        "e_limit": limit, **{f"{name}_e_value": value for name, value in e_values.items()},
    }


def _failures(here: StageCounts) -> str:
    return (f"{here.canary.failed} of {here.canary.customers} canary customers and {here.champion.failed} of "
            f"{here.champion.customers} champion customers failed at {here.share:.0%}")


def _alarm(name: str, here: StageCounts, limits: Rollout, edges: Edges, skew: Skew) -> str:
    canary, champion = here.canary, here.champion
    if name == "failed":
        return f"{_failures(here)}, beyond {limits.max_error_ratio:g} times the champion's share"
    if name == "refused":
        return (f"{canary.refused} of {canary.customers} canary customers and {champion.refused} of "
                f"{champion.customers} champion customers were refused (4xx) at {here.share:.0%}, beyond "
                f"{limits.max_error_ratio:g} times the champion's share")
    if name == "skew":
        return (f"{skew.apart} of {skew.customers} canary customers were scored more than {limits.max_skew_logit:g} "
                f"(logit) away from its own batch score of the same row (tolerated {limits.max_skew_share:.0%})")
    if name == "slow":
        edge = max(range(len(edges.us)), key=lambda one: _share(canary, one) - _share(champion, one))
        return (f"{canary.slow[edge]} of {canary.timed} canary customers waited longer than "
                f"{slow_beyond(edges.us[edge], limits) / 1000:.1f} ms and {champion.slow[edge]} of {champion.timed} "
                f"champion customers longer than {edges.us[edge] / 1000:.1f} ms, at {here.share:.0%}")
    first = here.first_seen or Coins(here.share)
    return (f"sample-ratio mismatch: {first.canary} of {first.canary + first.champion} new customers went to the "
            f"canary, {here.share:.0%} were dealt to it")


def _share(arm: ArmCounts, edge: int) -> float:
    return arm.slow[edge] / max(arm.timed, 1)
