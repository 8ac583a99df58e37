"""Rolling back moves model, threshold, contract and drift reference together: all of it rides in one Bento."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from models.errors import DataError
from models.serving.payload import load_payload
from tasks.data.lake import snapshot_partition, write_partition
from tasks.home import Home
from tasks.release import package, releases, rollouts
from tasks.scoring.score import read_scored, scores_partition
from tasks.state import open_state
from tests.release_payload import AS_OF, tiny_contract, tiny_rows, write_payload


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Release 1, then release 2 with another threshold and another reference became champion."""
    home = Home(tmp_path)
    monkeypatch.setattr(package, "bento_payload", lambda home, tag: home.root / tag.replace(":", "-"))
    engine = open_state(home.state_url)
    for version, threshold in (("1", 0.3), ("2", 0.7)):
        folder = write_payload(home.root / f"churn-{version}", model_version=version, threshold=threshold)
        tiny_rows().head(10 * int(version)).assign(churn_probability=threshold).to_parquet(folder / "reference.parquet")
        releases.register_release(engine, release_id=f"churn:{version}", model_version=version, run_id="run",
                                  fingerprint=tiny_contract().fingerprint, as_of="2025-01-01", auc=0.7,
                                  monthly_value=1.0)
        rollout = rollouts.open_new(engine, release_id=f"churn:{version}", strategy="basic", who="ada", why="test")
        assert rollouts.close(engine, rollout, state="champion", reason="test")
    snapshot = tiny_rows(3).assign(member_id=["a", "b", "c"], active=True)
    write_partition(pl.from_pandas(snapshot), snapshot_partition(home, tiny_contract().fingerprint, AS_OF))
    return home


def scored_by(home: Home, release_id: str) -> None:
    write_partition(pl.DataFrame({"member_id": ["a", "b", "c"], "churn_probability": [0.1, 0.2, 0.3],
                                  "release_id": release_id}), scores_partition(home, AS_OF))


def test_after_a_rollback_threshold_reference_and_scores_are_those_of_the_old_release(home: Home) -> None:
    engine = open_state(home.state_url)
    scored_by(home, "churn:2")
    before = read_scored(home, engine, AS_OF)
    assert (before.release_id, len(pd.read_parquet(before.payload / "reference.parquet"))) == ("churn:2", 20)
    assert load_payload(before.payload).policy.threshold == 0.7

    serving = rollouts.champion(engine)
    assert serving is not None
    assert rollouts.close(engine, serving, state="rolled back", reason="by ada: complaints")

    with pytest.raises(DataError, match="the scores are of another release than churn:1"):
        read_scored(home, engine, AS_OF)  # the drift check mixes no two releases
    scored_by(home, "churn:1")
    after = read_scored(home, engine, AS_OF)
    assert (after.release_id, len(pd.read_parquet(after.payload / "reference.parquet"))) == ("churn:1", 10)
    assert load_payload(after.payload).policy.threshold == 0.3
