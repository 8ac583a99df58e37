"""The study on a small sample world: a report that opens offline, a decision in the ledger, reasons that hold."""

from __future__ import annotations

import re
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from examples.shop.generate import write_world
from examples.shop.law import World
from feature_repo.contract import CONTRACT
from flows.settings import REPO
from models.errors import DataError
from models.study.history import StudyConfig
from models.training.estimators import ESTIMATORS

AS_OF = datetime(2025, 1, 1, tzinfo=UTC)
CONFIG = StudyConfig(resamples=100)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The sample world before anything drifts, with 1,200 customers, ingested up to `AS_OF`."""
    request.getfixturevalue("prefect_harness")
    document = yaml.safe_load((REPO / "charter.yaml").read_text(encoding="utf-8"))
    document["value"] |= {"customers": 1100, "monthly_churners": 130, "contact_budget": 150}
    document["training"]["cost_of_retraining"] = 300
    (tmp_path / "charter.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for name, value in {"CHARTER": "charter.yaml", "HOME": "home", "ENV_FILE": ".env"}.items():
        monkeypatch.setenv(f"CHURN_{name}", str(tmp_path / value))
    write_world(tmp_path / "home" / "landing", World(customers=1200, months=13))
    return tmp_path / "home"


@pytest.mark.service
def test_the_study_reports_ageing_policies_groups_and_reasons_and_records_what_it_recommends(home, capsys):
    from flows.context import open_context
    from flows.ingest import ingest
    from flows.study import study
    from tasks.state import read_decisions

    ingest(AS_OF)
    decision = study(AS_OF, CONFIG)
    assert decision.verdict in ("seldom", "no answer")  # nothing changes before month 16, and customers are few
    assert decision.evidence["cost_of_retraining"] == 300
    assert decision.evidence["cuts"] == 5
    context = open_context(AS_OF)
    (row,) = [one for one in read_decisions(context.engine) if one.decision.gate == "study"]
    assert row.decision == decision

    for name in ESTIMATORS:
        held = decision.evidence[f"reasons_held_{name}"]
        assert isinstance(held, float)
        assert held >= 0.95

    path = home / "reports" / str(decision.evidence["report"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    page = path.read_text(encoding="utf-8")
    assert decision.verdict.capitalize() in page
    assert page.count("data:image/png;base64,") == 3
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)  # nothing from elsewhere
    for group in {column.group for column in CONTRACT.features}:
        assert f'<th scope="row">{group}</th>' in page
    entities = re.findall(r"\bc\d{6}\b", page)
    assert entities == []  # examples name no customer
    said = capsys.readouterr().err
    assert "study 5 of 5: models of 2024-11-01 trained" in said
    assert "groups 6 of 6: " in said


@pytest.mark.service
def test_too_short_a_history_is_refused_before_a_snapshot_is_taken(home):
    from flows.ingest import ingest
    from flows.study import study

    early = datetime(2024, 8, 1, tzinfo=UTC)
    ingest(early)
    with pytest.raises(DataError, match=r"cannot study history as of 2024-08-01: 4 cuts have mature labels, .* needed "
                                        r"are 4"):
        study(early, CONFIG)
    assert not (home / "lake" / "snapshots").exists()
