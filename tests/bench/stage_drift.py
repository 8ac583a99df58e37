"""How often the drift check flags without a drift, acts, and what it finds; Evidently's defaults beside it.

Twenty independent columns, fourteen numbers (normal, two of them skewed) and six categories of 2 to 12 levels, one
value in a hundred missing, each of the same importance in the model; and the score. Reference and current have the same
size.
The check is `assess_drift` as the monitor calls it. Evidently counts the same columns by `DriftedColumnsCount` with its
defaults: *any* is one drifted column or more, *dataset* half of them, which is what it calls drift. It is asked fewer
times, for it takes ten times as long.

    python -m tests.bench.stage_drift      prints the rows (ten minutes)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from models.contract import Column, Contract
from models.gates.drift import PREDICTION, assess_drift
from models.limits import DriftPolicy
from models.training.contacts import WEIGHT, weigh_uncontacted
from tasks.training.payload import draw_reference

NUMERIC: Final = 14
LEVELS: Final = (2, 3, 4, 5, 8, 12)  # of the categories
CONTRACT: Final = Contract("id", "label", (), (
    *(Column(f"n{place}", "float64", "numeric", "count", "a number", nullable=True) for place in range(NUMERIC)),
    *(Column(f"c{place}", "string", "categorical", "word", "a word", nullable=True) for place in range(len(LEVELS))),
), {})
IMPORTANCE: Final = dict.fromkeys(CONTRACT.feature_names, 1 / 20)
POLICY: Final = DriftPolicy()
MISSING: Final = 0.01
REPETITIONS: Final = {500: 600, 5_000: 200, 50_000: 40}
EVIDENTLY: Final = {500: 100, 5_000: 40, 50_000: 5}
MOST_FLAGS: Final = 0.05
WEIGHTED_ROWS: Final = 2_000
WEIGHTED_REPETITIONS: Final = 200
CONTACTED: Final = 0.1  # the customers most at risk, but for one in ten
MONTHS: Final = 24
YEARS: Final = {500: 20, 5_000: 10, 50_000: 2}  # of two years each, with one reference
POWER_ROWS: Final = 5_000
POWER_REPETITIONS: Final = 100
EVIDENTLY_POWER: Final = 20


@dataclass(frozen=True)
class Drift:
    """What is planted in the current rows."""

    shift: float = 0.0  # of what lies under every column, in its standard deviations
    one: float = 0.0  # of the first number alone
    missing: float = MISSING  # of the first number
    new_level: float = 0.0  # share of a level of the last category that the reference lacks


QUIET: Final = Drift()
POWER: Final = {
    "0.1 sd in all columns": (Drift(shift=0.1), 0.80), "0.3 sd in one": (Drift(one=0.3), 0.95),
    "null rate 1 % to 5 %": (Drift(missing=0.05), 0.95), "a new category of 2 %": (Drift(new_level=0.02), 0.95)}


def frame(rows: int, rng: np.random.Generator, drift: Drift = QUIET) -> pd.DataFrame:
    """Rows of the twenty columns and the score, which does not depend on them."""
    found: dict[str, Any] = {}
    for place in range(NUMERIC):
        values = rng.normal(size=rows) + drift.shift + (drift.one if place == 0 else 0)
        values = np.exp(values) if place in (1, 2) else values
        missing = drift.missing if place == 0 else MISSING
        found[f"n{place}"] = np.where(rng.random(rows) < missing, np.nan, values)
    for place, levels in enumerate(LEVELS):
        edges = stats.norm.ppf(np.arange(1, levels) / levels)
        words = np.array([f"level {level}" for level in range(levels)] + ["new"], dtype=object)
        codes = np.searchsorted(edges, rng.normal(size=rows) + drift.shift)
        if drift.new_level and place == len(LEVELS) - 1:
            codes = np.where(rng.random(rows) < drift.new_level, levels, codes)
        column = words[codes]
        column[rng.random(rows) < MISSING] = None
        found[f"c{place}"] = column
    return pd.DataFrame(found).assign(**{PREDICTION: rng.beta(2, 5, rows)})


def ours(reference: pd.DataFrame, current: pd.DataFrame, *, worth: float | None = None) -> bool:
    """Does one check flag?"""
    report = assess_drift(reference, current, CONTRACT, POLICY, IMPORTANCE, worth=worth)
    assert report.problem is None, report.problem
    return bool(report.mattering)


def ours_weighted(reference: pd.DataFrame, current: pd.DataFrame) -> bool:
    """The same, with a reference of who was not contacted, drawn by weights, as a release has it after a campaign."""
    score = reference[PREDICTION].to_numpy()
    holdout = np.random.default_rng(0).random(len(reference)) < CONTACTED
    contacted = (score > np.quantile(score, 1 - CONTACTED)) & ~holdout
    weights = weigh_uncontacted(contacted, holdout, score)
    drawn, worth = draw_reference(reference[weights.kept].assign(**{WEIGHT: weights.weight, "event_timestamp": 0}))
    return ours(drawn, current, worth=worth)


def evidently(reference: pd.DataFrame, current: pd.DataFrame) -> tuple[bool, bool]:
    """Any column by Evidently's defaults, and what it calls drift of the dataset."""
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import DriftedColumnsCount

    definition = DataDefinition(numerical_columns=[*CONTRACT.numeric, PREDICTION],
                                categorical_columns=list(CONTRACT.categorical))
    sides = [Dataset.from_pandas(side, data_definition=definition) for side in (current, reference)]
    counted = Report([DriftedColumnsCount()]).run(*sides).dict()["metrics"][0]["value"]
    return counted["count"] >= 1, counted["share"] >= 0.5


