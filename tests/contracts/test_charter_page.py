"""docs/charter.md works through what the code computes."""

from __future__ import annotations

import re

import pytest
import yaml

from flows.settings import REPO
from models.charter import Value, load_charter
from models.gates.go import smallest_detectable
from models.team import DEFAULT_TEAM, MEASURES

PAGE = (REPO / "docs" / "charter.md").read_text(encoding="utf-8")
EXAMPLE, LEVELS = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))


def test_the_worked_example_of_the_page_comes_out():
    value = Value.model_validate(EXAMPLE["value"])
    assert (value.saved, value.monthly, value.at_stake) == (400, 3200, 10_000)
    assert "**400 customers saved**" in PAGE
    assert "**3,200 a month**" in PAGE


def test_the_levels_of_the_page_are_those_of_the_sample_world():
    assert load_charter(REPO / "charter.yaml").metrics == LEVELS["metrics"]


def test_the_page_names_every_metric_and_every_role():
    for name in MEASURES:
        assert f"`{name}`" in PAGE
    for role in DEFAULT_TEAM:
        assert role in PAGE.replace("\n", " ")


def test_the_smallest_share_of_the_page_is_what_the_formula_gives():
    share = smallest_detectable(churners=727, at_random=600 / 5475, confidence=0.95)
    assert share == pytest.approx(0.14, abs=0.005)
