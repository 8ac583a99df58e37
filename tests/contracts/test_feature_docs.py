"""docs/features.md and the Feast registry say what the contract says."""

from __future__ import annotations

from dataclasses import replace

from feast import FeatureView

from feature_repo.contract import CONTRACT
from feature_repo.definitions import feast_objects
from tasks.features.feature_docs import PAGE, render


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render(CONTRACT), "run `make docs`"


def test_the_page_names_every_feature_with_description_unit_and_owner():
    lines = [line for line in render(CONTRACT).splitlines() if line.startswith("| `")]
    assert len(lines) == len(CONTRACT.features) >= 30
    for line, feature in zip(lines, CONTRACT.features, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:3] == [f"`{feature.name}`", feature.description, feature.unit]
        assert cells[-1] == feature.owner != ""


def test_the_registry_shows_every_feature_with_its_unit_role_and_owner():
    view = next(one for one in feast_objects(CONTRACT, "nowhere") if isinstance(one, FeatureView))
    fields = {field.name: field for field in view.schema}
    for feature in CONTRACT.features:
        assert fields[feature.name].description == feature.description
        assert fields[feature.name].tags == {"unit": feature.unit, "role": feature.role, "owner": feature.owner}


def test_a_contract_written_before_features_had_owners_keeps_its_fingerprint():
    bare = replace(CONTRACT, snapshot=tuple(replace(column, owner="") for column in CONTRACT.snapshot))
    assert '"owner"' not in bare.to_json()
    assert type(CONTRACT).from_json(CONTRACT.to_json()).fingerprint == CONTRACT.fingerprint
