from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract import Column, Contract
from models.errors import DataError
from models.evaluation.segments import MISSING, OTHER, ordered_levels, segment_levels


def contract(*columns: Column) -> Contract:
    return Contract("id", "left", (), columns, {})


def number(unit: str = "days", dtype: str = "float64") -> Contract:
    return contract(Column("x", dtype, "numeric", unit, "a number", segment=True))


def levels(values: list[object], of: Contract) -> list[str]:
    return segment_levels(pd.DataFrame({"x": values}), of)["x"].tolist()


def test_only_the_columns_the_contract_names_make_segments():
    both = contract(Column("x", "float64", "numeric", "days", "a number", segment=True),
                    Column("y", "float64", "numeric", "days", "another"))
    assert list(segment_levels(pd.DataFrame({"x": [1.0], "y": [2.0]}), both)) == ["x"]


def test_numbers_fall_into_quarters_whose_labels_say_their_ends():
    found = levels([*range(1, 9)], number())
    assert found == ["up to 2 days"] * 2 + ["3 to 4 days"] * 2 + ["5 to 6 days"] * 2 + ["over 6 days"] * 2


def test_fractions_are_cut_where_the_label_says():
    values = [0.5, 1.26, 2.5, 3.75, 4.0, 5.5, 7.5, 9.0]
    assert ordered_levels(levels(values, number())) == [
        "up to 2.19 days", "2.19 to 3.88 days", "3.88 to 6 days", "over 6 days"]


def test_few_values_are_levels_as_they_are_and_a_missing_one_is_a_level_of_its_own():
    assert levels([1, 2, 2, np.nan], number("count")) == ["1", "2", "2", MISSING]
    assert levels([np.nan, np.nan], number()) == [MISSING, MISSING]


def test_many_equal_values_make_fewer_quarters():
    assert ordered_levels(levels([0] * 80 + [1, 2, 3, 4, 5], number("count"))) == ["up to 0", "over 0"]
    assert ordered_levels(levels([1, 2, 3, 4] + [9] * 80, number("count"))) == ["up to 9"]


def test_categories_are_levels_and_rare_ones_are_one_together():
    tier = contract(Column("x", "string", "categorical", "tier", "which", segment=True))
    assert levels(["b", None, "a"], tier) == ["b", MISSING, "a"]
    many = [f"c{code:03d}" for code in range(300)] + [f"c{code:03d}" for code in range(11)]
    found = levels(many, tier)
    assert ordered_levels(found) == [*(f"c{code:03d}" for code in range(11)), OTHER]
    assert found.count(OTHER) == 289


def test_levels_stand_by_size_then_by_name_and_what_is_missing_last():
    given_ = [MISSING, "over 1,200 days", "beta", "1,000 to 1,200 days", "up to 90 days", "90.5 to 1,000 days", OTHER,
              "alpha", "alpha"]
    assert ordered_levels(given_) == ["up to 90 days", "90.5 to 1,000 days", "1,000 to 1,200 days", "over 1,200 days",
                                      "alpha", "beta", OTHER, MISSING]


@given(st.lists(st.floats(-1e9, 1e9) | st.just(float("nan")) | st.integers(-20, 20).map(float), min_size=1))
def test_every_row_has_one_level_and_levels_do_not_overlap(values):
    found = np.array(levels(values, number("count")))
    known = np.array(values)
    assert (found[np.isnan(known)] == MISSING).all()
    real = known[~np.isnan(known)]
    # In the order of the values no level comes back once it was left.
    ordered = found[~np.isnan(known)][np.argsort(real, kind="stable")]
    assert (ordered[1:] != ordered[:-1]).sum() + 1 == len(set(ordered)) or not len(real)
    assert len(set(ordered)) <= 4


def test_infinity_falls_into_the_last_quarter():
    assert levels([1.0, 2.0, 3.0, 4.0, 5.0, np.inf], number())[-1].startswith("over ")


def test_a_missing_segment_column_is_refused_by_name():
    with pytest.raises(DataError, match="cannot cut segments by 'x': the rows lack it; nearest known: xx"):
        segment_levels(pd.DataFrame({"xx": [1.0]}), number())
