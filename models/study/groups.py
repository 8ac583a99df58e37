"""Feature groups, added one by one: what each adds in ranking and money, and what it costs, to see when to stop.

The order is found on customers of the training rows that the fits of the search did not see (forward selection:
Guyon & Elisseeff, JMLR 3, 2003); what each step adds is measured on the test rows, which the order did not see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import numpy as np
import pandas as pd

from models.charter import Value
from models.contract import FEATURE_ROLES, Contract
from models.errors import DataError
from models.evaluation.bootstrap import Interval, customer_weights
from models.evaluation.metrics import Ranked, rank, realised_value
from models.study.history import Scorer
from models.study.retraining_policy import interval_of
from models.training.contacts import row_weights

FitOn = Callable[[pd.DataFrame, Contract], Scorer]
OTHER: Final = "other"  # features whose contract names no group
HELD_OUT: Final = 3  # every third customer of the training rows finds the order


@dataclass(frozen=True)
class Step:
    """A group added to those before it."""

    group: str
    features: int
    auc: float  # of the test rows, with this group and those before it
    auc_added: Interval
    value: float  # money a cut
    value_added: Interval
    fit_seconds: float  # CPU, to fit and to score with this group and those before it
    sql_seconds: float | None = None  # CPU of the snapshot that this group adds; None: not measured

    @property
    def adds(self) -> bool:
        """Whether it surely adds money or ranking; an interval that is no number adds nothing."""
        return bool(self.value_added.low > 0 or self.auc_added.low > 0)


def groups_of(contract: Contract) -> Mapping[str, tuple[str, ...]]:
    """Features by group, groups in the contract's order."""
    found: dict[str, tuple[str, ...]] = {}
    for column in contract.features:
        name = column.group or OTHER
        found[name] = (*found.get(name, ()), column.name)
    return found


def narrow_to(contract: Contract, features: Sequence[str]) -> Contract:
    """The contract with these features alone."""
    kept = set(features)
    return replace(contract, snapshot=tuple(column for column in contract.snapshot
                                            if column.role not in FEATURE_ROLES or column.name in kept))


def add_groups(
    train: pd.DataFrame, test: pd.DataFrame, contract: Contract, value: Value, fit: FitOn, *, confidence: float,
    resamples: int, random_state: int, progress: Callable[[str], None] = lambda _: None,
) -> tuple[Step, ...]:
    """The groups in the order in which each adds most, and what it adds to the test rows.

    Money of one cut: the budget is spent on all test rows together.

    Args:
        fit: from rows and a narrowed contract to what gives a probability a row.

    Raises:
        DataError: the training or the test rows, or the customers left to find the order, are of one class.
    """
    groups = groups_of(contract)
    order = _find_order(train, contract, groups, fit, progress)
    y = test[contract.label].to_numpy(dtype=float)
    entities = test[contract.entity_key].to_numpy()
    _refuse_one_class(y, "test rows")
    scores, seconds = [np.zeros(len(test))], []  # before any group: everybody alike
    for number in range(len(order)):
        narrowed = narrow_to(contract, [name for group in order[: number + 1] for name in groups[group]])
        begun = time.process_time()
        scores.append(fit(train, narrowed)(test))
        seconds.append(time.process_time() - begun)
        progress(f"groups {number + 1} of {len(order)}: {order[number]}")
    prepared = [(Ranked.of(score), rank(score, entities)) for score in scores]
    weights = row_weights(test)
    counts = np.ones(len(test)) if weights is None else weights
    drawn = customer_weights(entities, resamples=resamples, random_state=random_state)
    draws = np.array([
        [(ranked.auc(y, weight), realised_value(y, places, value, weight)) for ranked, places in prepared]
        for weight in chain([counts], (counts * one for one in drawn))
    ])  # (1 + resamples, 1 + groups, 2)
    added = np.diff(draws, axis=1)
    return tuple(
        Step(group, len(groups[group]), float(draws[0, number + 1, 0]), interval_of(added[:, number, 0], confidence),
             float(draws[0, number + 1, 1]), interval_of(added[:, number, 1], confidence), seconds[number])
        for number, group in enumerate(order)
    )


def _find_order(train: pd.DataFrame, contract: Contract, groups: Mapping[str, Sequence[str]], fit: FitOn,
                progress: Callable[[str], None]) -> list[str]:
    """Forward selection by AUC on customers that were held out."""
    _, customer = np.unique(train[contract.entity_key].to_numpy(), return_inverse=True)
    seen, held_out = train[customer % HELD_OUT > 0], train[customer % HELD_OUT == 0]
    y = held_out[contract.label].to_numpy(dtype=float)
    _refuse_one_class(y, "customers held out to find the order of the groups")
    _refuse_one_class(seen[contract.label].to_numpy(dtype=float), "training rows")
    order: list[str] = []
    while len(order) < len(groups):
        reached = {}
        for group in groups:
            if group not in order:
                narrowed = narrow_to(contract, [name for one in (*order, group) for name in groups[one]])
                reached[group] = Ranked.of(fit(seen, narrowed)(held_out)).auc(y, row_weights(held_out))
        order.append(max(reached, key=lambda group: reached[group]))
        progress(f"groups: {order[-1]} is number {len(order)} of {len(groups)}, AUC {reached[order[-1]]:.3f} on "
                 "customers held out")
    return order


def _refuse_one_class(y: np.ndarray, what: str) -> None:
    if len(np.unique(y)) < 2:
        raise DataError(f"cannot compare feature groups: the {len(y):,} {what} are of one class. Ingest a longer range")


def when_to_stop(steps: Sequence[Step]) -> str:
    """After which group nothing surely adds, in words."""
    adding = [number for number, step in enumerate(steps) if step.adds]
    if not adding:
        return "no group surely adds anything"
    last = adding[-1]
    if last == len(steps) - 1:
        return "every group up to the last one may be worth its cost"
    rest = ", ".join(step.group for step in steps[last + 1:])
    return f"after {steps[last].group} nothing surely adds: {rest} could be left out"
