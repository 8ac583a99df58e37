from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from models.charter import Charter, load_charter
from models.decision import VERDICTS
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


@pytest.mark.parametrize("name", ["charter.yaml", "examples/cdnow/charter.yaml", "tests/domain/machines/charter.yaml"])
def test_the_charters_of_the_repo_load(name):
    assert load_charter(REPO / name).problem.horizon_days > 0


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


WORKED = {"customers": 100_000, "monthly_churners": 1000, "share_found": 0.8, "share_who_stay": 0.5,
          "price_a_month": 10, "discounted_price": 8, "contact_budget": 1000}


def test_the_worked_example_saves_400_customers_for_3200_a_month_of_10000_at_stake(tmp_path):
    value = load_charter(_written(tmp_path, value=WORKED)).value
    assert (value.saved, value.worth_of_saved, value.monthly, value.at_stake) == (400, 8, 3200, 10_000)


def test_a_worth_that_is_not_the_discounted_price_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"worth_of_saved is 9 and discounted_price 8: .* said twice"):
        load_charter(_written(tmp_path, value={**WORKED, "worth_of_saved": 9}))


def test_a_discounted_price_above_the_price_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"discounted_price is 8, at most price_a_month \(7\)"):
        load_charter(_written(tmp_path, value={**WORKED, "price_a_month": 7}))


def test_a_budget_that_exceeds_the_customers_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"value\.contact_budget is 4,501, at most value\.customers \(4,500\)"):
        load_charter(_written(tmp_path, value__contact_budget=4501))
    assert load_charter(_written(tmp_path, value__contact_budget=4500))


def test_more_churners_than_customers_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"value\.monthly_churners is 5,000, at most"):
        load_charter(_written(tmp_path, value__monthly_churners=5000))


def test_every_gate_and_alarm_has_an_owner_of_the_team():
    charter = load_charter(REPO / "charter.yaml")
    for name in (*VERDICTS, "platform"):
        assert charter.owner(name) in charter.roles, name


def test_a_thing_that_nobody_owns_is_refused():
    with pytest.raises(ConfigError, match="nobody owns 'tea'"):
        load_charter(REPO / "charter.yaml").owner("tea")


def test_an_owner_outside_the_team_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"drift is owned by 'ada', who is not in the team \(.*data engineer, "):
        load_charter(_written(tmp_path, owners={"drift": "ada"}))
    with pytest.raises(ConfigError, match=r"data is owned by 'data engineer', who is not in the team \(boss\)"):
        load_charter(_written(tmp_path, team={"boss": "all of it"}, metrics={}, owners={}))


def test_an_owner_of_no_known_gate_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(ConfigError, match=r"owners\.promotoin is no gate, alarm or deployment; nearest known: promo"):
        load_charter(_written(tmp_path, owners={"promotoin": "data scientist"}))


def test_levels_are_asked_by_roles_of_the_team_and_of_metrics_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.boss: not in the team"):
        load_charter(_written(tmp_path, metrics={"boss": {"auc": 0.9}}))
    with pytest.raises(ConfigError, match=r"metrics\.stakeholder\.euros.*Input should be 'auc'"):
        load_charter(_written(tmp_path, metrics={"stakeholder": {"euros": 1}}))


def test_the_claim_that_a_measured_value_compares_with_has_paid_its_contacts(tmp_path):
    """520 x 40 % x 50 % x 60 = 6,240 a month; 600 contacts at 4 every two months cost 1,200 a month."""
    charter = load_charter(_written(tmp_path, problem__snapshot_every_months=2))
    assert charter.claim_a_month == pytest.approx(6240 - 1200)
    assert charter.cost_a_month == pytest.approx(1200 + 500)


def test_a_charter_that_was_released_before_there_were_teams_and_metrics_still_loads():
    """As `charter.json` of an older release holds it, with an owner and a budget that a file is refused today."""
    document = load_charter(REPO / "charter.yaml").model_dump(mode="json")
    for name in ("team", "metrics"):
        del document[name]
    for name in ("price_a_month", "discounted_price"):
        del document["value"][name]
    for name in ("explanations", "compliance", "running_cost_a_month", "budget_a_month"):
        del document["requirements"][name]
    document["owners"] = {"drift": "ada", "data": "data engineer"}
    document["value"]["contact_budget"] = 9000
    old = Charter.model_validate_json(json.dumps(document))
    assert old.owner("drift") == "ada"
    assert old.owner("canary") == "ML engineer"


def test_a_charter_survives_its_own_json(tmp_path):
    charter = load_charter(_written(tmp_path, value=WORKED))
    assert Charter.model_validate_json(charter.model_dump_json()) == charter
