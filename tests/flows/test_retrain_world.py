"""Retraining for real, on a small sample world where the new model is worse than what serves: it is not released."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from examples.shop.generate import write_world
from examples.shop.law import World
from flows.settings import REPO
from models.decision import Decision
from models.training.fit import TrainingConfig
from tasks.state import open_state, read_decisions, record_decision

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]
JANUARY = datetime(2025, 1, 1, tzinfo=UTC)


def test_a_retrained_model_that_is_worse_than_the_champion_is_not_released_and_the_ledger_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ingest, train, gate and ledger are real; the champion knows more than any model of these features can learn."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    from flows import retrain, verdict
    from flows.ingest import ingest

    home = tmp_path / "home"
    write_world(home / "landing", World(customers=1200))
    for name, value in {"CHURN_HOME": home, "CHURN_SOURCES": REPO / "feature_repo/sources.yaml"}.items():
        monkeypatch.setenv(name, str(value))
    ingest(JANUARY)

    def all_but_certain(test: pd.DataFrame, contract: Any, **_: Any) -> np.ndarray:
        return test[contract.label].to_numpy(dtype=float) * 0.8 + 0.1

    monkeypatch.setattr(verdict, "champion_probability", all_but_certain)
    monkeypatch.setattr(retrain, "choose_window", lambda *_: TrainingConfig(trials=2))
    released: list[Any] = []
    monkeypatch.setattr(retrain, "release", lambda **asked: released.append(asked))
    engine = open_state(f"sqlite:///{home.resolve()}/state.db")
    asked = record_decision(engine, Decision("drift", "retrain", "2 of 3 flagged", {"kind": "data"}), as_of=JANUARY)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="retrain", limit=1))
        try:
            assert retrain.retrain(asked).verdict == "accept"
        finally:
            client.delete_global_concurrency_limit_by_name("retrain")
    promotion = read_decisions(engine, gate="promotion")[0].decision
    ended = read_decisions(engine, gate="retrain")[0].decision
    assert (promotion.verdict, released) == ("keep", [])
    assert (ended.verdict, ended.evidence["promotion"], ended.evidence.get("model_version")) == ("done", "keep", None)
    assert promotion.reason in ended.reason
    assert "retrained, and no model is released" in (home / "reports/why-retrain.html").read_text(encoding="utf-8")
