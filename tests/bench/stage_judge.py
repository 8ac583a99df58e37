"""How often the canary's judge errs and how soon it acts, on simulated customers; three others beside it.

The real judge, counts in and decision out, on a simulated clock with a look a minute for two hours. Rollouts of
A against A: at a quarter of the customers from start to end, and ramping as the judge itself advances, staying at
the last stage until the two hours are over. Faults from the first minute, at 100 canary requests a minute.

    python -m tests.bench.stage_judge      prints the rows (a few minutes)
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from models.decision import Decision
from models.gates.canary import judge
from models.limits import Rollout
from tests.bench.canary_customers import MINUTES, Fault, Tally, Traffic, reference_edges
from tests.bench.rival_judges import LOOSE, fixed, kayenta, peeking

LIMITS: Final = Rollout()
AA_ROLLOUTS: Final = 200
MOST_FALSE: Final = 5
REPETITIONS: Final = 100
QUARTER: Final = (0.25,)  # of 400 requests a minute: 100 canary requests
FAULTS: Final = {
    "+2 points of errors": Fault(errors=0.02), "+50 % latency": Fault(latency=1.5),
    "skew of 0.3 logit": Fault(skew=0.3)}
HARMLESS: Final = Fault(errors=0.001, latency=1.1)  # within what the charter calls harmless
HARMFUL: Final = {"+2 points of errors": Fault(errors=0.02), "+50 % latency": Fault(latency=1.5)}
Judge = Callable[[Traffic, Fault, float], int | None]
RIVALS: Final[dict[str, Judge]] = {
    "fixed thresholds": fixed, "loose ones": partial(fixed, thresholds=LOOSE), "peeking tests": peeking,
    "Kayenta-like": kayenta}


@dataclass(frozen=True)
class Outcome:
    """How a simulated rollout went: minutes until it was rolled back, or through its last stage; else None."""

    rolled_back: int | None = None
    through: int | None = None
    decision: Decision | None = None


def simulate(seed: int, fault: Fault, stages: Sequence[float], limits: Rollout = LIMITS, *, on: bool = True) -> Outcome:
    """One rollout of two hours.

    Args:
        on: stay at the last stage when it is through, and go on looking.
    """
    tally = Tally(Traffic.make(seed), fault, reference_edges(np.random.default_rng(seed + 1_000_000)), limits)
    stage, since, through, decision = 0, 0, None, None
    tally.open_stage(stages[0])
    for minute in range(MINUTES):
        tally.minute(minute)
        decision = judge(tally.stages, limits, edges=tally.edges, skew=tally.skew, minutes_in_stage=minute + 1 - since)
        if decision.verdict == "roll back":
            return Outcome(minute + 1, through, decision)
        if decision.verdict == "advance" and stage + 1 < len(stages):
            stage, since = stage + 1, minute + 1
            tally.open_stage(stages[stage])
        elif decision.verdict == "advance":
            through = through or minute + 1
            if not on:
                break
    return Outcome(None, through, decision)


def ours(traffic_seed: int, fault: Fault) -> int | None:
    return simulate(traffic_seed, fault, QUARTER).rolled_back


def rival(name: str, traffic_seed: int, fault: Fault) -> int | None:
    return RIVALS[name](Traffic.make(traffic_seed), fault, QUARTER[0])


def row(what: str, seen: str, beside: str, limit: str, word: str) -> str:
    """A row of `make bench-canary`; `beside` is what others did on the same traffic, or what else is known."""
    return f"{what:<76} {seen:>22}  {beside}; {limit}  {word}"


def rows(aa_rollouts: int = AA_ROLLOUTS, repetitions: int = REPETITIONS) -> Iterator[str]:
    """Rows of the table; the rivals' false rollbacks and minutes stand beside ours, on the same traffic."""
    seeds = range(aa_rollouts)
    others = {name: [rival(name, seed, Fault()) for seed in seeds] for name in RIVALS}
    beside = ", ".join(f"{name} {_count(found)}" for name, found in others.items())
    for name, stages in (("at 25 %", QUARTER), ("ramping 5-25-50", LIMITS.stages)):
        found = [simulate(seed, Fault(), stages) for seed in seeds]
        false = _count([one.rolled_back for one in found])
        yield row(f"false rollbacks of {aa_rollouts} A/A rollouts of 2 h, {name}", str(false),
                  beside if stages == QUARTER else f"through all stages: {_count([one.through for one in found])}, "
                  f"median {_median([one.through for one in found])}", f"at most {MOST_FALSE}",
                  "ok" if false <= MOST_FALSE else "missed")
    for name, fault in FAULTS.items():
        again = range(10_000, 10_000 + repetitions)
        own = [ours(seed, fault) for seed in again]
        beside = ", ".join(f"{rival_name} {_median([rival(rival_name, seed, fault) for seed in again])}"
                           for rival_name in RIVALS)
        yield row(f"median minutes to roll back, {name}", _median(own), beside, "no limit", "printed")
    for name, fault in {"harmless (+0.1 points of errors, +10 % latency)": HARMLESS, **HARMFUL}.items():
        found = [simulate(seed, fault, LIMITS.stages, on=False) for seed in range(20_000, 20_000 + repetitions)]
        back, through = _count([one.rolled_back for one in found]), _count([one.through for one in found])
        harmful = fault is not HARMLESS
        kept = through == 0 if harmful else back <= MOST_FALSE
        yield row(f"of {repetitions} ramping rollouts, {name}", f"{back} rolled back",
                  f"{through} promoted within 2 h", "none promoted" if harmful else f"at most {MOST_FALSE} rolled back",
                  "ok" if kept else "missed")


def _count(found: Sequence[int | None]) -> int:
    return sum(one is not None for one in found)


def _median(found: Sequence[int | None]) -> str:
    """Median minutes, of all: one that never came counts as later than all others."""
    middle = statistics.median([one if one is not None else np.inf for one in found])
    missed = len(found) - _count(found)
    return (f"{middle:g} min" if np.isfinite(middle) else "never") + (f" ({missed} not within 2 h)" if missed else "")


def main() -> None:
    for one in rows():
        print(one, flush=True)


if __name__ == "__main__":
    main()
