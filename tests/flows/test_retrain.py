"""Retraining acts on a decision of the ledger, once, one at a time; everything else is refused and written down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flows.settings import REPO
from models.decision import Decision
from models.training.fit import TrainingConfig
from tasks.home import Home
from tasks.release import rollouts
from tasks.state import accept_decision, now, open_state, read_decision, read_decisions, record_decision, set_clock
from tasks.tables import USED_DECISIONS

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]
MARCH = datetime(2025, 3, 1, tzinfo=UTC)
COMBINED = TrainingConfig()


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """The state of a fresh home whose clock stands at 1 March."""
    from flows import retrain

    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    monkeypatch.setattr(retrain, "SLOT_SECONDS", 5.0)
    engine = open_state(f"sqlite:///{tmp_path.resolve()}/state.db")
    set_clock(engine, MARCH)
    make_champion(engine, "churn:1")
    yield engine
    engine.dispose()


def make_champion(engine: sa.Engine, release_id: str) -> None:
    rollout = rollouts.open_new(engine, release_id=release_id, strategy="basic", who="t", why="t")
    assert rollouts.close(engine, rollout, state="champion", reason="t")


@pytest.fixture
def calls(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What training and release were asked; training itself has tests of its own."""
    from flows import retrain

    asked: list[dict[str, Any]] = []

    def train(**arguments: Any) -> Decision:
        asked.append({name: value for name, value in arguments.items() if name != "hypothesis"})
        record_decision(engine, Decision("go", "go", "development: promoted", {"stage": "development"}), as_of=MARCH,
                        subject="3")
        return Decision("promotion", "promote", "wins", {"model_version": "3"})

    monkeypatch.setattr(retrain, "train", train)
    def release(**arguments: Any) -> Decision:
        asked.append(arguments)
        return Decision("release", "release", "its canary begins")

    monkeypatch.setattr(retrain, "release", release)
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


def order(engine: sa.Engine, as_of: datetime = MARCH, verdict: str = "retrain", **evidence: str) -> str:
    decision = Decision("drift", verdict, "2 of 3 flagged", evidence)
    return record_decision(engine, decision, as_of=as_of, subject="churn:1")


def used(engine: sa.Engine) -> str:
    """A decision that bears the mark of use, and no verdict of whoever used it stands in the ledger."""
    decision_id = order(engine)
    with engine.begin() as connection:
        connection.execute(USED_DECISIONS.insert().values(decision_id=decision_id, at=now()))
    return decision_id


def withdrawn(engine: sa.Engine) -> str:
    decision_id = order(engine, MARCH - timedelta(days=1))
    order(engine, verdict="alarm")
    return decision_id


def of_another_champion(engine: sa.Engine) -> str:
    decision_id = order(engine)
    make_champion(engine, "churn:2")
    return decision_id


def out_of_budget(engine: sa.Engine) -> str:
    for number in (2, 1):
        killed(engine, MARCH - timedelta(days=number))
    return order(engine)


def killed(engine: sa.Engine, as_of: datetime = MARCH) -> str:
    """A retraining that was begun and whose process is gone."""
    decision_id = order(engine, as_of)
    yes = Decision("retrain", "accept", "go", {"decision_id": decision_id})
    assert accept_decision(engine, decision_id, yes, as_of=as_of)
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
        {"as_of": MARCH, "config": COMBINED}, {"version": 3, "who": "retrain", "why": f"drift decision {decision_id}",
                            "by_itself": True},
    ]
    ended, recorded = read_decisions(engine, gate="retrain")
    assert (ended.decision.verdict, ended.decision.reason) == (
        "done", "retrained, version 3: release: its canary begins")
    assert ended.decision.evidence["model_version"] == "3"
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
    ended = read_decisions(engine, gate="retrain")[0].decision
    assert (ended.verdict, ended.reason) == ("done", "retrained, and no model is released: equal")


@pytest.mark.usefixtures("slot")
def test_a_gate_that_waits_releases_nothing_and_starts_no_cool_down(
    engine: sa.Engine, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import retrain
    from tasks.monitoring.retrainings import last_retrain

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
        (withdrawn, "a later check (of 2025-03-01) says alarm"),
        (of_another_champion, "it is about churn:1, and champion is churn:2"),
        (out_of_budget, "2 retrainings were begun in the last month, at most 2"),
        (lambda engine: order(engine, verdict="harmless"), "it says drift: harmless, not drift: retrain"),
        (lambda engine: order(engine, datetime(2025, 1, 1, tzinfo=UTC)), "it is 59 days old, valid for 31"),
        (lambda engine: used(engine), "it was acted on before"),
    ],
    ids=["unknown", "withdrawn", "another champion", "no budget", "another verdict", "expired", "used"],
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
    with running("retrain"), concurrency("retrain", strict=True):
        answer = run(decision_id)
    assert "another retraining is running" in answer.reason
    assert run(decision_id).verdict == "accept"


