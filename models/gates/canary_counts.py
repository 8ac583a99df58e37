"""What the canary's judge counts: customers in both arms, stage by stage, and the coins their dealing threw.

Routing deals customers by a number of their own, fixed for the rollout: below the stage's share, canary. If the
canary is harmless, what happens to a customer has nothing to do with that number. So the arm of a customer to whom
something happens (a failure, a refusal, a slow answer, a first visit) is a coin of known share.

Which coin (`stage_coin`): a customer never seen before a stage is a coin of the stage's share. One seen before only
as a champion customer is known to lie above the earlier share, so in the new stage a coin of what is left; one seen
as canary stays canary and is no coin at all. Within a stage a customer counts once for each kind of event. So every
coin is fair given all that was known when its stage opened, however the judge chose that moment, and worths
multiply. Counting a returning customer as a coin of the whole share would call a fair deal unfair.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from models.gates.eprocess import Coins
from models.limits import Rollout


@dataclass(frozen=True)
class Edges:
    """Latencies above which a customer's first request in a stage is slow, fixed before the rollout is looked at.

    Attributes:
        us: microseconds, rising.
        slow_share: how often the champion was slower before the rollout; None where it had too little traffic.
    """

    us: tuple[float, ...]
    slow_share: tuple[float | None, ...]


@dataclass(frozen=True)
class ArmCounts:
    """One arm in one stage.

    Attributes:
        customers: distinct customers who asked.
        failed: of these, with at least one request their arm did not answer with a result at once.
        refused: of these, told that they are unknown, that their input is bad, or anything else that is neither a
            score nor an error (404, 422, 415). Some of that is the customers' own doing, so it never kills at once
            and advancing does not depend on it.
        requests, errors: requests, and those that were answered 5xx, by the other arm, or after a retry.
        timed: customers whose first request in the stage has a latency.
        slow: of these, above each edge; in the canary above what `slow_beyond` makes of it.
        turned_away: requests that got neither a score nor an error, and no customer in the answer (401): no customer
            can be counted for them.
    """

    customers: int = 0
    failed: int = 0
    refused: int = 0
    requests: int = 0
    errors: int = 0
    timed: int = 0
    slow: tuple[int, ...] = ()
    turned_away: int = 0


@dataclass(frozen=True)
class StageCounts:
    """Both arms in one stage, and the coins thrown in it; `slow` and `fast` have one entry an edge."""

    share: float
    canary: ArmCounts = field(default_factory=ArmCounts)
    champion: ArmCounts = field(default_factory=ArmCounts)
    failed: tuple[Coins, ...] = ()
    refused: tuple[Coins, ...] = ()
    slow: tuple[tuple[Coins, ...], ...] = ()
    fast: tuple[tuple[Coins, ...], ...] = ()
    first_seen: Coins | None = None  # customers never seen before in the rollout


@dataclass(frozen=True)
class Skew:
    """A release's scores as it answered, against its own batch scores of the same rows.

    Attributes:
        compared: customers of the present stage with such a pair.
        customers, apart: customers of the whole rollout at their first pair, and those more than `max_skew_logit`
            apart.
        online_mean, batch_mean: of all pairs of the rollout.
        fault: why there are none, or too few.
    """

    compared: int = 0
    customers: int = 0
    apart: int = 0
    online_mean: float = 0.0
    batch_mean: float = 0.0
    fault: str | None = None


def slow_beyond(edge_us: float, limits: Rollout) -> float:
    """Microseconds above which a canary is slow where its champion is above `edge_us`."""
    return max(edge_us * limits.max_latency_ratio, edge_us + 1000 * limits.max_latency_ms)


def stage_coin(share: float, seen_at: float | None) -> float:
    """Share of the coin of a customer who was last seen, as a champion customer, in a stage of share `seen_at`."""
    return share if seen_at is None else (share - seen_at) / (1 - seen_at)
