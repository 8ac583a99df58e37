"""Has the world moved away from what the model learnt, and is that reason enough to learn again?

`assess_drift` compares two frames column by column, `decide_retrain` weighs this check with the ones
before. A column is flagged when its difference is real (Benjamini-Hochberg over the columns) *and*
large; a flag counts towards acting when the model leans on the column. What cannot be judged is an
alarm, never an "all is well".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from numbers import Number
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.charter import DriftPolicy
from models.contract import Contract
from models.decision import Decision
from models.two_sample import (
    BINS,
    benjamini_hochberg_limit,
    bin_numbers,
    chi2_p_value,
    count_levels,
    ks_p_value,
    missing_p_value,
    psi,
)

PREDICTION: Final = "churn_probability"  # the score; drift of what the model says counts in full


@dataclass(frozen=True)
class ColumnDrift:
    """One column, current against reference. Where it cannot be compared, `problem` says why."""

    name: str
    test: Literal["KS", "chi2", "none"]  # of the values; "none": no value on one side
    p_value: float  # smallest of the column's tests (values, missingness), Bonferroni-corrected within the column
    psi: float  # of the values, missing ones left out; 0 where a side has none
    missing_change: float  # share of missing values, current minus reference, in [-1, 1]
    new_share: float  # share of current values at a level the reference lacks, in [0, 1]
    importance: float | None  # share of the model's importance, in [0, 1]; None: unknown, which counts as mattering
    flagged: bool = False
    matters: bool = False  # flagged, and important enough to count towards acting
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
) -> DriftReport:
    """Compare every feature of the contract and the prediction, reference against current.

    Args:
        reference: what the release learnt from: the contract's features and `churn_probability`.
        current: what it scores now, same columns; no column may be missing.
        importance: feature -> share of the model's importance, summing to 1.
    """
    for side, rows in (("current", len(current)), ("reference", len(reference))):
        if rows < policy.least_rows:
            return DriftReport((), len(current), len(reference), f"{rows:,} {side} rows, needs {policy.least_rows:,}")
    numeric = {*contract.numeric, PREDICTION}
    measured = [
        _Measured.of(name, reference, current, name in numeric, 1.0 if name == PREDICTION else importance.get(name))
        for name in [*contract.feature_names, PREDICTION]
    ]
    growing = {feature.name for feature in contract.features if feature.ages}
    measured = [replace(one, column=replace(one.column, ages=one.column.name in growing)) for one in measured]
    comparable = [one for one in measured if one.column.problem is None]
    limit = benjamini_hochberg_limit([one.column.p_value for one in comparable], policy.false_discovery_rate)
    columns = tuple(one.judged(limit, policy) for one in measured)
    problems = [f"{column.name} {column.problem}" for column in columns if column.problem]
    return DriftReport(columns, len(current), len(reference), "; ".join(problems) or None)


@dataclass(frozen=True)
class _Measured:
    """A column before the limit over all columns is known."""

    column: ColumnDrift
    values_p: float = 1.0
    missing_p: float = 1.0

    @staticmethod
    def of(
        name: str, reference: pd.DataFrame, current: pd.DataFrame, numeric: bool, importance: float | None
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
        missing_p = missing_p_value(*missing)
        if not len(was) or not len(now):
            return _Measured(replace(blank, p_value=missing_p), missing_p=missing_p)
        few = not numeric or len(pd.unique(was)) <= BINS
        cells = count_levels(was, now) if few else bin_numbers(was, now)
        values_p = chi2_p_value(*cells) if few else ks_p_value(was, now)
        values_p, missing_p = min(1.0, 2 * values_p), min(1.0, 2 * missing_p)  # two tests: Bonferroni
        column = replace(
            blank, test="chi2" if few else "KS", p_value=min(values_p, missing_p), psi=psi(*cells),
            new_share=float(np.mean(~pd.Index(now).isin(pd.unique(was)))) if few else 0.0,
        )
        return _Measured(column, values_p, missing_p)

    def judged(self, limit: float, policy: DriftPolicy) -> ColumnDrift:
        """Each effect must be large by its own measure and real by its own test."""
        column = self.column
        large_values = column.psi >= policy.least_psi or column.new_share >= policy.least_share_change
        large_missing = abs(column.missing_change) >= policy.least_share_change
        values_moved = large_values and self.values_p <= limit
        missing_moved = large_missing and self.missing_p <= limit
        flagged = column.problem is None and (values_moved or missing_moved)
        weight = 1.0 if column.importance is None else column.importance
        # Growing is what an ageing column does; losing its values is not.
        unexpected = missing_moved or not column.ages
        return replace(column, flagged=flagged, matters=flagged and unexpected and weight >= policy.least_importance)


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


def decide_retrain(
    report: DriftReport,
    earlier_flags: Sequence[bool],
    policy: DriftPolicy,
    *,
    last_retrain: datetime | None,
    now: datetime,
) -> Decision:
    """`ignore`, `flag`, `retrain` or `alarm`, from this check and the ones before it.

    Args:
        earlier_flags: whether each earlier check flagged; one entry a distinct `as_of`, newest first.
        last_retrain: platform clock of the last retraining; None: there was none.
        now: platform clock, time zone aware like `last_retrain`.
    """
    evidence: dict[str, float | int | str | None] = {
        "flagged_columns": ",".join(column.name for column in report.flagged),
        "mattering_columns": ",".join(column.name for column in report.mattering),
        "max_psi": round(report.max_psi, 4), "rows": report.rows, "reference_rows": report.reference_rows,
    }
    if report.problem:
        return Decision("drift", "alarm", f"cannot judge drift: {report.problem}", evidence)
    harmless = [column for column in report.flagged if not column.matters]
    aside = "".join(
        f"; harmless, {why}: {', '.join(column.describe() for column in columns)}"
        for why, columns in (
            (f"below {policy.least_importance:.1%} of the importance", [one for one in harmless if not one.ages]),
            ("growing with the age of the data", [one for one in harmless if one.ages]),
        ) if columns
    )
    if not report.mattering:
        text = (
            f"no column of {len(report.columns)} that matters moved: largest PSI {report.max_psi:.3f} (limit "
            f"{policy.least_psi}), {report.rows:,} rows against {report.reference_rows:,}{aside}"
        )
        return Decision("drift", "ignore", text, evidence)
    checks = [True, *earlier_flags][: policy.of_checks]
    evidence |= {"flags": sum(checks), "checks": len(checks)}
    moved = f"moved: {', '.join(column.describe() for column in report.mattering)}{aside}"
    count = f"{sum(checks)} of the last {policy.of_checks} checks flagged, {policy.flags_to_act} needed"
    if sum(checks) < policy.flags_to_act:
        return Decision("drift", "flag", f"{count}; {moved}", evidence)
    if last_retrain is None:
        return Decision("drift", "retrain", f"{count}, never retrained; {moved}", evidence)
    days = (now - last_retrain).total_seconds() / 86_400
    cooldown = f"retrained {days:.0f} days ago, cool-down {policy.cooldown_days} days"
    verdict = "flag" if days < policy.cooldown_days else "retrain"
    evidence["days_since_retrain"] = round(days, 2)
    return Decision("drift", verdict, f"{count}, {cooldown}; {moved}", evidence)
