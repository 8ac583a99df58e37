"""Folds inside the training rows: fit on earlier cuts, validate on a later one, as the test cut will.

Walk-forward (Hyndman & Athanasopoulos, FPP3, section 5.10), with a gap as long as the horizon: no label window
of the rows that fit reaches past the validated cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import pandas as pd

from models.contract import Contract
from models.errors import DataError

FOLDS: Final = 3


@dataclass(frozen=True)
class Fold:
    """Row numbers, in the order of the training rows."""

    name: str  # the validated cut, or the group of customers
    fit: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class Folds:
    """What every trial is validated on, and in words how it was split."""

    forward: bool  # each fold validates a later cut than the rows that fit it; else folds are groups of customers
    how: str
    parts: tuple[Fold, ...]

    @property
    def held_out(self) -> np.ndarray:
        """Row numbers of all validated rows, fold by fold; each row once at most."""
        return np.concatenate([fold.held_out for fold in self.parts])

    @property
    def number(self) -> np.ndarray:
        """Which fold each of `held_out` belongs to."""
        return np.repeat(np.arange(len(self.parts)), [len(fold.held_out) for fold in self.parts])


def make_folds(
    rows: pd.DataFrame, contract: Contract, *, horizon: timedelta, random_state: int, most: int = FOLDS
) -> Folds:
    """The latest cuts that can be validated, or where no cut can, groups of customers.

    A cut can be validated where another one lies a horizon before it, and both sides have both classes.
    In groups of customers all rows of one are on one side: who stands in several cuts must not be recognised.

    Raises:
        DataError: neither way leaves both classes on both sides.
    """
    y = rows[contract.label].to_numpy(dtype=float)
    found = _walk_forward(rows["event_timestamp"], y, horizon)[-most:]
    if found:
        how = (f"walk-forward over {len(found)} {'cut' if len(found) == 1 else 'cuts'} "
               f"({', '.join(fold.name for fold in found)}), each by the cuts at least {horizon.days} days before it")
        return Folds(True, how, tuple(found))
    groups = _by_customer(rows[contract.entity_key], y, most, random_state)
    cuts = rows["event_timestamp"].nunique()
    how = (f"{len(groups)} groups of customers: the {cuts} training {'cut leaves' if cuts == 1 else 'cuts leave'} none "
           f"to validate {horizon.days} days after another")
    return Folds(False, how, tuple(groups))


def _walk_forward(when: Any, y: np.ndarray, horizon: timedelta) -> list[Fold]:
    folds = []
    for cut in sorted(when.unique()):
        held_out = np.flatnonzero((when == cut).to_numpy())
        fit = np.flatnonzero((when + horizon <= cut).to_numpy())
        if _both_classes(y[fit]) and _both_classes(y[held_out]):
            folds.append(Fold(f"{cut:%Y-%m-%d}", fit, held_out))
    return folds


def _by_customer(entities: Any, y: np.ndarray, most: int, random_state: int) -> list[Fold]:
    names, customer = np.unique(entities.to_numpy().astype(str), return_inverse=True)
    group = np.random.default_rng(random_state).permutation(len(names))[customer] % most
    folds = [Fold(f"customers {number + 1} of {most}", np.flatnonzero(group != number), np.flatnonzero(group == number))
             for number in range(most)]
    if not all(_both_classes(y[side]) for fold in folds for side in (fold.fit, fold.held_out)):
        raise DataError(
            f"cannot validate on {len(y):,} training rows of {len(names):,} customers, {int(y.sum()):,} of the rows "
            f"churned: {most} groups of customers do not each hold both classes. Train with more cuts, or wait for "
            "more mature labels"
        )
    return folds


def _both_classes(y: np.ndarray) -> bool:
    return len(np.unique(y)) == 2
