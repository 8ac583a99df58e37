"""Go or no-go at the end of design, of development and of deployment: three verdicts of the gate `go`.

Design asks whether the data could ever show what the charter claims, and whether the claim pays. Development
asks whether the model is there and reaches what each role asked for. Deployment says how the rollout ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from statistics import NormalDist

from models.card.key_metrics import KeyMetric
from models.charter import Charter
from models.decision import Decision

POWER = 0.8  # chance of seeing a true effect, as is usual (Cohen, Statistical Power Analysis, 1988, section 2.4)
BISECTIONS = 60


@dataclass(frozen=True)
class MatureData:
    """Counts of the rows a training would use."""

    train_rows: int
    train_churners: int
    test_rows: int
    test_churners: int
    train_cuts: int
    test_cuts: int


def smallest_detectable(*, churners: int, at_random: float, confidence: float, power: float = POWER) -> float:
    """The least share of churners found that a test of so many churners tells from contacting at random.

    One proportion against a known one, two-sided, normal approximation (Fleiss, Levin & Paik, Statistical Methods
    for Rates and Proportions, 3rd edition, section 2.5). 1 where no share can be told; NaN without churners.

    Args:
        churners: in the test rows.
        at_random: share a random choice of the contact budget finds: budget over rows.
    """
    if churners <= 0 or not 0 <= at_random <= 1:
        return float("nan")
    normal = NormalDist()
    level, beta = normal.inv_cdf(1 - (1 - confidence) / 2), normal.inv_cdf(power)

    def told(share: float) -> bool:
        noise = level * sqrt(at_random * (1 - at_random)) + beta * sqrt(share * (1 - share))
        return (share - at_random) * sqrt(churners) >= noise

    low, high = at_random, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if told(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Reach:
    """What the contact budget can do at one cut; NaN where there are no rows or no churners."""

    rows: float
    churners: float
    at_random: float  # share of churners a random choice finds
    at_most: float  # share a perfect model finds
    smallest: float  # least share that can be told from chance

    @staticmethod
    def of(charter: Charter, data: MatureData) -> Reach:
        rows, churners = (count / max(data.test_cuts, 1) for count in (data.test_rows, data.test_churners))
        budget = charter.value.contact_budget
        at_random = min(1.0, budget / rows) if rows else float("nan")
        return Reach(rows, churners, at_random, min(1.0, budget / churners) if churners else float("nan"),
                     smallest_detectable(churners=data.test_churners, at_random=at_random,
                                         confidence=charter.promotion.confidence))


def judge_design(charter: Charter, data: MatureData) -> Decision:
    """Is there enough mature data for the charter's claim, can the claim come true, and would it pay?"""
    value, reach = charter.value, Reach.of(charter, data)
    evidence: dict[str, float | int | str | None] = {
        "stage": "design", **asdict(data), "share_claimed": value.share_found, "claim": value.monthly,
        "cost": charter.cost_a_month, "at_stake": value.at_stake,
        **{f"share_{name}": share if isfinite(share) else None for name, share in (
            ("at_random", reach.at_random), ("at_most", reach.at_most), ("smallest_detectable", reach.smallest))},
    }
    faults = _too_little(charter, data)
    if not faults:  # without churners the others say nothing
        faults = _unreachable(charter, data, reach)
    faults += _unpaid(charter)
    if faults:
        return Decision("go", "no go", f"design: {'; '.join(faults)}", evidence)
    return Decision("go", "go", (
        f"design: {data.train_rows:,} mature labels of {data.train_cuts} cuts with {data.train_churners:,} churners; "
        f"the claim of {value.share_found:.1%} found can be told from {reach.at_random:.1%} at random (smallest share "
        f"that can: {reach.smallest:.1%}); {value.monthly:,.0f} a month against {charter.cost_a_month:,.0f} of cost"),
        evidence)


