"""What an error may say where it is kept."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from models.errors import DataError, describe


def test_our_own_error_is_told_with_its_first_line():
    assert describe(DataError("cannot read x: it is gone.\nMore")) == "DataError: cannot read x: it is gone."


@pytest.mark.parametrize("kind", [FileNotFoundError, ImportError])
def test_an_error_of_a_file_or_an_import_names_it(kind):
    assert describe(kind("no evidently\nmore")) == f"{kind.__name__}: no evidently"


def test_another_error_is_told_by_type_and_place_and_none_of_its_values():
    with pytest.raises(ValueError, match="Anna Meier") as caught:
        int("Anna Meier")
    assert re.fullmatch(r"ValueError at test_errors\.py:\d+", describe(caught.value))


@pytest.mark.parametrize("ask", [lambda: json.loads("Anna Meier"), lambda: pd.to_numeric(pd.Series(["Anna Meier"]))],
                         ids=["of Python's library", "of a package"])
def test_the_place_of_an_error_is_ours_where_a_library_raised_it(ask):
    with pytest.raises(ValueError, match=r"Anna|Expecting") as caught:
        ask()
    assert re.fullmatch(r"\w+ at test_errors\.py:\d+", describe(caught.value))
