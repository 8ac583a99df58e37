"""The score flow: a file, a table where one is asked for, and what a person sees of it."""

from __future__ import annotations

import json
import logging

import polars as pl
import pytest
import sqlalchemy as sa
import yaml

from tasks.monitoring.heartbeats import last_beats
from tasks.state import open_state
from tests.release_payload import AS_OF, CHARTER
from tests.tasks.scoring.champion import make_home

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    charter = tmp_path / "charter.yaml"
    charter.write_text(yaml.safe_dump(CHARTER))
    monkeypatch.setenv("CHURN_CHARTER", str(charter))
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))
    return make_home(tmp_path / "home", 300)[0]


def test_the_flow_writes_the_file_and_the_table_tells_how_far_it_is_and_shows_the_decisions(
    place, tmp_path, monkeypatch, caplog
):
    from prefect.artifacts import Artifact

    from deploy.local.score import text
    from flows.score import score

    monkeypatch.setenv("CHURN_SCORES_URL", f"sqlite:///{tmp_path}/scores.db")
    runs = logging.getLogger("prefect.task_runs")  # Prefect's own do not propagate to the root
    runs.addHandler(caplog.handler)
    try:
        path = score(AS_OF)
    finally:
        runs.removeHandler(caplog.handler)
    scores = pl.read_parquet(path)
    assert path == place.lake / "scores/as_of=2025-01-01.parquet"
    with sa.create_engine(f"sqlite:///{tmp_path}/scores.db").connect() as table:
        assert table.execute(sa.text("SELECT count(*) FROM tiny_scores")).scalar_one() == len(scores) == 300
    assert "300 of 300 customers are scored" in caplog.text
    assert "300 of 300 customers are in the table" in caplog.text
    shown = json.loads(Artifact.get("scores").data)
    assert sum(row["customers"] for row in shown) == 300
    assert {row["why"] for row in shown} == set(scores["why"])
    assert "         10 within the budget" in text(path)


def test_without_a_url_there_is_the_file_alone(place):
    from flows.score import score

    score(AS_OF)
    assert not (place.root / "scores-tables").exists()
    assert last_beats(open_state(place.state_url))["score"].as_of == AS_OF