def _too_little(charter: Charter, data: MatureData) -> list[str]:
    needs, least_test_rows = charter.training, charter.promotion.least_test_rows
    rarer = min(data.train_churners, data.test_churners, data.train_rows - data.train_churners,
                data.test_rows - data.test_churners)
    faults = []
    if not data.train_rows >= needs.least_rows:
        faults.append(f"{data.train_rows:,} mature training labels, needed are {needs.least_rows:,}")
    if not rarer >= needs.least_churners:
        faults.append(f"{rarer:,} rows of the rarer class in training or test, needed are {needs.least_churners:,}")
    if not data.test_rows >= least_test_rows:
        faults.append(f"{data.test_rows:,} test rows, needed are {least_test_rows:,}")
    return faults


def _unreachable(charter: Charter, data: MatureData, reach: Reach) -> list[str]:
    claimed, budget = charter.value.share_found, charter.value.contact_budget
    if not reach.at_random < 1:
        return [f"the budget of {budget:,} contacts reaches all {reach.rows:,.0f} customers of a cut, so every model "
                "finds every churner"]
    faults = []
    if not claimed <= reach.at_most:
        faults.append(f"the charter claims that {claimed:.1%} of the churners are found, but {budget:,} contacts reach "
                      f"{reach.at_most:.1%} of {reach.churners:,.0f} at most")
    if not claimed >= reach.smallest:
        faults.append(f"the claim of {claimed:.1%} found cannot be told from {reach.at_random:.1%} by contacting at "
                      f"random: with {data.test_churners:,} churners the smallest share that can is "
                      f"{reach.smallest:.1%}")
    return faults


def _unpaid(charter: Charter) -> list[str]:
    claim, cost, budget = charter.value.monthly, charter.cost_a_month, charter.requirements.budget_a_month
    faults = []
    if not claim > cost:
        faults.append(f"the claim of {claim:,.0f} a month does not pay for {cost:,.0f} of contacts and running")
    if budget is not None and not cost <= budget:
        faults.append(f"contacts and running cost {cost:,.0f} a month, the budget is {budget:,.0f}")
    return faults


def judge_development(promotion: Decision, metrics: Sequence[KeyMetric], *, live: bool) -> Decision:
    """Is there a model worth deploying, and does it reach what each role asks?

    A first model must reach every level asked. Where a champion is live, one that earns more goes in its place even
    if it misses a level: keeping the champion would miss it by more. What is missed is named either way.

    Args:
        live: a champion serves.
    """
    asked = [one for one in metrics if one.asked is not None]
    missed = [one for one in asked if not one.met]
    evidence: dict[str, float | int | str | None] = {
        "stage": "development", "asked": len(asked), "missed": len(missed),
        **{f"measured_{one.name}": one.measured.value if isfinite(one.measured.value) else None for one in metrics},
    }
    told = "; ".join(one.text for one in missed)
    if promotion.verdict != "promote":
        return Decision("go", "no go", f"development: {promotion.verdict}: {promotion.reason}", evidence)
    if missed and not live:
        return Decision("go", "no go", f"development: {len(missed)} of {len(asked)} levels asked are not reached: "
                        f"{told}. Mend the model or the charter, or release it by hand", evidence)
    if missed:
        return Decision("go", "go", f"development: it earns more than the champion, though it misses {told}", evidence)
    return Decision("go", "go", f"development: promoted, and all {len(asked)} levels asked are reached" if asked else
                    "development: promoted; the charter asks for no level", evidence)


def judge_deployment(ended: Decision) -> Decision | None:
    """What the end of a rollout means; None for a verdict that ends none."""
    if ended.gate != "release":
        return None
    evidence: dict[str, float | int | str | None] = {"stage": "deployment", **ended.evidence}
    if ended.verdict == "release":
        return Decision("go", "go", f"deployment: {ended.reason}", evidence)
    return Decision("go", "no go", f"deployment: {ended.reason}", evidence)
