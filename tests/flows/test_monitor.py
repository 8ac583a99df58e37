"""The monitor flow: from scored rows to a verdict, artifacts in the UI and a retrain event."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from models.contract import Column, Contract
from models.decision import Decision
from models.drift import PREDICTION
from models.errors import DataError
from tasks.state import open_state, read_decisions, set_clock

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]
CONTRACT = Contract("id", "label", (), (Column("weight", "float64", "numeric", "kg", "a number"),), {})


def month(number: int) -> datetime:
    return datetime(2025, number, 1, tzinfo=UTC)


def rows(shift: float, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({"weight": random.normal(shift, size=500), PREDICTION: random.beta(2, 5, 500)})


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))
    engine = open_state(f"sqlite:///{(tmp_path / 'home').resolve()}/state.db")
    yield engine
    engine.dispose()


@pytest.fixture
def check(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[float, datetime], Decision]:
    """Run the flow on rows whose only feature is shifted; scoring has tests of its own."""
    from flows import monitor

    payload = tmp_path / "release"
    payload.mkdir()
    rows(0, 1).to_parquet(payload / "reference.parquet")
    (payload / "contract.json").write_text(CONTRACT.to_json())
    (payload / "release.json").write_text(json.dumps({"importance": {"weight": 1.0}}))

    def run(shift: float, as_of: datetime) -> Decision:
        set_clock(engine, as_of)
        scored = SimpleNamespace(release_id="churn:1", payload=payload, current=rows(shift, 2))
        monkeypatch.setattr(monitor, "read_scored", lambda *_: scored)
        return monitor.monitor(as_of)

    return run


def events_named(name: str) -> list[dict[str, object]]:
    """Payloads of the events the server has received."""
    from prefect.settings import PREFECT_API_URL

    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    answer = httpx.post(
        f"{PREFECT_API_URL.value()}/events/filter",
        json={"filter": {"event": {"name": [name]}, "occurred": {"since": since}}},
    ).raise_for_status()
    return [event["payload"] for event in answer.json()["events"]]


def test_drift_on_two_dates_emits_the_decision_again_and_again_until_somebody_acts(
    check: Callable[[float, datetime], Decision], engine: sa.Engine, tmp_path: Path
) -> None:
    from prefect.artifacts import Artifact

    assert [check(0.0, month(1)).verdict, check(1.0, month(2)).verdict] == ["ignore", "flag"]
    assert check(1.0, month(3)).verdict == "retrain"
    decision_id = read_decisions(engine, gate="drift")[0].decision_id
    assert check(0.0, month(4)).verdict == "ignore"  # calm again, but the order of March still stands
    end = time.monotonic() + 30  # events are sent in the background
    while len(events_named("churn.drift.detected")) < 2 and time.monotonic() < end:
        time.sleep(0.5)
    assert events_named("churn.drift.detected") == [{"decision_id": decision_id}] * 2
    shown = Artifact.get("drift")
    assert "**ignore**" in str(shown and shown.data)
    assert len(list((tmp_path / "home" / "reports").glob("drift-2025-0[1-4]-01.html"))) == 4


def test_without_a_champion_or_scores_the_verdict_is_an_alarm(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import monitor

    def nothing(*_: object) -> None:
        raise DataError("no champion serves: release a model first")

    monkeypatch.setattr(monitor, "read_scored", nothing)
    decision = monitor.monitor(month(1))
    assert (decision.verdict, decision.reason) == (
        "alarm", "cannot judge drift: no champion serves: release a model first"
    )
    assert read_decisions(engine, gate="drift")[0].decision.verdict == "alarm"
