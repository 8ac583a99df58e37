"""`make card` and the flow behind the deployment `card`, on a home with one version."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deploy.local.card import main
from flows.card import card
from models.errors import PlatformError
from tests.card_model import CHARTER
from tests.card_world import Trained, make_trained

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("place")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("home"))


@pytest.fixture
def place(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trained.home.root
    (root / "charter.yaml").write_text(yaml.safe_dump(CHARTER))
    (root / "charter-name").write_text("club\n")
    monkeypatch.setenv("CHURN_CHARTER", str(root / "charter.yaml"))
    monkeypatch.setenv("CHURN_HOME", str(root))
    monkeypatch.delenv("VERSION", raising=False)


def test_the_command_writes_the_card_of_a_version_and_says_where(trained, monkeypatch, capsys):
    monkeypatch.setenv("VERSION", "1")
    assert main() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "model card of version 1, also in its MLflow run:"
    places = [Path(line.strip().removeprefix("file://")) for line in said[1:]]
    assert [place.name for place in places] == ["model-card.html", "model-card.md"]
    assert all(place.is_file() and place.is_relative_to(trained.home.reports) for place in places)


@pytest.mark.parametrize(("version", "said"), [
    ("", "error: cannot write a model card: nothing is live. Name a version: make card VERSION=1"),
    ("9", "error: cannot write the model card of version 9 of club: there is none; known: 1."),
    ("one", "error: cannot write a model card: VERSION is 'one', not a number."),
])
def test_what_has_no_card_is_one_line(version, said, monkeypatch, capsys):
    monkeypatch.setenv("VERSION", version)
    assert main() == 1
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.usefixtures("prefect_harness")
def test_the_flow_writes_the_same_card():
    path = card(version=1)
    assert "Model card: club, version 1" in path.read_text(encoding="utf-8")
    with pytest.raises(PlatformError, match="nothing is live"):
        card()
