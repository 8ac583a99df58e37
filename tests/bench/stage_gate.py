"""How often the promotion gate errs, on simulated customers of whom the truth is known.

False promotions: candidates that are truly no better than the champion, of four kinds. Power: the least true gain
that is promoted at least so often as the limit says. Every one goes through the whole gate, floors included.

    python -m tests.bench.stage_gate      prints the power of each gain as well (four minutes)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import pandas as pd

from models.charter import Charter, load_charter
from models.decision import Decision
from models.evaluation.metrics import evaluate, rank
from models.gates.floors import HeldOut
from models.gates.promotion import judge_promotion
from tests.bench.bench_data import REPO

CUSTOMERS: Final = 4500  # of the test cut, as in the sample world
CANDIDATES: Final = 200
MOST_PROMOTED: Final = 10
POWER: Final = 0.8
ROUNDS: Final = 60  # candidates a gain
NOISE: Final = 1.0  # of the champion's log-odds: it knows the truth with this error
STEPS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # of that error a better candidate is without


@dataclass(frozen=True)
class World:
    """Customers at a cut: what they would do, what they did, and what the champion says of them."""

    logit: np.ndarray
    y: np.ndarray
    champion: np.ndarray  # log-odds
    rng: np.random.Generator

    @staticmethod
    def make(seed: int) -> World:
        rng = np.random.default_rng(seed)
        logit = rng.normal(size=CUSTOMERS) * 1.3 - 2.3
        y = (rng.random(CUSTOMERS) < logistic(logit)).astype(float)
        return World(logit, y, said(logit, rng.normal(size=CUSTOMERS) * NOISE), rng)


def logistic(logit: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logit)))


def said(logit: np.ndarray, error: np.ndarray) -> np.ndarray:
    """What a model that knows the truth with an error says: shrunk towards the mean, as a calibrated one would."""
    spread = logit.var()
    return np.asarray(logit.mean() + (logit + error - logit.mean()) * spread / (spread + error.var()))


def equal(world: World) -> np.ndarray:
    """The champion again, a little elsewhere: another seed of the same fit."""
    return world.champion + world.rng.normal(size=CUSTOMERS) * 0.05


def refit(world: World) -> np.ndarray:
    """As good as the champion, and wrong elsewhere: the same method on other rows."""
    return said(world.logit, world.rng.normal(size=CUSTOMERS) * NOISE)


def slightly_worse(world: World) -> np.ndarray:
    """A tenth more error than the champion."""
    return said(world.logit, world.rng.normal(size=CUSTOMERS) * 1.1 * NOISE)


def better_elsewhere(world: World) -> np.ndarray:
    """Better by AUC among those no budget reaches; at the budget its order is as good as the champion's."""
    charter = sample_charter()
    order = rank(world.champion, names())
    reached = np.zeros(CUSTOMERS, dtype=bool)
    reached[order[: int(charter.value.contact_budget * 1.3)]] = True
    top = world.champion[reached]
    # Whoever is reached swaps places with a neighbour by chance; all others are ranked by the truth, below them.
    inside = top + world.rng.normal(size=len(top)) * 0.05
    rest = world.logit[~reached]
    scaled = (rest - rest.max()) / rest.std() * world.champion[~reached].std() + min(inside.min(), top.min()) - 1e-6
    found = world.champion.copy()
    found[reached], found[~reached] = inside, scaled
    return found


KINDS: Final[dict[str, Callable[[World], np.ndarray]]] = {
    "equal": equal, "refit": refit, "slightly worse": slightly_worse, "better elsewhere": better_elsewhere,
}


@cache
def sample_charter() -> Charter:
    return load_charter(REPO / "charter.yaml")


def names() -> np.ndarray:
    return np.array([f"c{number:06}" for number in range(CUSTOMERS)])


def true_value(world: World, logit: np.ndarray, charter: Charter) -> float:
    """Money a cut that contacting the top K by a score brings, by the truth and not by what happened."""
    value = charter.value
    top = rank(logit, names())[: value.contact_budget]
    found = float(logistic(world.logit)[top].sum())
    return found * value.share_who_stay * value.worth_of_saved - len(top) * value.cost_of_contact


