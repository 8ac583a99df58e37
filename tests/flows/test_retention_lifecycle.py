"""After retention the lifecycle gives the same verdict and the same bytes, at the same and at the next `as_of`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
import yaml

from feature_repo.contract import CONTRACT
from flows.settings import REPO
from tasks.home import Home
from tasks.state import open_state, read_decisions
from tests.bench.world import World

pytestmark = pytest.mark.service

BEFORE = """
for as_of in ("2024-03-01", "2024-07-15", "2024-09-01"):
    ingest(day(as_of)); features(day(as_of))
lifecycle(day("2024-12-01"))
"""
AFTER = "lifecycle(day('2024-12-01')); lifecycle(day('2025-01-01'))"
APPLY = "assert retention.main({'APPLY': '1'}) == 0\n"
IMPORTS = """
from datetime import datetime
from deploy.local import retention
from flows.features import features
from flows.ingest import ingest
from flows.lifecycle import lifecycle
day = datetime.fromisoformat
"""


@pytest.fixture
def environment(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """A world of 500 customers over 2024, and a charter that keeps bad rows' text for 30 days."""
    request.getfixturevalue("prefect_harness")
    from prefect.settings import PREFECT_API_URL

    world = World(500, tmp_path)
    world.write_sources()
    late = pl.read_parquet(tmp_path / "orders/2024-02.parquet")
    spoilt = late.with_columns(pl.when(pl.int_range(pl.len()) < 5).then(-1).otherwise("items").alias("items"))
    spoilt.write_parquet(tmp_path / "orders/2024-02.parquet")
    document = yaml.safe_load((REPO / "charter.yaml").read_text(encoding="utf-8"))
    document["requirements"] = {"keep_quarantine_days": 30, "least_row_share": 0, "max_data_age_days": 30}
    document["training"] = {"train_cuts": 3, "least_rows": 100, "least_churners": 5}
    document["problem"]["first_as_of"] = datetime(2024, 3, 1).date()
    (tmp_path / "charter.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    tables = {name: {"path": f"{tmp_path}/{name}/*.parquet",
                     "columns": {column.name: column.name for column in CONTRACT.table(name).columns}}
              for name in ("orders", "customers")}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"tables": tables}), encoding="utf-8")
    return {**os.environ, "CHURN_CHARTER": str(tmp_path / "charter.yaml"), "CHURN_HOME": str(tmp_path / "home"),
            "CHURN_SOURCES": str(tmp_path / "sources.yaml"), "CHURN_ENV_FILE": str(tmp_path / ".env"),
            "PREFECT_API_URL": str(PREFECT_API_URL.value())}


def run(code: str, environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS + code], cwd=REPO, env=environment, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def verdicts(home: Home) -> list[tuple[str, str, str, str]]:
    """What every gate said, oldest first; without what names a run."""
    engine = open_state(home.state_url)
    rows = [row for row in read_decisions(engine) if row.decision.gate != "retention"]
    engine.dispose()
    open_state.cache_clear()
    passing = ("run_id", "model_version")
    return [(f"{row.decision.gate} {(row.as_of or '')[:10]}", row.decision.verdict, row.decision.reason, json.dumps(
        {name: value for name, value in row.decision.evidence.items() if name not in passing}, sort_keys=True))
        for row in rows[::-1]]


def lake(home: Home) -> dict[str, str]:
    """Hashes by name; a training set's name without its run, of which each has an id of its own."""
    return {re.sub(r",run=[0-9a-f]+", "", str(path.relative_to(home.lake))):
            hashlib.sha256(path.read_bytes()).hexdigest() for path in home.lake.rglob("*.parquet")}


def test_retention_changes_no_later_verdict_and_no_byte_of_what_is_made(environment, tmp_path):
    home, saved = Home(tmp_path / "home"), tmp_path / "saved"
    run(BEFORE, environment)
    shutil.copytree(home.root, saved)
    run(AFTER, environment)
    expected, made = verdicts(home), lake(home)
    shutil.rmtree(home.root)
    shutil.copytree(saved, home.root)
    before = set(lake(home))
    run(APPLY, environment)
    gone = before - set(lake(home))
    run(AFTER, environment)
    assert {"2024-03-01", "2024-07-15"} <= {name.split("cut=")[1][:10] for name in gone if name.startswith("snapshots")}
    assert any(name.startswith("quarantine/orders/load=2024-03-01") for name in gone)
    assert verdicts(home) == expected
    assert [one[0] for one in expected if one[0].startswith("promotion")] == [
        "promotion 2024-12-01", "promotion 2024-12-01", "promotion 2025-01-01"]
    left = lake(home)
    new = {name for name in left if name.startswith("quarantine/") and "," in name}
    assert len(new) >= 1
    assert {name: one for name, one in left.items() if name not in new} == {
        name: one for name, one in made.items() if name not in gone}
