"""What an error may say where it is kept."""

from __future__ import annotations

import re

import pytest

from models.errors import DataError, describe


def test_our_own_error_is_told_with_its_first_line():
    assert describe(DataError("cannot read x: it is gone.\nMore")) == "DataError: cannot read x: it is gone."


def test_another_error_is_told_by_type_and_place_and_none_of_its_values():
    with pytest.raises(ValueError, match="Anna Meier") as caught:
        int("Anna Meier")
    assert re.fullmatch(r"ValueError at test_errors\.py:\d+", describe(caught.value))
