"""Which service tests share a process: those that share a platform, and so its ports."""

from __future__ import annotations

import pytest

from tests.conftest import TOGETHER, group_of

REMAINING = "tests/flows/test_release_flow.py"


@pytest.mark.parametrize("folder", TOGETHER)
def test_a_folder_with_a_platform_of_its_own_is_one_group(folder):
    assert group_of(f"{folder}/test_a.py::test_x[a::b]") == group_of(f"{folder}/test_b.py::test_y") == folder


def test_any_other_file_is_a_group_of_its_own():
    assert group_of(f"{REMAINING}::test_a") == group_of(f"{REMAINING}::test_b[tests/loop/x]") == REMAINING
    assert group_of("tests/loop_of_another_name/test_a.py::test_a") == "tests/loop_of_another_name/test_a.py"
