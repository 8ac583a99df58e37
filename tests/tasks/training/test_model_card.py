"""The card of a run in a real MLflow store, from what the run left there."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from models.decision import Decision
from models.errors import PlatformError
from tasks.home import Home
from tasks.state import record_decision
from tasks.training.model_card import live_version, run_of_version, write_run_card
from tasks.training.tracking import Run, training_run
from tests.card_model import charter
from tests.card_world import AS_OF, Trained, make_trained

pytestmark = pytest.mark.service  # MLflow makes its tables: seconds


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("home"))


def read(run: Run, name: str, folder: Path) -> str:
    return Path(run.client.download_artifacts(run.run_id, f"card/{name}", str(folder))).read_text(encoding="utf-8")


def test_the_card_of_a_version_is_written_from_its_run_and_the_ledger(trained, tmp_path):
    run = run_of_version(trained.home, "club", "1")
    html, markdown = write_run_card(run, trained.engine, tmp_path / "card")
    page, text = html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8").replace("\\", "")
    for said in ("Model card: club, version 1", "first model: better than one column", "design: enough data",
                 "66a2c660d7b6", "2024-11-01", "5,000", "abc123 (clean)", "numpy 2.2", "make reproduce RUN=",
                 "Scored ", " days", "model.C", "by silent alone", "0.310 or more", "90.0%"):
        assert said in page, said
        assert said in text, said
    assert page.count('<img src="data:image/png;base64,') == 5
    assert text.count("](data:image/png;base64,") == 5
    assert "<script" not in page
    assert not re.search(r"\bm\d+\b", re.sub(r"base64,[^\"]+", "", page))  # no customer's key


def test_both_files_are_artifacts_of_the_run_and_the_version_links_to_the_card_once(trained, tmp_path):
    for _ in range(2):
        html, markdown = write_run_card(trained.run, trained.engine, tmp_path / "card")
    assert read(trained.run, "model-card.html", tmp_path) == html.read_text(encoding="utf-8")
    assert read(trained.run, "model-card.md", tmp_path) == markdown.read_text(encoding="utf-8")
    version = trained.run.client.get_model_version("club", "1")
    assert version.tags["model_card"] == f"runs:/{trained.run.run_id}/card/model-card.html"
    assert version.description.startswith("**Hypothesis:** Silence tells.")
    assert version.description.count("[Model card](#/experiments/") == 1


def test_only_their_owner_reads_the_files(trained, tmp_path):
    for path in write_run_card(trained.run, trained.engine, tmp_path / "card"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_verdict_that_comes_later_stands_on_the_card_written_then(trained, tmp_path):
    record_decision(trained.engine, Decision("go", "no go", "deployment: it was rolled back", {"stage": "deployment"}),
                    subject="1", as_of=AS_OF)
    html, _ = write_run_card(trained.run, trained.engine, tmp_path / "card")
    assert "deployment: it was rolled back" in html.read_text(encoding="utf-8")


def test_a_version_that_does_not_exist_is_refused_with_the_known_ones(trained):
    with pytest.raises(PlatformError, match="card of version 7 of club: there is none; known: 1"):
        run_of_version(trained.home, "club", "7")


def test_a_run_without_a_record_has_no_card(trained, tmp_path):
    with training_run(trained.home, charter(), name="empty") as run:
        pass
    with pytest.raises(PlatformError, match="left no record"):
        write_run_card(run, trained.engine, tmp_path)


def test_a_run_without_evaluation_plots_and_payload_has_a_card_that_says_so(trained, tmp_path):
    record = Path(trained.run.client.download_artifacts(trained.run.run_id, "record.json", str(tmp_path)))
    with training_run(trained.home, charter(), name="torn") as run:
        run.text(record.read_text(encoding="utf-8").replace(trained.run.run_id, run.run_id), "record.json")
    html, _ = write_run_card(run, trained.engine, tmp_path / "card")
    page = html.read_text(encoding="utf-8")
    for said in ("a model that was not registered", "No evaluation was recorded", "No plot was recorded"):
        assert said in page


def test_without_a_champion_a_version_must_be_named(trained):
    with pytest.raises(PlatformError, match=r"nothing is live\. Name a version: make card VERSION=1"):
        live_version(trained.engine)


def test_a_store_that_is_gone_is_told_and_none_is_made_in_its_place(tmp_path):
    home = Home(tmp_path)
    with pytest.raises(PlatformError, match=r"holds no MLflow store\. Restore it"):
        run_of_version(home, "test", "1")
    assert not home.mlflow.exists()
