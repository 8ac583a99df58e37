"""Evidence stage. Reads Envoy's access log; answers with counts per arm and stage of one rollout.

Each look reads the rollout's lines anew, from where it began: nothing is kept between looks that could be wrong,
and a day of 100 requests a minute is a second's work. What a look holds grows with the customers, not with the lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from models.errors import DataError
from models.gates.canary_counts import ArmCounts, Edges, StageCounts, slow_beyond, stage_coin
from models.gates.eprocess import Coins
from models.limits import Rollout
from tasks.home import Home
from tasks.release.prediction_lines import RequestSample
from tasks.release.router_lines import Line, read_lines
from tasks.release.routing import CANARY_ARM

WAITED_MS: Final = 1000  # a client that left after so long had waited for a whole try


@dataclass(frozen=True)
class Evidence:
    """What the log says, or in `fault` why it says nothing.

    Attributes:
        answered: request id -> customer (HMAC) of what the canary itself answered with a score: each customer's first
            of each stage, in the log's order.
        first_of_stage: where in `answered` the present stage begins.
        sample: ids of such requests, first ones or not: all, or an even sample of many.
    """

    stages: Sequence[StageCounts]
    answered: Mapping[str, str] = field(default_factory=dict)
    first_of_stage: int = 0
    sample: Set[str] = frozenset()
    fault: str | None = None


@dataclass
class _Arm:
    customers: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    first_us: dict[str, float] = field(default_factory=dict)  # latency of a customer's first request in the stage
    requests: int = 0
    errors: int = 0
    turned_away: int = 0


@dataclass
class _Stage:
    canary: _Arm = field(default_factory=_Arm)
    champion: _Arm = field(default_factory=_Arm)
    answered: dict[str, str] = field(default_factory=dict)  # customer -> the first request the canary answered


def read_evidence(
    home: Home, rollout_id: str, shares: Sequence[float], *, canary_id: str, edges: Edges, limits: Rollout,
    start: Mapping[str, Any] | None = None,
) -> Evidence:
    """Count one rollout's requests by arm and stage.

    A request belongs to the stage whose route dealt it (the route names rollout and share), whatever the
    clock says. It is an error when its arm did not answer it at the first try with less than 500: so
    a request that was dealt to the canary and answered by the champion is the canary's error.
    Requests of nobody in particular (no customer in the answer) count as requests only, and as `turned_away`.

    Args:
        shares: the stages so far, the present one last.
        canary_id: the canary's release id.
        start: where in the log the rollout began (`router_lines.opening_evidence`).
    """
    by_stage = {f"{share:g}": _Stage() for share in shares}
    sample = RequestSample()
    try:
        for line in read_lines(home, rollout_id, start or {}):
            if line.get("share") in by_stage:
                _count(line, by_stage[line["share"]], sample, canary_id)
    except DataError as error:
        return Evidence((), fault=str(error))
    answered: dict[str, str] = {}
    first_of_stage = 0
    for stage in by_stage.values():
        first_of_stage = len(answered)
        answered |= {request_id: customer for customer, request_id in stage.answered.items()}
    counts = list(_stage_counts(list(map(float, by_stage)), list(by_stage.values()), edges, limits))
    return Evidence(counts, answered, first_of_stage, sample.ids)


def _count(line: Line, stage: _Stage, sample: RequestSample, canary_id: str) -> None:
    on_canary = str(line.get("cluster")).startswith(f"{CANARY_ARM}/")
    arm = stage.canary if on_canary else stage.champion
    code, attempts, customer = line["code"], line["attempts"], line.get("customer")
    left = code == 0  # the client hung up
    elsewhere = on_canary and attempts > 0 and not left and line.get("answered_by") != canary_id
    error = code >= 500 or attempts > 1 or (left and line["ms"] >= WAITED_MS) or elsewhere
    if not attempts and not error:
        return  # refused by the router itself: a body too large, a client that left at once
    arm.requests += 1
    arm.errors += error
    if not customer:
        arm.turned_away += code != 200 and not error and not left
        return
    if customer not in arm.customers:
        arm.customers.add(customer)
        if isinstance(line.get("us"), int):  # a first request without it has none: the second would be another's
            arm.first_us[customer] = line["us"]
    if error:
        arm.failed.add(customer)
    elif code != 200 and not left:
        arm.refused.add(customer)
    if on_canary and code == 200 and not elsewhere and line.get("request_id"):
        stage.answered.setdefault(customer, line["request_id"])
        sample.add(line["request_id"])


def _stage_counts(
    shares: Sequence[float], stages: Sequence[_Stage], edges: Edges, limits: Rollout
) -> Iterator[StageCounts]:
    """Coins by what was known of a customer when the stage opened (`models.gates.canary_counts`)."""
    canary_before: set[str] = set()
    seen_at: dict[str, float] = {}  # share of the stage in which a customer last was a champion customer
    for share, stage in zip(shares, stages, strict=True):
        canary, champion = stage.canary, stage.champion
        thrown = _Throws(share, canary_before, seen_at)
        both = (canary, champion)
        slow: list[tuple[set[str], set[str]]] = [
            ({one for one, us in canary.first_us.items() if us > slow_beyond(edge, limits)},
             {one for one, us in champion.first_us.items() if us > edge}) for edge in edges.us]
        fast = [(canary.first_us.keys() - slow_canary, champion.first_us.keys() - slow_champion)
                for slow_canary, slow_champion in slow]
        fresh = [sum(one not in canary_before and one not in seen_at for one in arm.customers) for arm in both]
        counts = [
            ArmCounts(len(arm.customers), len(arm.failed), len(arm.refused), arm.requests, arm.errors,
                      len(arm.first_us), tuple(len(one[at]) for one in slow), arm.turned_away)
            for at, arm in enumerate(both)]
        yield StageCounts(
            share, canary=counts[0], champion=counts[1],
            failed=thrown.coins(canary.failed, champion.failed),
            refused=thrown.coins(canary.refused, champion.refused),
            slow=tuple(thrown.coins(*one) for one in slow), fast=tuple(thrown.coins(*one) for one in fast),
            first_seen=Coins(share, fresh[0], fresh[1]))
        canary_before |= canary.customers
        seen_at |= dict.fromkeys(champion.customers, share)


@dataclass(frozen=True)
class _Throws:
    share: float
    canary_before: set[str]
    seen_at: Mapping[str, float]

    def coins(self, canary: set[str], champion: set[str]) -> tuple[Coins, ...]:
        counts: dict[float | None, list[int]] = {}
        for arm, customers in enumerate((canary, champion)):
            for one in customers:
                if one not in self.canary_before:
                    counts.setdefault(self.seen_at.get(one), [0, 0])[arm] += 1
        return tuple(Coins(stage_coin(self.share, seen), *both) for seen, both in counts.items())
