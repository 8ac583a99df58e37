"""Has the world moved away from what the model learnt?

`assess_drift` compares two frames column by column; what follows from it is decided in `models.gates.retraining`.
A column is flagged when its difference is real (Benjamini-Hochberg over the columns) *and* large; a flag counts
towards acting when the model leans on the column, or on all the light ones that are flagged together. What cannot be
judged is a `problem`, never an "all is well".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Number
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.contract import Contract
from models.gates.two_sample import (
    BINS,
    benjamini_hochberg_limit,
    bin_numbers,
    chi2_p_value,
    count_levels,
    joint_psi,
    ks_p_value,
    missing_p_value,
    psi,
    psi_by_chance,
    unseen_p_value,
)
from models.limits import DriftPolicy

PREDICTION: Final = "churn_probability"  # the score; drift of what the model says counts in full
TOGETHER: Final = 10  # times `least_importance`: what light columns must carry together, at most `MOST_TOGETHER`
MOST_TOGETHER: Final = 0.5


@dataclass(frozen=True)
class ColumnDrift:
    """One column, current against reference. Where it cannot be compared, `problem` says why."""

    name: str
    test: Literal["KS", "chi2", "none"]  # of the values; "none": no value on one side
    p_value: float  # least of its tests (values, new levels, missingness), Bonferroni-corrected within the column
    psi: float  # of the values, missing ones left out; 0 where a side has none
    missing_change: float  # share of missing values, current minus reference, in [-1, 1]
    new_share: float  # share of current values at a level the reference lacks, in [0, 1]
    importance: float | None  # share of the model's importance, in [0, 1]; None: unknown, which counts as mattering
    values_moved: bool = False  # the values' difference (or their new levels) is real and large
    missing_moved: bool = False  # so is that of the missing share
    flagged: bool = False  # either of them
    matters: bool = False  # flagged, and important enough to count towards acting, alone or with others
    ages: bool = False  # its values grow with the age of the data, whatever anybody does
    problem: str | None = None

    def describe(self) -> str:
        """The column's name with what moved, in numbers."""
        parts = [f"PSI {self.psi:.3f}"]
        if abs(self.missing_change) >= 0.001:
            parts.append(f"missing {self.missing_change:+.1%}")
        if self.new_share >= 0.001:
            parts.append(f"new levels {self.new_share:.1%}")
        if self.name != PREDICTION:
            known = "unknown importance" if self.importance is None else f"{self.importance:.1%} of the importance"
            parts.append(known)
        return f"{self.name} ({', '.join(parts)})"


@dataclass(frozen=True)
class DriftReport:
    """One check: every column, and, where it could not be judged, the reason (`problem`)."""

    columns: tuple[ColumnDrift, ...]
    rows: int
    reference_rows: int
    problem: str | None = None

    @property
    def flagged(self) -> tuple[ColumnDrift, ...]:
        return tuple(column for column in self.columns if column.flagged)

    @property
    def mattering(self) -> tuple[ColumnDrift, ...]:
        return tuple(column for column in self.columns if column.matters)

    @property
    def max_psi(self) -> float:
        """The largest PSI of a column that could be compared; 0 without any."""
        return max((column.psi for column in self.columns), default=0.0)


def assess_drift(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    contract: Contract,
    policy: DriftPolicy,
    importance: Mapping[str, float],
    *,
    worth: float | None = None,
) -> DriftReport:
    """Compare every feature of the contract and the prediction, reference against current.

    Args:
        reference: what the release was judged on: the contract's features and `churn_probability`.
        current: what it scores now, same columns; no column may be missing.
        importance: feature -> share of the model's importance, summing to 1.
        worth: how many rows the reference is worth where some stand in it for others; None: all it has. Tests that
            took copies for other customers would be too sure (Kish, Survey Sampling, 1965).
    """
    known = len(reference) if worth is None else min(worth, len(reference))
    for side, rows in (("current", len(current)), ("reference", known)):
        if not rows >= policy.least_rows:  # a NaN is none
            few = f"{rows:,.10g} {side} rows, needs {policy.least_rows:,}"
            return DriftReport((), len(current), len(reference), few)
    fault = _importance_fault(importance)
    if fault:
        return DriftReport((), len(current), len(reference), fault)
    numeric = {*contract.numeric, PREDICTION}
    measured = [
        _Measured.of(name, reference, current, name in numeric, 1.0 if name == PREDICTION else importance.get(name),
                     known / len(reference))
        for name in [*contract.feature_names, PREDICTION]
    ]
    growing = {feature.name for feature in contract.features if feature.ages}
    measured = [replace(one, column=replace(one.column, ages=one.column.name in growing)) for one in measured]
    comparable = [one for one in measured if one.column.problem is None]
    limit = benjamini_hochberg_limit([one.column.p_value for one in comparable], policy.false_discovery_rate)
    small = {one.column.name: one.excess for one in comparable if one.values_p <= limit
             and one.column.psi < policy.least_psi and not one.column.ages and one.column.name != PREDICTION}
    together = joint_psi(small, reference)
    columns = _sum_up([one.judged(limit, policy, together=together) for one in measured], policy)
    problems = [f"{column.name} {column.problem}" for column in columns if column.problem]
    return DriftReport(columns, len(current), len(reference), "; ".join(problems) or None)