@pytest.mark.usefixtures("slot", "calls")
def test_a_slot_that_a_restarted_server_still_counts_is_freed_where_no_other_retraining_lives(
    engine: sa.Engine
) -> None:
    from prefect.client.orchestration import get_client

    with running("sleeper"), get_client(sync_client=True) as client:
        take_slot(client)
        assert run(order(engine)).verdict == "accept"
        assert client.read_global_concurrency_limit_by_name("retrain").active_slots == 0


@pytest.mark.usefixtures("slot")
def test_a_slot_is_not_freed_where_prefect_cannot_be_asked_who_lives(
    engine: sa.Engine, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import SyncPrefectClient, get_client

    def away(*_: object, **__: object) -> None:
        raise OSError("Prefect is away")

    with get_client(sync_client=True) as client:
        take_slot(client)
        monkeypatch.setattr(SyncPrefectClient, "read_flow_runs", away)
        answer = run(order(engine))
        assert (answer.verdict, calls) == ("refuse", [])
        assert "cannot make sure that no other one is running: OSError: Prefect is away" in answer.reason
        assert client.read_global_concurrency_limit_by_name("retrain").active_slots == 1


def take_slot(client: Any) -> None:
    """As a server counts it that has forgotten whose lease it was."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    client.update_global_concurrency_limit("retrain", GlobalConcurrencyLimitUpdate(active_slots=1))


@contextmanager
def running(name: str) -> Iterator[None]:
    """Another run of a flow of this name, which Prefect takes for alive."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Completed, Running

    with get_client(sync_client=True) as client:
        other = client.create_flow_run(flow(name=name)(lambda: None), state=Running())
        try:
            yield
        finally:
            client.set_flow_run_state(other.id, Completed(), force=True)


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
    from tasks.monitoring.retrainings import last_retrain

    def broken(**_: object) -> Decision:
        raise RuntimeError("no number: 'anna@example.org'")

    monkeypatch.setattr(retrain, "train", broken)
    with pytest.raises(RuntimeError, match="no number"):
        run(order(engine))
    reason = read_decisions(engine, gate="retrain")[0].decision.reason
    assert re.fullmatch(r"the retraining failed: RuntimeError at test_retrain\.py:\d+", reason)
    assert last_retrain(engine) is None


KILLED = """
import os, signal, sys
from flows import retrain
retrain.train = lambda **_: os.kill(os.getpid(), getattr(signal, sys.argv[2]))
retrain.retrain(sys.argv[1])
"""


@pytest.mark.usefixtures("slot")
@pytest.mark.parametrize("by", ["SIGKILL", "SIGTERM"])
def test_a_retraining_whose_process_is_killed_has_failed_and_starts_no_cool_down(engine: sa.Engine, by: str) -> None:
    """SIGTERM is what Prefect sends where a run is cancelled; the flow still writes it down itself."""
    from prefect.settings import PREFECT_API_URL

    from tasks.monitoring.retrainings import end_the_dead, last_retrain

    decision_id = order(engine)
    done = subprocess.run([sys.executable, "-c", KILLED, decision_id, by], check=False, cwd=REPO, capture_output=True,
                          text=True, env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}, timeout=120)
    assert done.returncode != 0
    assert [row.decision.verdict for row in read_decisions(engine, gate="retrain")][-1] == "accept", done.stderr[-2000:]
    end_the_dead(engine, Home(Path(os.environ["CHURN_HOME"]), "shop"), MARCH)
    ended, _ = read_decisions(engine, gate="retrain")
    assert (ended.decision.verdict, ended.decision.evidence) == ("refuse", {"decision_id": decision_id, "failed": 1})
    assert ended.decision.reason.partition(" at ")[0] == "the retraining failed: " + {
        "SIGKILL": "its process ended before it did", "SIGTERM": "TerminationSignal"}[by]
    assert last_retrain(engine) is None


@pytest.mark.usefixtures("slot", "calls")
def test_a_retraining_writes_down_one_before_it_that_was_killed(engine: sa.Engine) -> None:
    before = killed(engine)
    assert run(order(engine)).verdict == "accept"
    rows = [(row.decision.verdict, row.decision.evidence["decision_id"] == before)
            for row in reversed(read_decisions(engine, gate="retrain"))]
    assert rows == [("accept", True), ("refuse", True), ("accept", False), ("done", False)]


@pytest.mark.usefixtures("slot", "calls")
def test_an_acceptance_that_cannot_be_written_leaves_the_decision_open(engine: sa.Engine) -> None:
    decision_id = order(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TRIGGER full BEFORE INSERT ON decisions WHEN NEW.verdict = 'accept' "
                                   "BEGIN SELECT RAISE(ABORT, 'disk full'); END"))
    assert run(decision_id).verdict == "refuse"
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TRIGGER full"))
    assert run(decision_id).verdict == "accept"