def judged(world: World, candidate: np.ndarray, charter: Charter) -> Decision:
    """What the whole gate says; the sample world's limits, with the segments and protected levels of its size."""
    probability, entities = logistic(candidate), names()
    quarters = np.arange(CUSTOMERS) % 4
    requirements = charter.requirements.model_copy(update={"protected": ("group",)})
    rows = HeldOut(
        y=world.y, candidate=probability, champion=logistic(world.champion), entities=entities,
        segments={"quarter": quarters.astype(str)}, protected={"group": (quarters < 2).astype(str)}, scoring_ms=0.01,
    )
    frame = pd.DataFrame({"id": entities, "y": world.y})
    return judge_promotion(
        rows, metrics=evaluate(frame, probability, label="y", entity="id", value=charter.value), baselines={},
        charter=charter.model_copy(update={"requirements": requirements}), segments=("quarter",), random_state=7,
        first=False,
    )


def false_promotions() -> dict[str, tuple[int, int]]:
    """For each kind how many were judged and how many of them promoted; one that is truly better is drawn again."""
    charter, found = sample_charter(), {}
    for place, (kind, make) in enumerate(KINDS.items()):
        wanted, promoted = CANDIDATES // len(KINDS), 0
        for world, candidate in no_better(make, charter, start=1000 * place, wanted=wanted):
            promoted += judged(world, candidate, charter).verdict == "promote"
        found[kind] = (wanted, promoted)
    return found


def no_better(
    make: Callable[[World], np.ndarray], charter: Charter, *, start: int, wanted: int
) -> Iterator[tuple[World, np.ndarray]]:
    """Candidates whose true gain is zero or less."""
    seed = start
    while wanted:
        world = World.make(seed)
        candidate, seed = make(world), seed + 1
        if true_value(world, candidate, charter) <= true_value(world, world.champion, charter):
            wanted -= 1
            yield world, candidate


def power() -> list[tuple[float, float, float]]:
    """For each step of less error: the mean true gain in money a cut, the share it is of the champion's, how often
    the gate promoted.
    """
    charter, found = sample_charter(), []
    for place, step in enumerate(STEPS):
        gains, before, promoted = [], [], 0
        for number in range(ROUNDS):
            world = World.make(100_000 + 1000 * place + number)
            error = world.rng.normal(size=CUSTOMERS) * NOISE * (1 - step)
            candidate = said(world.logit, error)
            before.append(true_value(world, world.champion, charter))
            gains.append(true_value(world, candidate, charter) - before[-1])
            promoted += judged(world, candidate, charter).verdict == "promote"
        found.append((float(np.mean(gains)), float(np.mean(gains) / np.mean(before)), promoted / ROUNDS))
    return found


def rows() -> list[str]:
    """Both figures as lines of a bench table."""
    return table(false_promotions(), power())


def table(kinds: dict[str, tuple[int, int]], found_power: list[tuple[float, float, float]]) -> list[str]:
    promoted = sum(count for _, count in kinds.values())
    by_kind = ", ".join(f"{kind} {count} of {of}" for kind, (of, count) in kinds.items())
    verdict = "ok" if promoted <= MOST_PROMOTED else "missed"
    lines = [f"{'false promotions':<27} {f'{promoted} of {CANDIDATES}':>20}   at most {MOST_PROMOTED} ({by_kind})  "
             f"{verdict}"]
    least = least_gain(found_power)
    seen = "none of those tried" if least is None else f"{least[0]:+,.0f} a cut ({least[1]:+.0%})"
    return [*lines, f"{'power':<27} {seen:>20}   least true gain promoted at least {POWER:.0%} of the time, of "
                    f"{CUSTOMERS:,} customers  {'missed' if least is None else 'ok'}"]


def least_gain(found: list[tuple[float, float, float]]) -> tuple[float, float, float] | None:
    """The smallest gain from which on every one is promoted often enough."""
    best = None
    for one in sorted(found, reverse=True):
        if one[2] < POWER:
            break
        best = one
    return best


if __name__ == "__main__":
    found = power()
    print("\n".join(table(false_promotions(), found)))
    for gain, share, often in found:
        print(f"  {gain:+9,.0f} a cut ({share:+.0%}): promoted {often:.0%} of {ROUNDS}")
