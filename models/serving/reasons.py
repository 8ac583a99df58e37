"""Why a customer scores as they do, in words of the contract: the columns that move the score most.

Against the typical customer of the background: what is said is how this customer differs from that one. The
contributions are those of `models.serving.attribution`; base, the stated reasons and the rest add up to the log-odds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from models.contract import Column, Contract
from models.serving.attribution import Attributor
from models.serving.scorer import feature_frame, predict

TOP: Final = 3
WHOLE_UNITS: Final = ("count", "days", "years")  # said without decimals
LEAST: Final = 1e-9  # log-odds: less is no reason


@dataclass(frozen=True)
class Reason:
    """One column's part in a score."""

    column: str
    text: str
    contribution: float  # log-odds against the typical customer: above zero it raises the churn probability
    value: float | str | None
    typical: float | str | None

    @property
    def raises(self) -> bool:
        return self.contribution > 0


@dataclass(frozen=True)
class Explanation:
    """A row's score, taken apart: `base + sum of the reasons' contributions + rest` are its log-odds."""

    base: float  # log-odds of the typical customer
    reasons: tuple[Reason, ...]  # strongest first
    rest: float  # what all other columns add
    unstated: tuple[str, ...] = ()  # columns as strong as the reasons, in the rest: see `against_sign`

    @property
    def log_odds(self) -> float:
        return self.base + sum(reason.contribution for reason in self.reasons) + self.rest


def explain(
    pipeline: Any, rows: pd.DataFrame, contract: Contract, background: pd.DataFrame, *, top: int = TOP
) -> list[Explanation]:
    """The strongest reasons of each row; see `explain_rows`, which does so again and again for one pipeline.

    Raises:
        DataError: a feature is missing, or there is no background.
        ReleaseError: the pipeline is not understood.
    """
    return explain_rows(Attributor.of(pipeline, contract, background), rows, top=top)


def explain_rows(attributor: Attributor, rows: pd.DataFrame, *, top: int = TOP) -> list[Explanation]:
    """The strongest reasons of each row; fewer than `top` where fewer columns move the score."""
    contributions = attributor.contributions(rows)
    frame, features = feature_frame(rows, attributor.contract), attributor.contract.features
    odd = against_sign(attributor, frame, contributions)
    order = np.argsort(-np.abs(np.where(odd, 0.0, contributions)), axis=1, kind="stable")[:, :top]
    values = _plain(frame)
    (usual,) = _plain(attributor.reference)
    found = []
    for row, own, strongest, contrary in zip(values, contributions, order, odd, strict=True):
        named = [number for number in strongest if abs(own[number]) > LEAST and not contrary[number]]
        weakest = min((abs(own[number]) for number in named), default=0.0) if len(named) == top else LEAST
        reasons = tuple(_reason(features[number], row[number], usual[number], float(own[number])) for number in named)
        unstated = tuple(features[number].name for number in np.flatnonzero(contrary & (np.abs(own) > weakest)))
        found.append(Explanation(attributor.base, reasons, float(np.delete(own, named).sum()), unstated))
    return found


def against_sign(attributor: Attributor, frame: pd.DataFrame, contributions: np.ndarray) -> np.ndarray:
    """Where a contribution runs against the sign the contract states, shape (n, features).

    Columns that go together share one effect, and a model may give one of them too much and take it back at
    another: "few orders" would then keep a customer. That is arithmetic, no reason; it is counted, not said.
    """
    signs = np.array([column.sign if column.role == "numeric" else 0 for column in attributor.contract.features])
    ahead = np.zeros(contributions.shape)
    for number in np.flatnonzero(signs):
        name = attributor.contract.features[number].name
        ahead[:, number] = frame[name].to_numpy() - float(attributor.reference[name].iloc[0])
    return np.asarray(np.nan_to_num(ahead) * signs * contributions < 0)


def _reason(column: Column, value: float | str | None, typical: float | str | None, contribution: float) -> Reason:
    return Reason(column.name, say(column, value, typical), contribution, value, typical)


def say(column: Column, value: float | str | None, typical: float | str | None) -> str:
    """What a column's value means, in words that a non-expert reads.

    A column without wording is said by its description; a missing value is said to be unknown.
    """
    if value is None:
        return f"unknown: {column.description}"
    low = isinstance(value, float) and isinstance(typical, float) and value < typical
    wording = (column.reason_low or column.reason if low else column.reason) or f"{column.description}: {{value}}"
    if isinstance(value, str):
        return wording.replace("{value}", value)
    return _fluent(wording, _number(value, column.unit), column.unit)


def _number(value: float, unit: str) -> str:
    """As a person would say it: no decimals where they say nothing."""
    if unit in WHOLE_UNITS and (value >= 1 or value == 0):
        return f"{value:,.0f}"
    if unit == "share":
        return f"{value:.0%}"
    if unit == "currency":
        return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:,.2f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _fluent(wording: str, number: str, unit: str) -> str:
    """Put the number in: "no orders" in place of "only 0 orders", "1 order" in place of "1 orders"."""
    if number == "0" and unit in ("count", "currency"):
        word = "no" if unit == "count" else "nothing"
        return re.sub(r"\b(only )?\{value\}", word, wording)
    text = wording.replace("{value}", number)
    if number == "1" and unit in WHOLE_UNITS:
        text = re.sub(r"\b1 (order|visit|day|piece|year|change|month)s\b", r"1 \1", text)
    return text


def _plain(frame: pd.DataFrame) -> list[list[float | str | None]]:
    return [[None if one is None or (isinstance(one, float) and math.isnan(one)) else one if isinstance(one, str)
             else float(one) for one in row] for row in frame.astype(object).to_numpy()]


@dataclass(frozen=True)
class Check:
    """Whether stated reasons are reasons: each is removed, and the score must move the stated way."""

    reasons: int
    moved: int
    exceptions: tuple[Reason, ...]  # the score stood still or moved the other way
    unstated: int = 0  # columns as strong that were not stated: see `against_sign`

    @property
    def share(self) -> float:
        """NaN where no reason was stated: nothing was shown."""
        return self.moved / self.reasons if self.reasons else float("nan")


def check_reasons(attributor: Attributor, rows: pd.DataFrame, *, top: int = TOP) -> Check:
    """Set the column of each stated reason to the typical customer's value, and score again.

    Without a reason that raises the score it must fall, without one that lowers it rise.
    """
    contract = attributor.contract
    explained = explain_rows(attributor, rows, top=top)
    stated = [(number, reason) for number, one in enumerate(explained) for reason in one.reasons]
    unstated = sum(len(one.unstated) for one in explained)
    if not stated:
        return Check(0, 0, (), unstated)
    numbers = [number for number, _ in stated]
    before = feature_frame(rows, contract).iloc[numbers].reset_index(drop=True)
    after = before.copy()
    for name in contract.feature_names:
        own = [place for place, (_, reason) in enumerate(stated) if reason.column == name]
        after.loc[own, name] = attributor.reference[name].iloc[0]
    change = predict(attributor.pipeline, after, contract) - predict(attributor.pipeline, before, contract)
    wrong = [reason for (_, reason), moved in zip(stated, change, strict=True) if not moved * reason.contribution < 0]
    return Check(len(stated), len(stated) - len(wrong), tuple(wrong), unstated)


def count_exceptions(check: Check) -> Sequence[tuple[str, int]]:
    """How often the reason of each column did not hold, most often first."""
    columns = [reason.column for reason in check.exceptions]
    return sorted(((name, columns.count(name)) for name in set(columns)), key=lambda one: (-one[1], one[0]))
