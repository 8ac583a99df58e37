"""The drift check: what it flags, what it lets pass, what it refuses to judge, and when flags are enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from models.contract import Column, Contract
from models.gates.drift import PREDICTION, ColumnDrift, DriftReport, assess_drift
from models.limits import DriftPolicy

POLICY = DriftPolicy()


def contract_of(numeric: int = 2, categorical: int = 1) -> Contract:
    columns = [Column(f"n{i}", "float64", "numeric", "count", "a number") for i in range(numeric)]
    columns += [Column(f"c{i}", "string", "categorical", "word", "a word") for i in range(categorical)]
    return Contract("id", "label", (), tuple(columns), {})


def rows_of(contract: Contract, rows: int, random: np.random.Generator) -> pd.DataFrame:
    frame = pd.DataFrame({name: random.normal(size=rows) for name in contract.numeric})
    for name in contract.categorical:
        frame[name] = random.choice(["red", "green", "blue"], rows, p=[0.5, 0.3, 0.2]).astype(object)
    frame[PREDICTION] = random.beta(2, 5, rows)
    return frame


def even(contract: Contract) -> dict[str, float]:
    return {name: 1 / len(contract.feature_names) for name in contract.feature_names}


def assess(change: Callable[[pd.DataFrame], object], rows: int = 1000, **importance: float) -> DriftReport:
    """A check of two features n0, n1, one category c0, after `change` was made to the current rows."""
    contract, random = contract_of(), np.random.default_rng(7)
    reference, current = rows_of(contract, rows, random), rows_of(contract, rows, random)
    change(current)
    return assess_drift(reference, current, contract, POLICY, even(contract) | importance)


def column(report: DriftReport, name: str) -> ColumnDrift:
    return next(one for one in report.columns if one.name == name)


def put(name: str, values: object) -> Callable[[pd.DataFrame], object]:
    return lambda frame: frame.__setitem__(name, values)


@pytest.mark.parametrize(("rows", "checks", "most"), [(300, 150, 0.085), (2000, 60, 0.1)])
def test_without_drift_hardly_any_check_flags_any_column(rows: int, checks: int, most: float) -> None:
    contract, random = contract_of(6, 3), np.random.default_rng(1)
    flags = []
    for _ in range(checks):
        reference, current = rows_of(contract, rows, random), rows_of(contract, rows, random)
        flags.append(bool(assess_drift(reference, current, contract, POLICY, {}).flagged))
    assert np.mean(flags) <= most  # nominal 0.05 and two standard errors


def test_a_shift_of_a_third_of_a_standard_deviation_in_one_of_twenty_columns_is_found() -> None:
    contract, random = contract_of(14, 6), np.random.default_rng(2)
    found = []
    for _ in range(20):
        reference, current = rows_of(contract, 5000, random), rows_of(contract, 5000, random)
        current["n3"] += 0.3
        found.append([one.name for one in assess_drift(reference, current, contract, POLICY, {}).flagged])
    assert np.mean(["n3" in names for names in found]) >= 0.95
    assert np.mean([len(names) - ("n3" in names) for names in found]) <= 0.1  # and nothing else


def test_a_difference_that_is_real_but_tiny_is_not_flagged() -> None:
    report = assess(lambda frame: frame.__setitem__("n0", frame["n0"] + 0.08), rows=20_000)
    assert column(report, "n0").p_value < 1e-6
    assert not report.flagged


def test_a_large_psi_that_may_be_chance_is_not_flagged() -> None:
    report = assess(lambda _: None, rows=200)
    assert report.max_psi > POLICY.least_psi
    assert not report.flagged


def test_one_outlier_does_not_hide_a_shift() -> None:
    def shift(frame: pd.DataFrame) -> None:
        frame["n0"] += 1
        frame.loc[0, "n0"] = 1e9

    assert column(assess(shift), "n0").psi > 0.5


def test_a_jump_of_missing_values_is_flagged_though_the_values_stay() -> None:
    def lose(frame: pd.DataFrame) -> None:
        frame.loc[frame.index[:100], "n0"] = np.nan

    report = assess(lose)
    moved = column(report, "n0")
    assert moved.flagged
    assert moved.missing_change == pytest.approx(0.1)
    assert "missing +10.0%" in moved.describe()


def test_a_new_category_is_flagged_and_its_share_said() -> None:
    def add(frame: pd.DataFrame) -> None:
        frame.loc[frame.index[:50], "c0"] = "violet"

    moved = column(assess(add), "c0")
    assert moved.flagged
    assert moved.new_share == pytest.approx(0.05)


def test_new_levels_are_flagged_together_though_each_is_rare() -> None:
    contract = contract_of(0, 1)
    reference = pd.DataFrame({PREDICTION: np.linspace(0, 1, 5000)})
    reference["c0"] = ["usual"] * 4000 + [f"old {n}" for n in range(1000)]
    current = reference.assign(c0=["usual"] * 3750 + [f"new {n}" for n in range(1250)])
    moved = column(assess_drift(reference, current, contract, POLICY, {}), "c0")
    assert moved.psi < POLICY.least_psi  # to the PSI they are part of one pool that grew from 20 to 25 %
    assert (moved.flagged, moved.new_share) == (True, 0.25)


def test_many_rare_levels_exchanged_for_others_are_flagged() -> None:
    """Pooled on both sides they were the same pool, and nothing was seen."""
    contract = contract_of(0, 1)
    reference = pd.DataFrame({PREDICTION: np.linspace(0, 1, 5000), "c0": [f"old {n % 500}" for n in range(5000)]})
    current = reference.assign(c0=[f"new {n % 500}" for n in range(5000)])
    moved = column(assess_drift(reference, current, contract, POLICY, {}), "c0")
    assert (moved.flagged, moved.new_share, moved.psi) == (True, 1.0, 0.0)


def test_a_category_of_a_thousand_rare_levels_is_not_flagged_for_levels_the_reference_happens_to_lack() -> None:
    contract, random = contract_of(1, 1), np.random.default_rng(3)
    flags = 0
    for _ in range(60):
        frames = [rows_of(contract, 1000, random) for _ in range(2)]
        for frame in frames:
            frame["c0"] = [f"level {level}" for level in np.minimum(random.zipf(1.3, 1000), 1000)]
        report = assess_drift(*frames, contract, POLICY, {})
        assert column(report, "c0").new_share > POLICY.least_share_change
        flags += column(report, "c0").flagged
    assert flags <= 5


def test_a_number_with_few_values_is_compared_value_by_value() -> None:
    contract, random = contract_of(1, 0), np.random.default_rng(4)
    reference, current = rows_of(contract, 1000, random), rows_of(contract, 1000, random)
    reference["n0"], current["n0"] = random.integers(0, 4, 1000), random.integers(0, 5, 1000)
    moved = column(assess_drift(reference, current, contract, POLICY, {}), "n0")
    assert (moved.test, moved.flagged) == ("chi2", True)
    assert moved.new_share == pytest.approx(0.2, abs=0.04)


def test_a_column_empty_now_is_flagged_as_missing() -> None:
    moved = column(assess(put("n1", np.nan)), "n1")
    assert (moved.test, moved.flagged, moved.missing_change) == ("none", True, 1.0)


def test_a_column_empty_on_both_sides_has_not_moved() -> None:
    contract, random = contract_of(), np.random.default_rng(5)
    frame = rows_of(contract, 500, random).assign(n0=np.nan)
    assert not assess_drift(frame, frame.copy(), contract, POLICY, {}).flagged


def test_decimals_are_numbers() -> None:
    report = assess(lambda frame: frame.__setitem__("n0", [Decimal(str(value)) for value in frame["n0"]]))
    assert report.problem is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop(columns="n0", inplace=True), "n0 is missing from the current rows"),
        (put("n0", "12.5"), "n0 changed type: 1,000 of 1,000 values are no numbers"),
        (put("n0", pd.Timestamp("2025-01-01", tz="UTC")), "n0 changed type: 1,000 of 1,000 values are no numbers"),
        (put("c0", 3.0), "c0 changed type: 1,000 of 1,000 values are no text"),
        (lambda frame: frame.drop(columns=PREDICTION, inplace=True), f"{PREDICTION} is missing from the current rows"),
        (lambda frame: frame.drop(index=frame.index, inplace=True), "0 current rows, needs 200"),
        (lambda frame: frame.drop(index=frame.index[199:], inplace=True), "199 current rows, needs 200"),
    ],
    ids=["missing", "text", "date", "number", "no prediction", "no rows", "too few"],
)
def test_what_cannot_be_compared_is_a_problem_said(change: Callable[[pd.DataFrame], object], said: str) -> None:
    assert said in (assess(change).problem or "")


def test_too_small_a_reference_is_a_problem() -> None:
    contract, random = contract_of(), np.random.default_rng(6)
    report = assess_drift(rows_of(contract, 199, random), rows_of(contract, 1000, random), contract, POLICY, {})
    assert report.problem == "199 reference rows, needs 200"


def test_a_small_reference_is_worth_no_more_rows_than_it_has() -> None:
    contract, random = contract_of(), np.random.default_rng(6)
    sides = rows_of(contract, 150, random), rows_of(contract, 1000, random)
    assert assess_drift(*sides, contract, POLICY, {}, worth=5000).problem == "150 reference rows, needs 200"
    assert "0 reference rows" in str(assess_drift(sides[0].head(0), sides[1], contract, POLICY, {}, worth=5000).problem)


@pytest.mark.parametrize(("worth", "said"), [(199.6, "199.6"), (0.0, "0"), (-1.0, "-1"), (float("nan"), "nan")])
def test_a_reference_that_is_worth_too_few_rows_is_a_problem(worth: float, said: str) -> None:
    contract, random = contract_of(), np.random.default_rng(6)
    sides = rows_of(contract, 1000, random), rows_of(contract, 1000, random)
    assert assess_drift(*sides, contract, POLICY, {}, worth=worth).problem == f"{said} reference rows, needs 200"


def test_a_reference_whose_rows_stand_twice_is_worth_half_of_them() -> None:
    """Taken for as many customers, copies make every test too sure: of quiet checks a third flag."""
    contract, random = contract_of(6, 3), np.random.default_rng(5)
    flags = []
    for _ in range(60):
        reference, current = pd.concat([rows_of(contract, 500, random)] * 2), rows_of(contract, 2000, random)
        flags.append([bool(assess_drift(reference, current, contract, POLICY, {}, worth=worth).flagged)
                      for worth in (500, None)])
    as_half, as_all = np.mean(flags, axis=0)
    assert (as_half <= 0.1, as_all >= 0.2) == (True, True), (as_half, as_all)


def test_a_reference_worth_half_of_its_rows_still_shows_what_moved() -> None:
    contract, random = contract_of(), np.random.default_rng(4)
    reference, current = pd.concat([rows_of(contract, 1000, random)] * 2), rows_of(contract, 2000, random)
    moved = current.assign(n0=current["n0"] + 0.3)
    assert [one.name for one in assess_drift(reference, moved, contract, POLICY, {}, worth=1000).flagged] == ["n0"]


def test_a_moved_column_the_model_does_not_lean_on_is_harmless_and_said_to_be() -> None:
    report = assess(lambda frame: frame.__setitem__("n0", frame["n0"] + 1), n0=0.004)
    assert ([one.name for one in report.flagged], report.mattering) == (["n0"], ())


def ageing(contract: Contract) -> Contract:
    columns = tuple(replace(column, ages=column.name == "n0") for column in contract.snapshot)
    return replace(contract, snapshot=columns)


def test_a_column_that_grows_with_the_data_is_no_reason_to_act_unless_its_values_go_missing() -> None:
    contract, random = ageing(contract_of()), np.random.default_rng(8)
    reference, current = rows_of(contract, 1000, random), rows_of(contract, 1000, random)
    weights = {"n0": 0.9, "n1": 0.1}
    grown = assess_drift(reference, current.assign(n0=current["n0"] + 1), contract, POLICY, weights)
    assert ([one.name for one in grown.flagged], grown.mattering) == (["n0"], ())
    lost = current.assign(n0=current["n0"].where(np.arange(1000) % 2 == 0))
    assert [one.name for one in assess_drift(reference, lost, contract, POLICY, weights).mattering] == ["n0"]


def test_a_moved_column_of_unknown_importance_counts() -> None:
    contract, random = contract_of(), np.random.default_rng(8)
    reference, current = rows_of(contract, 1000, random), rows_of(contract, 1000, random).assign(n0=5.0)
    assert [one.name for one in assess_drift(reference, current, contract, POLICY, {}).mattering] == ["n0"]


def test_drift_of_the_prediction_always_counts() -> None:
    report = assess(lambda frame: frame.__setitem__(PREDICTION, frame[PREDICTION] / 2))
    assert [one.name for one in report.mattering] == [PREDICTION]


def shifted(numeric: int, sd: float, *, copies: bool = False) -> DriftReport:
    """5,000 rows a side of as many numbers, each moved by `sd`; with `copies` they are one number over and over."""
    contract, random = contract_of(numeric, 0), np.random.default_rng(3)
    reference, current = rows_of(contract, 5000, random), rows_of(contract, 5000, random)
    if copies:
        for frame in (reference, current):
            for name in contract.numeric[1:]:
                frame[name] = frame[contract.numeric[0]]
    for name in contract.numeric:
        current[name] += sd
    return assess_drift(reference, current, contract, POLICY, even(contract))


def test_small_differences_of_many_columns_are_a_large_one_together() -> None:
    report = shifted(20, 0.1)
    small = [one for one in report.columns if one.name != PREDICTION and one.psi < POLICY.least_psi]
    assert len(small) > 10
    assert sum(one.flagged for one in small) > 10
    assert not any(one.flagged for one in shifted(4, 0.1).columns)


def test_copies_of_one_small_difference_are_still_a_small_one() -> None:
    report = shifted(20, 0.1, copies=True)
    assert max(one.p_value for one in report.columns if one.name != PREDICTION) < 0.01
    assert not any(one.flagged for one in report.columns)


def many(shifted_columns: int, *, of: int = 60, sd: float = 1.0, policy: DriftPolicy = POLICY) -> DriftReport:
    """Columns of equal importance, each too light to count alone; some moved by `sd`, the prediction not at all."""
    contract, random = contract_of(of, 0), np.random.default_rng(9)
    reference, current = rows_of(contract, 2000, random), rows_of(contract, 2000, random)
    for name in contract.numeric[:shifted_columns]:
        current[name] += sd
    return assess_drift(reference, current, contract, policy, even(contract))


def test_many_light_columns_matter_together_from_ten_times_the_least_importance() -> None:
    assert len(many(60).mattering) == 60  # the whole model, by parts of a sixtieth
    assert len(many(12).mattering) == 12  # 20 % of it
    few = many(11)
    assert (len(few.flagged), few.mattering) == (11, ())
    heavy = DriftPolicy(least_importance=0.1)
    assert (len(many(29, policy=heavy).mattering), len(many(30, policy=heavy).mattering)) == (0, 30)  # half is most


def test_what_grows_with_the_data_is_not_summed_up() -> None:
    contract, random = contract_of(60, 0), np.random.default_rng(9)
    contract = replace(contract, snapshot=tuple(replace(one, ages=True) for one in contract.snapshot))
    reference, current = rows_of(contract, 1000, random), rows_of(contract, 1000, random)
    for name in contract.numeric:
        current[name] += 1
    report = assess_drift(reference, current, contract, POLICY, even(contract))
    assert (len(report.flagged), report.mattering) == (60, ())


@pytest.mark.parametrize(("weights", "said"), [
    ({"n0": float("nan"), "n1": 0.5, "c0": 0.5}, "the importance of n0 is nan"),
    ({"n0": float("inf"), "n1": 0.0, "c0": 0.0}, "the importance of n0 is inf"),
    ({"n0": -0.2, "n1": 0.6, "c0": 0.6}, "the importance of n0 is -0.2"),
    ({"n0": "0.5", "n1": 0.5, "c0": 0.0}, "the importance of n0 is '0.5'"),
    ({"n0": 0.0, "n1": 0.0, "c0": 0.0}, "the importance of all columns is 0"),
])
def test_an_importance_that_is_none_is_a_problem_said(weights: dict[str, float], said: str) -> None:
    contract, random = contract_of(), np.random.default_rng(8)
    reference, current = rows_of(contract, 500, random), rows_of(contract, 500, random)
    report = assess_drift(reference, current, contract, POLICY, weights)
    assert report.problem is not None
    assert said in report.problem
