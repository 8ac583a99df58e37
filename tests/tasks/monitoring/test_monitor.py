"""The monitoring stage: verdicts that reach the ledger, a page with the same numbers, and alarms where it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.contract import Column, Contract
from models.decision import Decision
from models.gates.drift import ColumnDrift, DriftReport
from models.limits import DriftPolicy
from tasks.monitoring.monitor import drift_table, measure_drift
from tests.tasks.monitoring.release_rows import rows

pytestmark = pytest.mark.usefixtures("no_run_logger")

POLICY = DriftPolicy()
CONTRACT = Contract("id", "label", (), (
    Column("weight", "float64", "numeric", "kg", "a number"),
    Column("gaps", "float64", "numeric", "count", "a number that may be missing", nullable=True),
    Column("colour", "string", "categorical", "word", "a word"),
), {})


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """What this stage reads of a release."""
    folder = tmp_path / "release"
    folder.mkdir()
    rows(1000, seed=2).to_parquet(folder / "reference.parquet")
    (folder / "contract.json").write_text(CONTRACT.to_json())
    (folder / "release.json").write_text(json.dumps({"importance": {"weight": 0.7, "gaps": 0.295, "colour": 0.005}}))
    return folder


@pytest.mark.parametrize("lost", ["reference.parquet", "contract.json", "release.json"])
def test_a_release_without_what_the_check_needs_cannot_be_judged(payload: Path, lost: str) -> None:
    (payload / lost).unlink()
    assert "the check crashed: FileNotFoundError" in (measure_drift.fn(payload, rows(), POLICY).problem or "")


def test_a_reference_that_is_worth_fewer_rows_than_it_has_is_taken_for_so_many(payload: Path) -> None:
    said = json.loads((payload / "release.json").read_text())
    (payload / "release.json").write_text(json.dumps({**said, "reference_worth": 150.5}))
    assert measure_drift.fn(payload, rows(), POLICY).problem == "150.5 reference rows, needs 200"


def test_the_table_names_every_column_with_the_moved_ones_first(payload: Path) -> None:
    report = measure_drift.fn(payload, rows().assign(gaps=9.0, colour="violet"), POLICY)
    lines = drift_table(Decision("drift", "harmless", "1 of the last 3 checks flagged"), report).splitlines()
    assert lines[0] == "**harmless**: 1 of the last 3 checks flagged"
    named = [(line.split(" | ")[0], line.split(" | ")[-2:]) for line in lines[4:]]
    assert named[0] == ("| **prediction**", ["counts in full", " |"])
    assert sorted(named[1:3]) == [("| colour", ["0.5%", "harmless |"]), ("| gaps", ["29.5%", "matters |"])]
    assert named[3] == ("| weight", ["70.0%", " |"])


def test_a_name_with_a_bar_in_it_breaks_no_table() -> None:
    column = ColumnDrift("a|b", "KS", 0.5, 0.001, 0.0, 0.0, None)
    table = drift_table(Decision("drift", "nothing", "said"), DriftReport((column,), 900, 900))
    assert "| a&#124;b | KS | 0.5 | 0.0010 | +0.0% | 0.0% | ? |  |" in table
