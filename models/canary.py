"""The canary's judge: advance, hold or roll back, from counts of customers who did not get their arm's answer.

Routing deals customers to the canary with a known share. If the canary is harmless, who fails has
nothing to do with the arm: the arm of a customer at their first failure is a coin with that share.
The bets against that coin (an e-process) may be looked at as often as one likes.

Sources: Lindon & Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022 (arXiv
2011.03567); Ville's inequality; Howard, Ramdas, McAuliffe & Sekhon, Time-uniform confidence sequences
(arXiv 1810.08240); Mantel & Haenszel 1959 for the ratio over stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

from scipy.special import betaincc, betaln

from models.charter import Rollout
from models.decision import Decision

WATCHED: Final[tuple[Literal["failed", "refused"], ...]] = ("failed", "refused")  # each at its part of alpha
_VERB: Final = {"failed": "failed", "refused": "were refused (404 or 422)"}
PRIOR_WEIGHT = 20  # customers' worth of belief that the arm is a fair coin, spread above its share
FEW_FAILURES = (1.0, 100.0)  # Beta prior of a failing share: narrowest where about 1 in 100 or fewer fail


@dataclass(frozen=True)
class ArmCounts:
    """One arm in one stage.

    Attributes:
        customers: distinct customers who asked.
        failed: of these, with at least one request their arm did not answer with a result at once.
        first_failed: of these, whose first failure in the whole rollout this was. A customer is dealt
            once and stays, so a second failure is no new evidence about the deal.
        refused, first_refused: the same for customers told that they are unknown or that their input is bad (404,
            422). Some of that is the customers' own doing, so it never kills at once and advancing does
            not depend on it; a canary that refuses more of them than the champion is broken all the same.
        requests, errors: requests, and those that were answered 5xx, by the other arm, or after a retry.
    """

    customers: int = 0
    failed: int = 0
    first_failed: int = 0
    refused: int = 0
    first_refused: int = 0
    requests: int = 0
    errors: int = 0


@dataclass(frozen=True)
class StageCounts:
    """Both arms in one stage; `share` of the customers were dealt to the canary."""

    share: float
    canary: ArmCounts = field(default_factory=ArmCounts)
    champion: ArmCounts = field(default_factory=ArmCounts)


def judge(
    stages: Sequence[StageCounts], limits: Rollout, *, minutes_in_stage: float, fault: str | None = None
) -> Decision:
    """Decide on the last of `stages`.

    Roll back: the canary fails outright (kill switch); or its customers fail more often than the
    champion's, beyond chance at any number of looks (`alpha`) and by `max_error_ratio`; or the stage's
    time is over. Advance: enough customers in both arms, and the canary's failing share is shown to
    exceed the champion's by less than `max_error_excess`; that no alarm rang is not enough. Else hold.

    Args:
        stages: all stages so far, the present one last.
        fault: why there is no evidence (missing or unreadable log); holds until the time limit.
    """
    if fault or not stages:
        return _wait(fault or "no stage was counted", {}, limits, minutes_in_stage)
    here = stages[-1]
    canary, champion = here.canary, here.champion
    limit, excess = len(WATCHED) / limits.alpha, excess_bound(here, alpha=limits.alpha)
    evidence: dict[str, float | int | str | None] = {
        "share": here.share, "minutes_in_stage": round(minutes_in_stage, 2),
        **{f"{arm}_{name}": getattr(counts, name) for arm, counts in (("canary", canary), ("champion", champion))
           for name in ("customers", "failed", "refused", "requests", "errors")},
        "share_seen": round(canary.customers / max(canary.customers + champion.customers, 1), 4),
        "e_limit": limit, "excess_bound": round(excess, 4),
    }
    seen = (f"{canary.failed} of {canary.customers} canary customers and {champion.failed} of {champion.customers} "
            f"champion customers failed at {here.share:.0%}")
    if canary.requests >= limits.kill_least_requests and canary.errors > limits.kill_error_share * canary.requests:
        return Decision("canary", "roll back", (
            f"kill switch: {canary.errors} of {canary.requests} canary requests failed "
            f"({canary.errors / canary.requests:.0%}, limit {limits.kill_error_share:.0%})"), evidence)
    for what in WATCHED:
        e_value, ratio = math.exp(min(log_e_value(stages, what), 700.0)), share_ratio(stages, what)
        evidence |= {f"{what}_e_value": float(f"{e_value:.4g}"),
                     f"{what}_ratio": None if math.isinf(ratio) else round(ratio, 3)}
        if e_value >= limit and ratio >= limits.max_error_ratio:
            return Decision("canary", "roll back", (
                f"{getattr(canary, what)} of {canary.customers} canary customers and {getattr(champion, what)} of "
                f"{champion.customers} champion customers {_VERB[what]} at {here.share:.0%}: {_times(ratio)} the "
                f"champion's share (limit {limits.max_error_ratio:g}), e-value {e_value:,.3g} (limit {limit:g})"),
                evidence)
    fewest = min(canary.customers, champion.customers)
    if fewest < limits.least_customers:
        return _wait(f"{canary.customers} canary and {champion.customers} champion customers at {here.share:.0%}, "
                     f"{limits.least_customers} needed in each", evidence, limits, minutes_in_stage)
    if excess > limits.max_error_excess:
        return _wait(f"{seen}; more failures than the champion's up to {excess:.1%} cannot be excluded "
                     f"(limit {limits.max_error_excess:.1%}; without a failure "
                     f"{customers_needed(limits.alpha, limits.max_error_excess)} customers would do)",
                     evidence, limits, minutes_in_stage)
    return Decision("canary", "advance", (
        f"{seen}: an excess above {excess:.1%} is excluded (limit {limits.max_error_excess:.1%}), e-values "
        f"{evidence['failed_e_value']:.3g} and {evidence['refused_e_value']:.3g} (limit {limit:g})"), evidence)


def log_e_value(stages: Sequence[StageCounts], what: Literal["failed", "refused"] = "failed") -> float:
    """Log of the bets' worth against "a first failure falls on the canary with the stage's share".

    In each stage a Beta prior around the share, cut to the side where the canary fails more often, is
    the bet on the canary's chance; worths multiply over stages, each with a share of its own. Under a
    harmless canary it exceeds `1/alpha` at any time with probability `alpha` at most (Ville).
    """
    return sum(_log_bet(getattr(stage.canary, f"first_{what}"), getattr(stage.champion, f"first_{what}"), stage.share)
               for stage in stages)


def _log_bet(canary: int, champion: int, share: float) -> float:
    if not canary + champion:
        return 0.0
    a, b = share * PRIOR_WEIGHT, (1 - share) * PRIOR_WEIGHT
    log_e = (betaln(a + canary, b + champion) - betaln(a, b) - canary * math.log(share)
             - champion * math.log1p(-share)
             + _log_above(share, a + canary, b + champion) - _log_above(share, a, b))
    return max(float(log_e), -700.0)  # a bet lost beyond what a float can hold is lost, not undefined


def _log_above(share: float, a: float, b: float) -> float:
    above = float(betaincc(a, b, share))
    return math.log(above) if above > 0 else -700.0


def share_ratio(stages: Sequence[StageCounts], what: Literal["failed", "refused"] = "failed") -> float:
    """Share of such customers, canary over champion, stage by stage (Mantel-Haenszel); inf where only the canary has
    any, 1 where nobody does."""
    above = below = 0.0
    for stage in stages:
        total = stage.canary.customers + stage.champion.customers
        if total:
            above += getattr(stage.canary, what) * stage.champion.customers / total
            below += getattr(stage.champion, what) * stage.canary.customers / total
    if below == 0:
        return math.inf if above > 0 else 1.0
    return above / below


def excess_bound(stage: StageCounts, *, alpha: float) -> float:
    """Upper bound of the canary's failing share minus the champion's, valid at every look, error `alpha`.

    The upper end of the canary's confidence sequence minus the lower end of the champion's, `alpha / 2` each.
    """
    upper = share_bound(stage.canary.failed, stage.canary.customers, alpha=alpha / 2, upper=True)
    lower = share_bound(stage.champion.failed, stage.champion.customers, alpha=alpha / 2, upper=False)
    return upper - lower


def share_bound(failed: int, customers: int, *, alpha: float, upper: bool) -> float:
    """End of the Beta-mixture confidence sequence of a share: where the mixture beats the share by `1/alpha`."""
    if customers == 0:
        return 1.0 if upper else 0.0
    a, b = FEW_FAILURES
    mixture = float(betaln(a + failed, b + customers - failed) - betaln(a, b)) + math.log(alpha)

    def excluded(share: float) -> bool:
        kept = customers - failed
        log_likelihood = (failed * math.log(share) if failed else 0.0) + (kept * math.log1p(-share) if kept else 0.0)
        return mixture >= log_likelihood

    inside, outside = failed / customers, 1.0 if upper else 0.0
    for _ in range(50):
        middle = (inside + outside) / 2
        if middle in (0.0, 1.0) or not excluded(middle):
            inside = middle
        else:
            outside = middle
    return outside


@lru_cache(maxsize=16)
def customers_needed(alpha: float, max_error_excess: float) -> int:
    """Canary customers with which a canary without any failure is shown to be no worse."""
    least = 1
    while share_bound(0, least, alpha=alpha / 2, upper=True) > max_error_excess:
        least += max(1, least // 50)
    return least


def _wait(reason: str, evidence: dict[str, float | int | str | None], limits: Rollout, minutes: float) -> Decision:
    if minutes >= limits.time_limit_minutes:
        return Decision("canary", "roll back", f"not enough evidence within {limits.time_limit_minutes:g} minutes: "
                        + reason, {**evidence, "minutes_in_stage": round(minutes, 2)})
    return Decision("canary", "hold", f"{reason} ({minutes:.0f} of at most {limits.time_limit_minutes:g} minutes)",
                    {**evidence, "minutes_in_stage": round(minutes, 2)})


def _times(ratio: float) -> str:
    return "infinitely many times" if math.isinf(ratio) else f"{ratio:.1f} times"