@pytest.mark.usefixtures("slot", "calls")
def test_a_release_that_fails_is_written_down_and_the_cooldown_holds_for_a_model_was_trained(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import retrain
    from models.errors import ReleaseError
    from tasks.monitoring.retrainings import last_retrain

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
    from tasks.release.rollouts import open_new

    open_new(engine, release_id="churn:2", strategy="canary", who="test", why="open")
    assert run(order(engine)).verdict == "accept"
    assert calls == [{"as_of": MARCH, "config": COMBINED}]
    assert "version 3 waits: a rollout of churn:2 is open" in read_decisions(engine, gate="retrain")[0].decision.reason


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders since 2023; the concept changed on 1 January. Labels take 35 days, so 1 February can test on 8 March."""
    from flows import verdict

    monkeypatch.setattr(verdict, "first_event", lambda *_, **__: datetime(2023, 1, 1, tzinfo=UTC))


def of_the_concept(engine: sa.Engine, as_of: datetime = MARCH) -> str:
    return order(engine, as_of, kind="concept", concept="bad", changed_since="2025-01-01")


@pytest.mark.usefixtures("slot", "change")
def test_after_a_change_of_the_concept_it_waits_for_two_mature_cuts_and_the_decision_is_not_lost(
    engine: sa.Engine, calls: list[dict[str, Any]]
) -> None:
    from models.limits import DriftPolicy
    from tasks.monitoring.events import open_retrain_decisions
    from tasks.monitoring.retrainings import last_retrain
    from tasks.monitoring.waiting import due, waits_until

    first = of_the_concept(engine)
    answer = run(first)
    assert (answer.verdict, calls, last_retrain(engine)) == ("wait", [], None)
    assert "two mature cuts after it are needed" in answer.reason
    until = datetime.fromisoformat(str(answer.evidence["waits_until"]))
    assert until == datetime(2025, 3, 8, tzinfo=UTC)
    row = read_decision(engine, first)
    assert row is not None
    assert waits_until(engine, row) == until
    later = of_the_concept(engine, MARCH + timedelta(days=3))  # another check of the same change waits as long
    for moment, expected in ((MARCH + timedelta(days=6), []), (until, [later, first])):
        opened = open_retrain_decisions(engine, DriftPolicy(), moment)
        assert [one.decision_id for one in due(engine, opened, moment)] == expected
    far = until + timedelta(days=30)  # 38 days old, yet it has waited, not aged
    assert first in [one.decision_id for one in open_retrain_decisions(engine, DriftPolicy(), far)]
    set_clock(engine, until)
    assert run(first).verdict == "accept"
    assert calls[0] == {"as_of": until, "config": TrainingConfig(window="new", not_before=datetime(2025, 1, 1))}
    accepted = read_decisions(engine, gate="retrain")[1].decision.evidence
    assert (accepted["kind"], accepted["window"], accepted["not_before"]) == ("concept", "new", "2025-01-01")
    assert open_retrain_decisions(engine, DriftPolicy(), until) == []


@pytest.mark.usefixtures("slot", "change")
def test_drift_of_the_data_waits_as_well_while_the_concept_is_new_and_then_learns_from_all_cuts(
    engine: sa.Engine, calls: list[dict[str, Any]]
) -> None:
    of_the_concept(engine, MARCH - timedelta(days=1))
    decision_id = order(engine, kind="data")
    assert (run(decision_id).verdict, calls) == ("wait", [])
    set_clock(engine, datetime(2025, 3, 8, tzinfo=UTC))
    assert run(decision_id).verdict == "accept"
    assert calls[0]["config"] == COMBINED


@pytest.mark.usefixtures("slot", "calls")
def test_another_process_of_the_home_that_retrains_is_seen_though_the_server_has_lost_its_lease(
    engine: sa.Engine, tmp_path: Path
) -> None:
    decision_id, lock = order(engine), tmp_path / "run" / "retrain.lock"
    lock.parent.mkdir(exist_ok=True)
    code = (f"import fcntl, sys; file = open({str(lock)!r}, 'a'); fcntl.flock(file, fcntl.LOCK_EX); print('held', "
            "flush=True); sys.stdin.read()")
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout
    assert other.stdout.readline() == "held\n"
    assert "another retraining is running in this home" in run(decision_id).reason
    other.communicate()
    assert run(decision_id).verdict == "accept"


@pytest.mark.usefixtures("slot", "calls")
def test_a_mark_of_use_that_is_lost_frees_no_decision(engine: sa.Engine) -> None:
    decision_id = order(engine)
    assert run(decision_id).verdict == "accept"
    with engine.begin() as connection:
        connection.execute(USED_DECISIONS.delete())
    assert "it was acted on before" in run(decision_id).reason
