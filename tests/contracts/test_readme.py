"""The README says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flows.maturity import DEPLOYMENT, DEVELOPMENT, MANUAL, deployments_at, releases, table
from flows.settings import REPO, Settings

README = (REPO / "README.md").read_text(encoding="utf-8")


def settings_rows() -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| `(CHURN_\w+)` \|(.*?)\| (.*?) \|$", README, flags=re.MULTILINE)
    return {name: (default.strip("` "), meaning) for name, default, meaning in rows}


def test_every_setting_stands_in_the_readme_with_its_default_and_meaning():
    wanted = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, Path):
            default = default.relative_to(REPO)
        wanted[f"CHURN_{name.upper()}"] = ("" if default is None else str(default), field.description)
    assert settings_rows() == wanted


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:flows|tasks|models|docs|examples|deploy|tests)/[\w/.]*)`",
                                                       README))))
def test_every_path_the_readme_names_exists(path):
    assert (REPO / path).exists()


def test_every_make_target_is_described_and_every_one_the_readme_names_exists():
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    targets = dict(re.findall(r"^([a-z-]+):.*?## (.+)$", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", README)) - {"itself", "then"}
    assert named <= set(targets), named - set(targets)
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE).group(1).split())
    assert phony == set(targets)


def test_the_table_of_maturity_is_what_each_level_deploys():
    document = yaml.safe_load((REPO / "prefect.yaml").read_text(encoding="utf-8"))
    assert table(document) in README
    assert [releases(level) for level in (MANUAL, DEVELOPMENT, DEPLOYMENT)] == [False, False, True]


@pytest.mark.parametrize("notify", [False, True])
def test_at_level_one_nothing_starts_by_itself_and_above_it_what_prefect_yaml_says(notify):
    document = yaml.safe_load((REPO / "prefect.yaml").read_text(encoding="utf-8"))

    def on(level):
        return {one["name"] for one in deployments_at(level, document, notify=notify)["deployments"]
                if any(entry["active"] for entry in one.get("schedules", ()))
                or any(entry["enabled"] for entry in one.get("triggers", ()))}

    told = {"announce"} if notify else set()
    assert on(MANUAL) == told
    assert on(DEVELOPMENT) == on(DEPLOYMENT) == told | {"ingest", "features", "score", "ship", "monitor", "bake",
                                                        "retrain"}