def rate(judge: Callable[[pd.DataFrame, pd.DataFrame], Any], rows: int, times: int, drift: Drift, seed: int) -> Any:
    """How often it flags, of `times` with a reference and current rows of their own; shape of what it answers."""
    said = []
    for number in range(times):
        rng = np.random.default_rng([seed, rows, number])
        said.append(judge(frame(rows, rng), frame(rows, rng, drift)))
    return np.mean(said, axis=0)


def acts(rows: int, years: int) -> list[int]:
    """In how many of 24 quiet months enough of the last checks flagged; one reference for all of them."""
    found = []
    for number in range(years):
        rng = np.random.default_rng([2, rows, number])
        reference = frame(rows, rng)
        flags = [ours(reference, frame(rows, rng)) for _ in range(MONTHS)]
        last = [sum(flags[max(0, month - POLICY.of_checks + 1): month + 1]) for month in range(MONTHS)]
        found.append(sum(flag and count >= POLICY.flags_to_act for flag, count in zip(flags, last, strict=True)))
    return found


def row(what: str, seen: str, beside: str, limit: str, word: str) -> str:
    return f"{what:<58} {seen:>26}  {beside}; {limit}  {word}".rstrip()


def rows() -> Iterator[str]:
    """Lines of `make bench-drift`."""
    for part in (false_flags, false_acts, power):
        yield from part()


def false_flags() -> Iterator[str]:
    for size, times in REPETITIONS.items():
        flagged = float(rate(ours, size, times, QUIET, 0))
        any_, dataset = rate(evidently, size, EVIDENTLY[size], QUIET, 0)
        yield row(f"quiet check flags, {size:,} rows, {times} times", f"{flagged:.1%}",
                  f"Evidently any {any_:.0%}, dataset {dataset:.0%} (of {EVIDENTLY[size]})",
                  f"at most {MOST_FLAGS:.0%}", "ok" if flagged <= MOST_FLAGS else "missed")
    flagged = float(rate(ours_weighted, WEIGHTED_ROWS, WEIGHTED_REPETITIONS, QUIET, 3))
    yield row(f"the same, {WEIGHTED_ROWS:,} rows after a campaign, {WEIGHTED_REPETITIONS} times", f"{flagged:.1%}",
              f"{CONTACTED:.0%} contacted, a tenth of them held out", f"at most {MOST_FLAGS:.0%}",
              "ok" if flagged <= MOST_FLAGS else "missed")


def false_acts() -> Iterator[str]:
    for size, years in YEARS.items():
        seen = acts(size, years)
        yield row(f"acts in {MONTHS} quiet months, {size:,} rows, {years} times",
                  f"{np.mean(seen):.2f} (max {max(seen)})", f"{POLICY.flags_to_act} of {POLICY.of_checks} flags",
                  "at most 1", "ok" if max(seen) <= 1 else "missed")


def power() -> Iterator[str]:
    for name, (drift, least) in POWER.items():
        found = float(rate(ours, POWER_ROWS, POWER_REPETITIONS, drift, 1))
        any_, dataset = rate(evidently, POWER_ROWS, EVIDENTLY_POWER, drift, 1)
        yield row(f"found at {POWER_ROWS:,} rows: {name}, {POWER_REPETITIONS} times", f"{found:.0%}",
                  f"Evidently any {any_:.0%}, dataset {dataset:.0%} (of {EVIDENTLY_POWER})", f"at least {least:.0%}",
                  "ok" if found >= least else "missed")


def main() -> None:
    for one in rows():
        print(one, flush=True)


if __name__ == "__main__":
    main()
