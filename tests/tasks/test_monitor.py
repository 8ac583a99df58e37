"""The monitoring stage: verdicts that reach the ledger, a page with the same numbers, and alarms where it fails."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from prefect.logging import disable_run_logger

from models.charter import DriftPolicy
from models.contract import Column, Contract
from models.decision import Decision
from models.drift import PREDICTION, DriftReport
from tasks import monitor
from tasks.monitor import draw_drift_report, drift_table, earlier_flags, judge_drift, measure_drift
from tasks.state import open_state, read_decisions, record_decision

POLICY = DriftPolicy()
CONTRACT = Contract("id", "label", (), (
    Column("weight", "float64", "numeric", "kg", "a number"),
    Column("gaps", "float64", "numeric", "count", "a number that may be missing", nullable=True),
    Column("colour", "string", "categorical", "word", "a word"),
), {})


def rows(count: int = 800, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({
        "weight": random.lognormal(size=count),
        "gaps": np.where(random.random(count) < 0.1, np.nan, random.normal(size=count)),
        "colour": random.choice(np.array(["red", "blue", None], dtype=object), count, p=[0.6, 0.3, 0.1]),
        PREDICTION: random.beta(2, 5, count),
    })


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """What this stage reads of a release."""
    folder = tmp_path / "release"
    folder.mkdir()
    rows(1000, seed=2).to_parquet(folder / "reference.parquet")
    (folder / "contract.json").write_text(CONTRACT.to_json())
    (folder / "release.json").write_text(json.dumps({"importance": {"weight": 0.7, "gaps": 0.295, "colour": 0.005}}))
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def _no_run_logger() -> Iterator[None]:
    with disable_run_logger():
        yield


def month(number: int) -> datetime:
    return datetime(2025, number, 1, tzinfo=UTC)


def judge(engine: sa.Engine, report: DriftReport, as_of: datetime, *, fault: str | None = None,
          release_id: str = "churn:1") -> Decision:
    return judge_drift.fn(report, fault, engine=engine, policy=POLICY, release_id=release_id, as_of=as_of)


def test_rows_like_the_reference_are_ignored_and_shifted_ones_flagged_with_evidence_in_the_ledger(
    payload: Path, engine: sa.Engine
) -> None:
    assert judge(engine, measure_drift.fn(payload, rows(), POLICY), month(1)).verdict == "ignore"
    shifted = rows().assign(weight=lambda frame: frame["weight"] * 2)
    judge(engine, measure_drift.fn(payload, shifted, POLICY), month(2))
    row = read_decisions(engine, gate="drift")[0]
    assert (row.decision.verdict, row.subject, row.as_of) == ("flag", "churn:1", month(2).isoformat())
    assert row.decision.evidence["flagged_columns"] == row.decision.evidence["mattering_columns"] == "weight"
    assert row.decision.evidence["rows"] == 800
    assert float(row.decision.evidence["max_psi"] or 0) > 0.1
    assert row.decision.evidence["release_id"] == "churn:1"


def test_drift_of_a_column_that_carries_half_a_percent_is_harmless(payload: Path, engine: sa.Engine) -> None:
    decision = judge(engine, measure_drift.fn(payload, rows().assign(colour="violet"), POLICY), month(1))
    assert decision.verdict == "ignore"
    assert "harmless, below 2.0% of the importance: colour (PSI" in decision.reason


def test_two_of_three_dates_retrain_however_often_each_is_checked(payload: Path, engine: sa.Engine) -> None:
    shifted = measure_drift.fn(payload, rows().assign(gaps=9.0), POLICY)
    assert [judge(engine, shifted, month(1)).verdict for _ in range(3)] == ["flag", "flag", "flag"]
    assert judge(engine, shifted, month(2)).verdict == "retrain"


def test_hours_of_one_day_are_one_check(engine: sa.Engine, payload: Path) -> None:
    shifted = measure_drift.fn(payload, rows().assign(gaps=9.0), POLICY)
    verdicts = [judge(engine, shifted, month(1).replace(hour=hour)).verdict for hour in (1, 2, 3)]
    assert verdicts == ["flag", "flag", "flag"]


def test_the_last_verdict_of_a_date_counts(engine: sa.Engine) -> None:
    for verdict in ("flag", "ignore"):
        record_decision(engine, Decision("drift", verdict, "said"), as_of=month(1), subject="churn:1")
    assert earlier_flags(engine, "churn:1", before=month(2)) == [False]


def test_checks_of_another_release_and_later_dates_count_for_nothing(engine: sa.Engine) -> None:
    record_decision(engine, Decision("drift", "flag", "said"), as_of=month(1), subject="churn:0")
    record_decision(engine, Decision("drift", "flag", "said"), as_of=month(4), subject="churn:1")
    assert earlier_flags(engine, "churn:1", before=month(3)) == []


def test_an_accepted_retraining_starts_the_cooldown(payload: Path, engine: sa.Engine) -> None:
    shifted = measure_drift.fn(payload, rows().assign(gaps=9.0), POLICY)
    judge(engine, shifted, month(1))
    record_decision(engine, Decision("retrain", "accept", "go", {"decision_id": "a"}), as_of=month(2).replace(day=20))
    decision = judge(engine, shifted, month(3))
    assert decision.verdict == "flag"
    assert "retrained 9 days ago, cool-down 25 days" in decision.reason


@pytest.mark.parametrize("lost", ["reference.parquet", "contract.json", "release.json"])
def test_a_release_without_what_the_check_needs_is_an_alarm(payload: Path, engine: sa.Engine, lost: str) -> None:
    (payload / lost).unlink()
    decision = judge(engine, measure_drift.fn(payload, rows(), POLICY), month(1))
    assert decision.verdict == "alarm"
    assert "the check crashed: FileNotFoundError" in decision.reason


def test_a_failed_page_is_an_alarm_and_leaves_no_older_page_behind(
    payload: Path, engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "drift.html"
    page.write_text("of an earlier run")

    def broken(*_: object) -> None:
        raise ImportError("no evidently")

    monkeypatch.setattr(monitor, "_draw", broken)
    report = measure_drift.fn(payload, rows().assign(gaps=9.0), POLICY)
    fault = draw_drift_report.fn(report, payload, rows(), POLICY, page)
    decision = judge(engine, report, month(1), fault=fault)
    assert (decision.verdict, page.exists()) == ("alarm", False)
    assert "the report failed: ImportError: no evidently" in decision.reason


def test_the_table_names_every_column_with_the_moved_ones_first(payload: Path, engine: sa.Engine) -> None:
    report = measure_drift.fn(payload, rows().assign(gaps=9.0, colour="violet"), POLICY)
    lines = drift_table(judge(engine, report, month(1)), report).splitlines()
    assert lines[0].startswith("**flag**: 1 of the last 3 checks flagged")
    named = [(line.split(" | ")[0], line.split(" | ")[-1]) for line in lines[4:]]
    assert sorted(named[:2]) == [("| colour", "harmless |"), ("| gaps", "matters |")]
    assert sorted(named[2:]) == [(f"| {PREDICTION}", " |"), ("| weight", " |")]


@pytest.mark.service  # Evidently takes seconds to import
def test_the_page_shows_the_numbers_of_the_verdict_and_is_private(payload: Path, tmp_path: Path) -> None:
    current = rows().assign(weight=lambda frame: frame["weight"] * 2, gaps=np.nan)
    current.loc[0, "weight"] = np.inf
    current.loc[current.index[:80], "colour"] = "violet"
    report = measure_drift.fn(payload, current, POLICY)
    page = tmp_path / "reports" / "drift.html"
    assert draw_drift_report.fn(report, payload, current, POLICY, page) is None
    text = page.read_text(encoding="utf-8")
    for column in report.columns:
        if column.test != "none":  # `gaps` is empty now and stands in the table only
            assert f"quantile PSI ({column.test} p = {column.p_value:.2g}" in text
            assert str(round(column.psi, 6)) in text
    assert f"new levels {report.columns[2].new_share:.1%}" in text
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert [path.name for path in page.parent.iterdir()] == ["drift.html"]
    assert not re.search(r"<(script|link)[^>]+(src|href)=.http", text)  # opens offline
