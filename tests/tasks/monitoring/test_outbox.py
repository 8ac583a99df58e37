"""The ledger is the outbox: each verdict that matters goes out once, late where it must, and costs nobody time."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.decision import Decision
from tasks.monitoring import outbox
from tasks.monitoring.alarms import BAD
from tasks.monitoring.outbox import claim, emit, event_of, faults, open_rows, send_events, settle
from tasks.state import open_state, read_decisions, record_decision
from tasks.tables import DECISIONS

MARCH = datetime(2025, 3, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """Both stores; claims are decided by them."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/state.db"
    else:
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    engine = open_state(url)
    yield engine
    engine.dispose()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """An HTTP server on a free port that takes events as Prefect does; gives what it was sent."""
    taken: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.extend({**event, "path": self.path} for event in json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    monkeypatch.setattr(outbox, "_server", lambda: (f"http://127.0.0.1:{listening.server_port}/api", "churn:secret"))
    yield taken
    listening.shutdown()
    listening.server_close()


def write(engine: sa.Engine, gate: str, verdict: str, **evidence: str) -> str:
    return record_decision(engine, Decision(gate, verdict, "because", evidence), as_of=MARCH)


@pytest.mark.parametrize(("gate", "verdict", "evidence", "event"), [
    ("drift", "retrain", {}, "churn.drift.detected"), ("drift", "retrain", {"kind": "concept"}, "churn.drift.detected"),
    ("drift", "retrain", {"kind": "performance"}, "churn.performance.degraded"),
    ("data", "refuse", {}, "churn.data.rejected"), ("release", "release", {}, "churn.release.promoted"),
    ("release", "rolled back", {}, "churn.release.rolled_back"), ("drift", "alarm", {}, "churn.alarm.raised"),
    ("silence", "alarm", {}, "churn.alarm.raised"), ("bake", "roll back", {}, "churn.alarm.raised"),
    ("release", "wait", {}, "churn.alarm.raised"), ("data", "accept", {}, None), ("canary", "hold", {}, None),
    ("smoke", "refuse", {}, "churn.alarm.raised"), ("release", "refuse", {}, "churn.alarm.raised"),
    ("release", "refuse", {"rollout_id": "r"}, None),  # its `smoke: refuse` is told
])
def test_a_verdict_has_the_event_that_says_it(
    tmp_path: Path, gate: str, verdict: str, evidence: dict[str, str], event: str | None
) -> None:
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    write(engine, gate, verdict, **evidence)
    assert event_of(read_decisions(engine)[0]) == event
    assert [event_of(row) for row in open_rows(engine, "notification")] == [event] * (event is not None)
    asked_by_the_monitor = (gate, verdict) == ("drift", "retrain")
    assert len(open_rows(engine, "event")) == (event is not None and not asked_by_the_monitor)


def test_every_alarm_is_told_itself_or_by_its_twin() -> None:
    assert set(BAD) == {kind for kind in BAD if kind in outbox._NAMES} | set(outbox.TWINS)
    assert not set(outbox.TWINS) & set(outbox._NAMES)


def test_each_verdict_is_sent_once_and_carries_its_id_alone(
    engine: sa.Engine, server: list[dict[str, Any]]
) -> None:
    first, _ = write(engine, "data", "refuse", secret="c000123"), write(engine, "data", "accept")
    second = write(engine, "release", "rolled back")
    assert [send_events(engine, charter_name="shop"), send_events(engine, charter_name="shop")] == [2, 0]
    assert [(one["event"], one["payload"], one["resource"], one["path"]) for one in server] == [
        ("churn.data.rejected", {"decision_id": first}, {"prefect.resource.id": "churn.model.shop"}, "/api/events"),
        ("churn.release.rolled_back", {"decision_id": second}, {"prefect.resource.id": "churn.model.shop"},
         "/api/events")]


def test_eight_callers_at_once_send_a_verdict_once(engine: sa.Engine, server: list[dict[str, Any]]) -> None:
    for _ in range(5):
        write(engine, "data", "refuse")
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda _: send_events(engine, charter_name="shop"), range(8)))
    assert (sum(sent), len({one["payload"]["decision_id"] for one in server}), len(server)) == (5, 5, 5)


def test_while_prefect_is_away_nothing_is_lost_and_the_next_call_sends_it(
    engine: sa.Engine, server: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(engine, "release", "rolled back")
    there = outbox._server
    monkeypatch.setattr(outbox, "_server", lambda: ("http://127.0.0.1:25749/api", ""))
    assert send_events(engine, charter_name="shop") == 0
    assert faults(engine, "event") == ["Prefect did not answer"]
    monkeypatch.setattr(outbox, "_server", there)
    assert (send_events(engine, charter_name="shop"), len(server), list(faults(engine, "event"))) == (1, 1, [])


def test_a_server_that_takes_the_call_and_says_nothing_costs_two_seconds_not_a_rollback(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setattr(outbox, "_server", lambda: (f"http://127.0.0.1:{deaf.getsockname()[1]}/api", ""))
        begun = time.monotonic()
        assert emit("churn.release.rolled_back", charter_name="shop", decision_id="x", seconds=outbox.HURRY) is False
        assert time.monotonic() - begun < 3


@pytest.mark.usefixtures("server")
def test_news_of_yesterday_is_told_nobody_and_an_open_alarm_whatever_its_age(engine: sa.Engine) -> None:
    for gate, verdict in (("release", "release"), ("smoke", "refuse"), ("smoke", "pass"), ("data", "refuse")):
        write(engine, gate, verdict)
    with engine.begin() as connection:
        for age, (gate, verdict) in enumerate([("data", "refuse"), ("smoke", "pass"), ("smoke", "refuse"),
                                               ("release", "release")]):
            at = (datetime.now(UTC) - timedelta(hours=25 + age)).isoformat(timespec="microseconds")
            connection.execute(DECISIONS.update().where(DECISIONS.c.gate == gate, DECISIONS.c.verdict == verdict)
                               .values(at=at))
    assert [event_of(row) for row in open_rows(engine, "notification")] == ["churn.data.rejected"]
    assert [send_events(engine, charter_name="shop"), send_events(engine, charter_name="shop")] == [1, 0]


def test_who_took_a_verdict_up_and_died_is_overtaken_and_who_told_it_is_not(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision_id = write(engine, "data", "refuse")
    assert [claim(engine, decision_id, "event"), claim(engine, decision_id, "event")] == [True, False]
    monkeypatch.setattr(outbox, "CLAIM", timedelta(seconds=-1))
    assert claim(engine, decision_id, "event") is True
    settle(engine, decision_id, "event", fault=None)
    assert (claim(engine, decision_id, "event"), open_rows(engine, "event")) == (False, [])
    assert [row.decision_id for row in open_rows(engine, "notification")] == [decision_id]


def test_a_store_that_cannot_be_read_does_not_undo_what_was_done(server: list[dict[str, Any]]) -> None:
    engine = sa.create_engine("sqlite:///file:nowhere?mode=ro&uri=true")
    assert (send_events(engine, charter_name="shop"), server) == (0, [])
