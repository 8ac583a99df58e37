"""Simulated customers of a rollout, and what each arm's log would hold of them, counted minute by minute.

Customers return (Zipf), each with a latency level, an error rate and a score of their own. What is counted is what
`tasks.release.evidence` counts, so that the real judge can be asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from models.gates.canary_counts import ArmCounts, Edges, Skew, StageCounts, slow_beyond, stage_coin
from models.gates.eprocess import Coins
from models.limits import Rollout
from tasks.release.router_lines import QUANTILES, latency_edges

CUSTOMERS: Final = 20_000
A_MINUTE: Final = 400  # requests; at a quarter of the customers 100 canary requests
MINUTES: Final = 120
MEDIAN_US: Final = 3000.0
LEVEL, JITTER = 0.4, 0.4  # spread of log latency between customers, and within one
ERRORS, UNKNOWN, APART = 0.01, 0.01, 0.01  # shares: of requests that err, of customers unknown, of scores apart anyway
_POPULARITY = np.cumsum(1 / np.arange(1, CUSTOMERS + 1))


@dataclass(frozen=True)
class Fault:
    """What is wrong with the canary."""

    errors: float = 0.0  # points more, as a share
    latency: float = 1.0  # times as slow
    skew: float = 0.0  # logits that an online score is off


@dataclass(frozen=True)
class Traffic:
    """Requests of two hours in order, shape (n,) each; `dealt` is the customer's number in [0, 1)."""

    customer: np.ndarray
    dealt: np.ndarray
    draw: np.ndarray  # uniform: the request errs below its customer's rate
    rate: np.ndarray
    refused: np.ndarray
    us: np.ndarray  # as the champion would answer
    logit: np.ndarray  # batch score of the row
    noise: np.ndarray  # online minus batch, without a fault

    @staticmethod
    def make(seed: int) -> Traffic:
        rng = np.random.default_rng(seed)
        n = A_MINUTE * MINUTES
        rank = np.searchsorted(_POPULARITY, rng.random(n) * _POPULARITY[-1])
        customer = rng.permutation(CUSTOMERS)[rank]
        level, rate = rng.normal(0, LEVEL, CUSTOMERS), rng.gamma(0.5, ERRORS / 0.5, CUSTOMERS)
        score, apart = rng.normal(-2, 1.2, CUSTOMERS), rng.random(CUSTOMERS) < APART
        unknown = rng.random(CUSTOMERS) < UNKNOWN
        return Traffic(
            customer, rng.random(CUSTOMERS)[customer], rng.random(n), rate[customer], unknown[customer],
            MEDIAN_US * np.exp(level[customer] + rng.normal(0, JITTER, n)), score[customer],
            np.where(apart, 0.3, 0.0)[customer])

    def failed(self, canary: np.ndarray, fault: Fault) -> np.ndarray:
        return np.asarray(self.draw < self.rate + np.where(canary, fault.errors, 0.0))

    def latency(self, canary: np.ndarray, fault: Fault) -> np.ndarray:
        return np.asarray(self.us * np.where(canary, fault.latency, 1.0))

    def online(self, canary: np.ndarray, fault: Fault) -> np.ndarray:
        return np.asarray(self.logit + self.noise + np.where(canary, fault.skew, 0.0))


def reference_edges(rng: np.random.Generator, requests: int = 2000) -> Edges:
    """What is slow, by the champion's latency in the hour before the rollout."""
    before = MEDIAN_US * np.exp(rng.normal(0, np.hypot(LEVEL, JITTER), requests))
    return latency_edges({"slow_us": [float(one) for one in np.quantile(before, QUANTILES)]})


