"""The shadow's judge: advance, hold or roll back, from what the champion answered and the shadow did too.

Nobody sees a shadow's answer, so nothing it does can hurt; what it must show is that it answers what the
champion answers, and that its scores are those it gives in batch. How far its scores and decisions are from the
champion's is shown, not judged: after drift they should differ. Nor is its latency: it competes with the champion's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from models.decision import Decision
from models.gates.canary import Evidence, far_apart, too_far, wait
from models.gates.canary_counts import Skew
from models.gates.eprocess import log_share_bet, worth
from models.limits import Rollout

MONITORS: Final = ("missing", "skew")


@dataclass(frozen=True)
class ShadowCounts:
    """Requests the champion answered with a score while the shadow was mirrored, those just under way left out.

    Attributes:
        requests, missing: such requests (of many an even sample), and those without a line of the shadow in the
            prediction log.
        customers, customers_missing: customers at their first such request, and those it is missing for.
        score_difference: mean absolute difference of the two probabilities at customers' first such request, where
            both answered.
        decisions_differ: share of these with another decision.
    """

    requests: int = 0
    missing: int = 0
    customers: int = 0
    customers_missing: int = 0
    score_difference: float | None = None
    decisions_differ: float | None = None


def judge_shadow(
    counts: ShadowCounts, limits: Rollout, *, skew: Skew, minutes_in_stage: float, fault: str | None = None
) -> Decision:
    """Roll back: most of it is missing (kill switch), or more than `max_missing_share` beyond chance at any number of
    looks, or its scores are not its batch scores, or the time is over. Advance: enough customers, few missing, enough
    pairs of scores. Else hold.

    Args:
        fault: why there is no evidence; holds until the time limit.
    """
    if fault:
        return wait("shadow", fault, {}, limits, minutes_in_stage)
    limit = len(MONITORS) / limits.alpha
    e_values = {
        "missing": worth(log_share_bet(counts.customers_missing, counts.customers, limits.max_missing_share)),
        "skew": worth(log_share_bet(skew.apart, skew.customers, limits.max_skew_share)),
    }
    evidence: Evidence = {
        "minutes_in_stage": round(minutes_in_stage, 2), "requests": counts.requests, "missing": counts.missing,
        "customers": counts.customers, "customers_missing": counts.customers_missing,
        "score_difference": counts.score_difference, "decisions_differ": counts.decisions_differ,
        "scores_compared": skew.customers, "scores_apart": skew.apart, "online_mean": round(skew.online_mean, 4),
        "batch_mean": round(skew.batch_mean, 4), "e_limit": limit,
        **{f"{name}_e_value": value for name, value in e_values.items()},
    }
    missing = f"{counts.missing} of {counts.requests} requests the champion answered lack the shadow's answer"
    share = counts.missing / max(counts.requests, 1)
    if counts.requests >= limits.kill_least_requests and share > limits.kill_error_share:
        return Decision("shadow", "roll back", f"kill switch: {missing} ({share:.0%}, limit "
                        f"{limits.kill_error_share:.0%})", evidence)
    if e_values["missing"] >= limit:
        return Decision("shadow", "roll back", f"{missing} ({share:.1%}, tolerated {limits.max_missing_share:.0%} of "
                        f"the customers); e-value {e_values['missing']:,.3g} (limit {limit:g})", evidence)
    if e_values["skew"] >= limit:
        return Decision("shadow", "roll back", (
            f"{skew.apart} of {skew.customers} customers were scored more than {limits.max_skew_logit:g} (logit) away "
            f"from the shadow's own batch score of the same row (tolerated {limits.max_skew_share:.0%}); e-value "
            f"{e_values['skew']:,.3g} (limit {limit:g})"), evidence)
    if too_far(skew, limits):
        return Decision("shadow", "roll back", far_apart(skew, limits), evidence)
    reason = _too_little(counts, limits, skew, missing, share)
    if reason:
        return wait("shadow", reason, evidence, limits, minutes_in_stage)
    return Decision("shadow", "advance", (
        f"{missing}, {skew.apart} of {skew.customers} scores apart from its batch scores (largest e-value "
        f"{max(e_values.values()):.3g}, limit {limit:g}); {_difference(counts)}"), evidence)


def _too_little(counts: ShadowCounts, limits: Rollout, skew: Skew, missing: str, share: float) -> str | None:
    if counts.customers < limits.least_customers:
        return f"{counts.customers} customers asked while it is mirrored, {limits.least_customers} needed"
    if share > limits.max_missing_share:
        return f"{missing} ({share:.1%}, limit {limits.max_missing_share:.0%})"
    if skew.fault:
        return skew.fault
    if skew.compared < limits.least_customers:
        return (f"{skew.compared} customers whose score can be compared with its batch score, "
                f"{limits.least_customers} needed")
    return None


def _difference(counts: ShadowCounts) -> str:
    if counts.score_difference is None or counts.decisions_differ is None:
        return "no score to compare with the champion's"
    return (f"its scores are {counts.score_difference:.3f} from the champion's on average, "
            f"{counts.decisions_differ:.0%} of its decisions are others")
