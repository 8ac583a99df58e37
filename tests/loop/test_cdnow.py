"""Real orders: CDNOW, twice: with a platform, and up to the gate from Python. Reference scores: the data's README."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from tasks.data.lake import raw_partition
from tasks.release import rollouts
from tasks.state import read_decisions
from tests.loop.conftest import REPO, make_loop
from tests.tasks.conftest import day

pytestmark = pytest.mark.service

FOLDERS = (os.environ.get("CDNOW_FOLDER"), REPO / "data/cdnow", REPO.parent / "shared/data/cdnow")
FOUND = [Path(folder) for folder in FOLDERS if folder and (Path(folder) / "cdnow_transactions.csv").exists()]
FOLDER = FOUND[0] if FOUND else None
ROWS = 69_659


@pytest.fixture(autouse=True)
def cdnow() -> Path:
    """The data; a user without it gets a skip that says so, CI may not go on without it."""
    if FOLDER is None and os.environ.get("CI"):
        pytest.fail("CDNOW is missing in CI: put cdnow_transactions.csv beside the checkout or set CDNOW_FOLDER")
    if FOLDER is None:
        pytest.skip("CDNOW is not here: README, 'Your own data', says where to get it (CDNOW_FOLDER)")
    return FOLDER


def example(folder: Path, port: int, venvs: Path | None = None):
    return make_loop(folder, port, shared_venvs=venvs, CHURN_SOURCES="examples/cdnow/sources.yaml",
                     CHURN_CHARTER="examples/cdnow/charter.yaml", CDNOW_FOLDER=str(FOLDER))


def recency_auc(rows: pl.DataFrame) -> float:
    return float(roc_auc_score(rows["churned"].to_numpy(), rows["recency_days"].to_numpy()))


def test_the_same_command_runs_the_loop_on_cdnow(tmp_path, shared_venvs):
    loop = example(tmp_path, 24430, shared_venvs)
    try:
        printed = loop.make("run").stdout
        decision = read_decisions(loop.engine, gate="promotion")[0].decision
        assert (decision.evidence["train_cuts"], decision.evidence["test_cuts"]) == ("1998-01-01", "1998-04-01")
        assert 0.83 <= decision.evidence["candidate_auc"] <= 0.849  # well above .839 would be a leak
        training = pl.read_parquet(next((loop.home.lake / "training").rglob("*.parquet")))
        test_rows = training.filter(pl.col("event_timestamp") == day("1998-04-01"))
        assert decision.evidence["candidate_auc"] > recency_auc(test_rows)
        assert training["customer_id"].n_unique() == 23_570
        kept = pl.read_parquet(raw_partition(loop.home, "orders", day("1998-06-30")))
        counts = read_decisions(loop.engine, gate="data")[0].decision.reason
        assert f"{ROWS:,} rows in = {kept.height:,} kept" in counts
        assert kept.height == ROWS
        assert np.isclose(float(kept["amount"].sum()), 2_500_315.63, atol=0.01)
        assert rollouts.champion(loop.engine) is not None
        customer = printed.strip().splitlines()[-1].split("/")[-2]
        code, answer = loop.get(f"/v1/customers/{customer}/churn")
        assert (code, answer["customer_id"], answer["features_as_of"][:10]) == (200, customer, "1998-06-30")
        assert "degraded" not in answer
    finally:
        loop.make("down", check=False)


def test_from_python_without_a_platform_an_earlier_cut_goes_as_far_as_the_gate(tmp_path):
    loop = example(tmp_path, 24440)
    code = re.search(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL).group(1)
    assert "datetime(2025, 2, 1)" in code
    printed = loop.flow(code.replace("datetime(2025, 2, 1)", "datetime(1998, 4, 1)"))
    assert "a release needs a running platform, `make run`" in printed
    decision = read_decisions(loop.engine, gate="promotion")[0].decision
    assert (decision.evidence["train_cuts"], decision.evidence["test_cuts"]) == ("1997-10-01", "1998-01-01")
    assert 0.795 <= decision.evidence["candidate_auc"] <= 0.817
    assert not list(loop.home.run.glob("programs/*"))
    assert [str(path) for path in Path(loop.environment["HOME"]).rglob("*")] == []