@dataclass
class Tally:
    """Counts of one rollout, stage by stage, as the minutes come in."""

    traffic: Traffic
    fault: Fault
    edges: Edges
    limits: Rollout
    stages: list[StageCounts] = field(default_factory=list)
    seen_at: np.ndarray = field(default_factory=lambda: np.zeros(CUSTOMERS, dtype=int))  # 0 never, k stage k, -1 canary
    skew_of: np.ndarray = field(default_factory=lambda: np.zeros(CUSTOMERS, dtype=bool))
    skewed: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])  # customers, apart, online, batch

    def open_stage(self, share: float) -> None:
        """Begin a stage: what was seen of each customer so far says which coin is thrown for them."""
        self.share = share
        self.coin = self.seen_at.copy()
        self.shares = [share, *(stage_coin(share, stage.share) for stage in self.stages)]
        kinds = len(self.shares)
        self.coins = {name: np.zeros((kinds, 2), dtype=int) for name in ("failed", "refused")}
        self.slow, self.fast = (np.zeros((len(self.edges.us), kinds, 2), dtype=int) for _ in range(2))
        self.fresh = np.zeros(2, dtype=int)
        self.done = {name: np.zeros(CUSTOMERS, dtype=bool) for name in ("asked", "failed", "refused", "compared")}
        self.totals = np.zeros((2, 5), dtype=int)  # arm: customers, failed, refused, requests, errors
        self.slow_totals = np.zeros((2, len(self.edges.us)), dtype=int)
        self.stages.append(StageCounts(share))

    def minute(self, minute: int) -> None:
        """Take in one minute's requests."""
        part = slice(minute * A_MINUTE, (minute + 1) * A_MINUTE)
        traffic = Traffic(*(getattr(self.traffic, name)[part] for name in Traffic.__dataclass_fields__))
        canary = traffic.dealt < self.share
        failed, us = traffic.failed(canary, self.fault), traffic.latency(canary, self.fault)
        arm = np.where(canary, 0, 1)
        for one, name in ((failed, "failed"), (traffic.refused & ~failed, "refused")):
            first = self._first(name, traffic.customer, np.flatnonzero(one))
            self._throw(self.coins[name], traffic.customer[first], arm[first])
            self.totals[:, 1 if name == "failed" else 2] += np.bincount(arm[first], minlength=2)
        first = self._first("asked", traffic.customer, np.arange(A_MINUTE))
        for edge, limit in enumerate(self.edges.us):
            slow = us[first] > np.where(canary[first], slow_beyond(limit, self.limits), limit)
            self._throw(self.slow[edge], traffic.customer[first][slow], arm[first][slow])
            self._throw(self.fast[edge], traffic.customer[first][~slow], arm[first][~slow])
            self.slow_totals[:, edge] += np.bincount(arm[first][slow], minlength=2)
        self.totals[:, 0] += np.bincount(arm[first], minlength=2)
        self.totals[:, 3] += np.bincount(arm, minlength=2)
        self.totals[:, 4] += np.bincount(arm[failed], minlength=2)
        new = first[self.seen_at[traffic.customer[first]] == 0]
        self.fresh += np.bincount(arm[new], minlength=2)
        self.seen_at[traffic.customer[first]] = np.where(canary[first], -1, len(self.stages))
        self._compare(traffic, np.flatnonzero(canary & ~failed & ~traffic.refused), canary)
        self._write()

    def _first(self, name: str, customer: np.ndarray, at: np.ndarray) -> np.ndarray:
        at = at[~self.done[name][customer[at]]]
        at = at[np.unique(customer[at], return_index=True)[1]]
        self.done[name][customer[at]] = True
        return at

    def _throw(self, counts: np.ndarray, customer: np.ndarray, arm: np.ndarray) -> None:
        coin = self.coin[customer]
        np.add.at(counts, (coin[coin >= 0], arm[coin >= 0]), 1)

    def _compare(self, traffic: Traffic, at: np.ndarray, canary: np.ndarray) -> None:
        at = self._first("compared", traffic.customer, at)
        at = at[~self.skew_of[traffic.customer[at]]]
        self.skew_of[traffic.customer[at]] = True
        online, batch = traffic.online(canary, self.fault)[at], traffic.logit[at]
        for place, more in enumerate((len(at), (np.abs(online - batch) > self.limits.max_skew_logit).sum(),
                                      (1 / (1 + np.exp(-online))).sum(), (1 / (1 + np.exp(-batch))).sum())):
            self.skewed[place] += float(more)

    def _write(self) -> None:
        def coins(counts: np.ndarray) -> tuple[Coins, ...]:
            return tuple(Coins(share, int(one[0]), int(one[1]))
                         for share, one in zip(self.shares, counts, strict=True))

        arms = [ArmCounts(*map(int, self.totals[arm]), timed=int(self.totals[arm][0]),
                          slow=tuple(map(int, self.slow_totals[arm]))) for arm in (0, 1)]
        self.stages[-1] = StageCounts(
            self.share, *arms, failed=coins(self.coins["failed"]), refused=coins(self.coins["refused"]),
            slow=tuple(map(coins, self.slow)), fast=tuple(map(coins, self.fast)),
            first_seen=Coins(self.share, *map(int, self.fresh)))

    @property
    def skew(self) -> Skew:
        customers, apart, online, batch = self.skewed
        return Skew(int(self.done["compared"].sum()), int(customers), int(apart), online / max(customers, 1),
                    batch / max(customers, 1))
