"""The bake in simulation: how often it accuses a harmless champion, and how soon it sees a harmful one.

Customers churn by log-odds both releases see through noise of their own; labels come in 36 looks, as they would
night by night. The fixed test beside it is the paired t-test at .05 that is looked at as often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq

from models.gates.bake import PairedLoss, brier_difference, log_wealth, reach_of
from models.limits import Bake

RUNS = 200
CUSTOMERS = 5000
LOOKS = np.unique(np.linspace(CUSTOMERS / 36, CUSTOMERS, 36).astype(int))
LIMITS = Bake()
NOISE = 0.3  # of the previous release, on the log-odds


@dataclass(frozen=True)
class Seen:
    """Customers until each verdict could fall, by the bake and by the peeking t-test; None: never."""

    harm: int | None
    harmless: int | None
    peeking: int | None


def losses(customers: int, noise: float, random: np.random.Generator) -> PairedLoss:
    """Paired losses of a champion with that noise, in one cut."""
    odds = random.normal(-2.2, 1.3, customers)
    label = (random.random(customers) < _share(odds)).astype(float)
    champion, previous = (_share(odds + random.normal(0, size, customers)) for size in (noise, NOISE))
    reach = reach_of(champion, previous, np.ones(customers))
    return PairedLoss(brier_difference(champion, previous, label), np.full(customers, reach))


@lru_cache
def noise_for(excess: float) -> float:
    """The champion's noise with which its mean Brier loss exceeds the previous one's by `excess`.

    The labels are integrated out: what is left of the difference is that of the squared distances to the truth.
    """
    random = np.random.default_rng(0)
    odds, error = random.normal(-2.2, 1.3, 400_000), random.normal(0, 1, 400_000)
    truth = _share(odds)
    base = float(((_share(odds + NOISE * error) - truth) ** 2).mean())
    return float(brentq(lambda size: float(((_share(odds + size * error) - truth) ** 2).mean()) - base - excess, 0, 4))


def _share(odds: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-odds)))


def run(noise: float, seed: int) -> Seen:
    """One bake, looked at 36 times."""
    loss = losses(CUSTOMERS, noise, np.random.default_rng(seed))
    needed = -math.log(LIMITS.alpha)
    harm = harmless = peeking = None
    for count in LOOKS:
        part = PairedLoss(loss.difference[:count], loss.reach[:count])
        if harm is None and log_wealth(part, LIMITS.max_brier_excess, 1) >= needed:
            harm = int(count)
        if harmless is None and log_wealth(part, LIMITS.max_brier_excess, -1) >= needed:
            harmless = int(count)
        spread = part.difference.std(ddof=1) / math.sqrt(count)
        if peeking is None and part.difference.mean() / spread >= 1.645:
            peeking = int(count)
    return Seen(harm, harmless, peeking)


def rows() -> list[str]:
    """What it shows, the bake's figure, the peeking t-test's, the limit, and `ok` or `missed`."""
    equal = [run(NOISE, seed) for seed in range(RUNS)]
    edge = [run(noise_for(LIMITS.max_brier_excess), 1000 + seed) for seed in range(RUNS)]
    harm = [run(noise_for(0.02), 2000 + seed) for seed in range(RUNS)]
    found = [one.harm for one in harm if one.harm is not None]
    safe = [one.harmless for one in equal if one.harmless is not None]
    wrong_equal, wrong_edge = (sum(one.harm is not None for one in ones) for ones in (equal, edge))
    baked = sum(one.harmless is not None for one in harm)
    most = int(RUNS * LIMITS.alpha)
    return [
        _row(f"bake: equal release accused, of {RUNS}", wrong_equal, sum(one.peeking is not None for one in equal),
             f"at most {most}", wrong_equal <= most),
        _row(f"bake: excess at the limit accused, of {RUNS}", wrong_edge, "", f"at most {most}", wrong_edge <= most),
        _row(f"bake: excess of .02 baked, of {RUNS}", baked, "", f"at most {most}", baked <= most),
        _row("bake: customers to see an excess of .02", _median(found),
             _median([one.peeking for one in harm if one.peeking is not None]),
             f"printed; seen in {len(found)} of {RUNS} with {CUSTOMERS:,}", len(found) == RUNS),
        _row("bake: customers to bake an equal release", _median(safe), "",
             f"printed; baked in {len(safe)} of {RUNS} with {CUSTOMERS:,}", len(safe) >= 0.9 * RUNS),
    ]


def _median(counts: list[int]) -> str:
    return f"{int(np.median(counts)):,}" if counts else "never"


def _row(what: str, seen: int | str, against: int | str, limit: str, good: bool) -> str:
    return f"{what:<44} {seen:>9} {against:>9}  {limit:<50} {'ok' if good else 'missed'}"


if __name__ == "__main__":
    print(f"{'':<44} {'bake':>9} {'peeking t':>9}")
    print("\n".join(rows()))
