from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from models.charter import load_charter
from models.errors import ConfigError

REPO = Path(__file__).parents[2]


def _written(tmp_path: Path, **changes: object) -> Path:
    document = yaml.safe_load((REPO / "charter.yaml").read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            document[section][name] = value
        else:
            document[section] = value
    path = tmp_path / "charter.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("name", ["charter.yaml", "examples/cdnow/charter.yaml"])
def test_the_charters_of_the_repo_load(name):
    assert load_charter(REPO / name).problem.horizon_days > 0


def test_the_worked_example_of_value_comes_out(tmp_path):
    """1,000 churners a month, 80 % found, 50 % of them stay, 8 a month each: 400 customers, 3,200 a month."""
    path = _written(tmp_path, value={"customers": 100_000, "monthly_churners": 1000, "share_found": 0.8,
                                     "share_who_stay": 0.5, "worth_of_saved": 8, "contact_budget": 1000})
    assert load_charter(path).value.monthly == pytest.approx(3200)


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key 'problem.horizon_day'; nearest known: horizon_days"):
        load_charter(_written(tmp_path, problem__horizon_day=30))


def test_a_horizon_of_zero_is_refused_with_the_value_and_the_limit(tmp_path):
    with pytest.raises(ConfigError, match=r"problem.horizon_days is 0: Input should be greater than 0"):
        load_charter(_written(tmp_path, problem__horizon_days=0))


def test_an_assumed_delay_longer_than_the_label_delay_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="assumed_delay_days is 9, at most label_delay_days"):
        load_charter(_written(tmp_path, problem__assumed_delay_days=9))


def test_canary_stages_must_rise(tmp_path):
    with pytest.raises(ConfigError, match="must rise strictly"):
        load_charter(_written(tmp_path, rollout__stages=[0.5, 0.25]))


@pytest.mark.parametrize(("text", "said"), [("", "not a mapping"), ("a: [", "no YAML"), ("- 1", "not a mapping")])
def test_a_file_that_is_no_charter_is_refused(tmp_path, text, said):
    path = tmp_path / "charter.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_charter(path)


def test_a_missing_charter_says_which_variable_names_it(tmp_path):
    with pytest.raises(ConfigError, match="Set CHURN_CHARTER"):
        load_charter(tmp_path / "none.yaml")


def test_a_misspelt_key_is_named_and_not_the_one_that_is_missing_for_it(tmp_path):
    document = yaml.safe_load((REPO / "charter.yaml").read_text())
    document["value"]["contact_bugdet"] = document["value"].pop("contact_budget")
    path = tmp_path / "charter.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match=r"unknown key 'value.contact_bugdet'; nearest known: contact_budget"):
        load_charter(path)


def test_an_infinite_worth_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"value\.worth_of_saved is inf"):
        load_charter(_written(tmp_path, value__worth_of_saved=float("inf")))
