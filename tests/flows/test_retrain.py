"""Retraining acts on a decision of the ledger, once, one at a time; everything else is refused and written down."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.decision import Decision
from tasks.state import open_state, read_decisions, record_decision, set_clock, use_decision

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]
MARCH = datetime(2025, 3, 1, tzinfo=UTC)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """The state of a fresh home whose clock stands at 1 March."""
    from flows import retrain

    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    monkeypatch.setattr(retrain, "SLOT_SECONDS", 5.0)
    engine = open_state(f"sqlite:///{tmp_path.resolve()}/state.db")
    set_clock(engine, MARCH)
    yield engine
    engine.dispose()


@pytest.fixture
def calls(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What training and release were asked; training itself has tests of its own."""
    from flows import retrain

    asked: list[dict[str, Any]] = []

    def train(**arguments: Any) -> Decision:
        asked.append(arguments)
        record_decision(engine, Decision("go", "go", "development: promoted", {"stage": "development"}), as_of=MARCH,
                        subject="3")
        return Decision("promotion", "promote", "wins", {"model_version": "3"})

    monkeypatch.setattr(retrain, "train", train)
    monkeypatch.setattr(retrain, "release", lambda **arguments: asked.append(arguments))
    return asked


@pytest.fixture
def slot() -> Iterator[None]:
    """The limit the platform makes when it starts."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="retrain", limit=1))
        yield
        client.delete_global_concurrency_limit_by_name("retrain")


def order(engine: sa.Engine, as_of: datetime = MARCH, verdict: str = "retrain") -> str:
    return record_decision(engine, Decision("drift", verdict, "2 of 3 flagged"), as_of=as_of, subject="churn:1")


def used(engine: sa.Engine) -> str:
    """A decision somebody took up and did not finish: no verdict of his stands in the ledger."""
    decision_id = order(engine)
    assert use_decision(engine, decision_id, flow_run_id=None)
    return decision_id


def run(decision_id: str) -> Decision:
    from flows.retrain import retrain

    return retrain(decision_id)


@pytest.mark.usefixtures("slot")
def test_a_recorded_decision_trains_and_releases_what_wins_and_is_used_up(
    engine: sa.Engine, calls: list[dict[str, Any]]
) -> None:
    decision_id = order(engine)
    assert run(decision_id).verdict == "accept"
    assert calls == [
        {"as_of": MARCH}, {"version": 3, "who": "retrain", "why": f"drift decision {decision_id}"},
    ]
    recorded = read_decisions(engine, gate="retrain")[0]
    assert (recorded.decision.verdict, recorded.decision.evidence["decision_id"]) == ("accept", decision_id)
    assert (recorded.as_of, bool(recorded.flow_run_id)) == (MARCH.isoformat(), True)
    assert run(decision_id).verdict == "refuse"
    assert len(calls) == 2


@pytest.mark.usefixtures("slot")
@pytest.mark.parametrize("said", ["no go", None], ids=["a no-go", "no verdict"])
def test_a_version_without_a_go_of_its_development_is_not_released(
    engine: sa.Engine, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    from flows import retrain

    def train(**_: Any) -> Decision:
        if said is not None:
            record_decision(engine, Decision("go", said, "development: AUC 0.6 is asked", {"stage": "development"}),
                            as_of=MARCH, subject="3")
        return Decision("promotion", "promote", "wins", {"model_version": "3"})

    monkeypatch.setattr(retrain, "train", train)
    assert run(order(engine)).verdict == "accept"
    assert calls == []
    written = read_decisions(engine, gate="retrain")[0].decision.reason
    assert "version 3 is not released by itself" in written


@pytest.mark.usefixtures("slot")
def test_a_candidate_that_loses_is_not_released(
    engine: sa.Engine, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import retrain

    monkeypatch.setattr(retrain, "train", lambda **_: Decision("promotion", "keep", "equal"))
    assert run(order(engine)).verdict == "accept"
    assert calls == []


@pytest.mark.usefixtures("slot")
def test_a_gate_that_waits_releases_nothing_and_starts_no_cool_down(
    engine: sa.Engine, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import retrain
    from tasks.events import last_retrain

    waits = Decision("promotion", "wait", "the concept changed on 2025-02-01: there are on 2025-04-05")
    monkeypatch.setattr(retrain, "train", lambda **_: waits)
    assert run(order(engine)).verdict == "accept"
    assert calls == []
    assert "in vain, the concept changed on 2025-02-01" in read_decisions(engine, gate="retrain")[0].decision.reason
    assert last_retrain(engine) is None


@pytest.mark.usefixtures("slot")
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda _: "deadbeef", "the ledger does not know it"),
        (lambda engine: order(engine, verdict="flag"), "it says drift: flag, not drift: retrain"),
        (lambda engine: order(engine, datetime(2025, 1, 1, tzinfo=UTC)), "it is 59 days old, valid for 31"),
        (lambda engine: used(engine), "it was acted on before"),
    ],
    ids=["unknown", "another verdict", "expired", "used"],
)
def test_what_the_ledger_does_not_order_is_refused_and_nothing_is_trained(
    engine: sa.Engine, calls: list[dict[str, Any]], made: Any, said: str
) -> None:
    answer = run(made(engine))
    assert (answer.verdict, calls) == ("refuse", [])
    assert said in answer.reason
    assert read_decisions(engine, gate="retrain")[0].decision == answer


@pytest.mark.usefixtures("slot", "calls")
def test_while_one_retraining_runs_another_is_refused_and_its_decision_stays_open(engine: sa.Engine) -> None:
    from prefect.concurrency.sync import concurrency

    decision_id = order(engine)
    with concurrency("retrain", strict=True):
        answer = run(decision_id)
    assert "another retraining is running" in answer.reason
    assert run(decision_id).verdict == "accept"


def test_without_the_limit_it_cannot_be_sure_to_be_alone_and_refuses(
    engine: sa.Engine, calls: list[dict[str, Any]]
) -> None:
    answer = run(order(engine))
    assert (answer.verdict, calls) == ("refuse", [])
    assert "cannot make sure that no other one is running" in answer.reason


@pytest.mark.usefixtures("slot")
def test_a_training_that_fails_is_written_down_and_does_not_start_the_cooldown(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import retrain
    from tasks.events import last_retrain

    def broken(**_: object) -> Decision:
        raise RuntimeError("disk full\nmore")

    monkeypatch.setattr(retrain, "train", broken)
    with pytest.raises(RuntimeError, match="disk full"):
        run(order(engine))
    assert read_decisions(engine, gate="retrain")[0].decision.reason == (
        "the retraining failed: RuntimeError: disk full"
    )
    assert last_retrain(engine) is None


@pytest.mark.usefixtures("slot", "calls")
def test_a_release_that_fails_is_written_down_and_the_cooldown_holds_for_a_model_was_trained(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import retrain
    from models.errors import ReleaseError
    from tasks.events import last_retrain

    def busy(**_: object) -> None:
        raise ReleaseError("a rollout is open")

    monkeypatch.setattr(retrain, "release", busy)
    with pytest.raises(ReleaseError):
        run(order(engine))
    assert read_decisions(engine, gate="retrain")[0].decision.reason == (
        "retrained, but version 3 was not released: ReleaseError: a rollout is open"
    )
    assert last_retrain(engine) == MARCH


@pytest.mark.usefixtures("slot")
def test_while_a_rollout_is_open_the_new_version_waits_and_the_ledger_says_so(
    engine: sa.Engine, calls: list[dict[str, Any]]
) -> None:
    from tasks.rollouts import open_new

    open_new(engine, release_id="churn:2", strategy="canary", who="test", why="open")
    assert run(order(engine)).verdict == "accept"
    assert calls == [{"as_of": MARCH}]
    assert "version 3 waits: a rollout of churn:2 is open" in read_decisions(engine, gate="retrain")[0].decision.reason