def _importance_fault(importance: Mapping[str, float]) -> str | None:
    """Why the shares weigh nothing. An absent one is none: that column counts in full."""
    for name, share in importance.items():
        if share is not None and not (isinstance(share, int | float) and math.isfinite(share) and share >= 0):
            return f"the importance of {name} is {share!r}, no share of the model's: release another model"
    if importance and not any(share is None or share > 0 for share in importance.values()):
        return "the importance of all columns is 0: nothing would count. Release another model"
    return None


def _sum_up(columns: Sequence[ColumnDrift], policy: DriftPolicy) -> tuple[ColumnDrift, ...]:
    """The columns; those flagged that are too light to matter alone matter where the model leans on all of them."""
    light = {column.name: column.importance or 0.0 for column in columns
             if column.flagged and not column.matters and (column.missing_moved or not column.ages)}
    asked = min(TOGETHER * policy.least_importance, MOST_TOGETHER)
    if math.fsum(light.values()) < asked - 1e-9:
        return tuple(columns)
    return tuple(replace(column, matters=True) if column.name in light else column for column in columns)


@dataclass(frozen=True)
class _Measured:
    """A column before the limit over all columns is known."""

    column: ColumnDrift
    values_p: float = 1.0
    missing_p: float = 1.0
    excess: float = 0.0  # PSI beyond what equal distributions show by chance

    @staticmethod
    def of(
        name: str, reference: pd.DataFrame, current: pd.DataFrame, numeric: bool, importance: float | None,
        worth: float,
    ) -> _Measured:
        blank = ColumnDrift(name, "none", 1.0, 0.0, 0.0, 0.0, importance)
        for side, frame in (("current", current), ("reference", reference)):
            if name not in frame.columns:
                return _Measured(replace(blank, problem=f"is missing from the {side} rows"))
        was, now = _values(reference[name], numeric), _values(current[name], numeric)
        if isinstance(was, str):
            return _Measured(replace(blank, problem=f"has another type in the reference: {was}"))
        if isinstance(now, str):
            return _Measured(replace(blank, problem=f"changed type: {now}"))
        missing = (len(reference) - len(was), len(reference), len(current) - len(now), len(current))
        blank = replace(blank, missing_change=missing[2] / missing[3] - missing[0] / missing[1])
        missing_p = missing_p_value(round(missing[0] * worth), round(missing[1] * worth), *missing[2:])
        if not len(was) or not len(now):
            return _Measured(replace(blank, p_value=missing_p), missing_p=missing_p)
        few = not numeric or len(pd.unique(was)) <= BINS
        counts = count_levels(was, now) if few else bin_numbers(was, now)
        cells = counts[0] * worth, counts[1]
        values_p = chi2_p_value(*cells) if few else ks_p_value(was, now, worth=worth)
        unseen_p = unseen_p_value(was, now, worth=worth) if few else 1.0
        if unseen_p < 1:  # two tests of the values: Bonferroni once more
            values_p = min(1.0, 2 * min(values_p, unseen_p))
        values_p, missing_p = min(1.0, 2 * values_p), min(1.0, 2 * missing_p)  # two tests: Bonferroni
        column = replace(
            blank, test="chi2" if few else "KS", p_value=min(values_p, missing_p), psi=psi(*cells),
            new_share=float(np.mean(~pd.Index(now).isin(pd.unique(was)))) if few else 0.0,
        )
        excess = max(0.0, column.psi - psi_by_chance(*cells))
        return _Measured(column, values_p, missing_p, excess)

    def judged(self, limit: float, policy: DriftPolicy, *, together: float) -> ColumnDrift:
        """Each effect must be real by its own test, and large by its own measure or with those of the other columns."""
        column = self.column
        large_values = (column.psi >= policy.least_psi or column.new_share >= policy.least_share_change
                        or (together >= policy.least_joint_psi and not column.ages and column.name != PREDICTION))
        large_missing = abs(column.missing_change) >= policy.least_share_change
        comparable = column.problem is None
        values_moved = comparable and large_values and self.values_p <= limit
        missing_moved = comparable and large_missing and self.missing_p <= limit
        flagged = values_moved or missing_moved
        weight = 1.0 if column.importance is None else column.importance
        # Growing is what an ageing column does; losing its values is not.
        unexpected = missing_moved or not column.ages
        matters = flagged and unexpected and weight >= policy.least_importance
        return replace(column, values_moved=values_moved, missing_moved=missing_moved, flagged=flagged, matters=matters)


def _values(column: pd.Series[Any], numeric: bool) -> npt.NDArray[Any] | str:
    """The values that are not missing, as numbers or as text; or, as a `str`, why they cannot be read so."""
    present = column.dropna()
    if numeric and pd.api.types.is_numeric_dtype(present):
        return present.to_numpy(dtype=float)
    wanted, word = (Number, "numbers") if numeric else (str, "text")  # Decimal is a Number; "12" is not
    strange = sum(not isinstance(value, wanted) for value in present)
    if strange:
        return f"{strange:,} of {len(present):,} values are no {word}"
    return present.to_numpy(dtype=float if numeric else object)
