"""Whether the API answers is asked, not waited for: a dead Envoy writes no log, and at night nobody else calls."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from models.charter import Charter
from tasks.monitoring import api_question
from tasks.monitoring.alarms import open_alarms
from tasks.monitoring.api_question import Missed, fault_of, watch_api
from tasks.release import releases, rollouts
from tasks.state import open_state

NOBODY = "http://127.0.0.1:25242"


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return open_state(f"sqlite:///{tmp_path}/state.db")


@pytest.fixture
def api() -> Iterator[tuple[str, list[int]]]:
    """An API's address, and the status with which it answers: the last one of these."""
    codes = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(codes[-1] if self.path == "/openapi.json" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", codes
    listening.shutdown()
    listening.server_close()


def crown(engine: sa.Engine) -> None:
    releases.register_release(engine, release_id="churn:1", model_version="1", run_id="r", fingerprint="f",
                              as_of="2025-01-01", auc=0.7, monthly_value=1.0)
    rollouts.close(engine, rollouts.open_new(engine, release_id="churn:1", strategy="basic", who="ada", why="test"),
                   state="champion", reason="first")


@pytest.mark.parametrize(("code", "fault"), [
    (200, None), (401, None), (404, None), (429, None), (500, "it says 500"), (503, "it says 503")])
def test_every_status_below_500_is_an_answer(api: tuple[str, list[int]], code: int, fault: str | None) -> None:
    address, codes = api
    codes.append(code)
    assert fault_of(address) == fault


def test_a_port_nobody_listens_on_and_one_that_says_nothing_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_question, "PATIENCE", 0.3)
    assert fault_of(NOBODY) == "no answer (ConnectionRefusedError)"
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        assert str(fault_of(f"http://127.0.0.1:{deaf.getsockname()[1]}")).startswith("no answer (TimeoutError")


def test_an_api_that_answers_nobody_for_minutes_is_one_alarm_and_a_restart_is_none(
    engine: sa.Engine, charter: Charter, api: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    crown(engine)
    passed = [time.monotonic()]
    monkeypatch.setattr(api_question.time, "monotonic", lambda: passed[0])
    missed, alarms = Missed(), []
    for seconds in range(0, 400, 20):
        missed, said = watch_api(engine, charter, NOBODY, missed)
        alarms += [(seconds, one.reason) for one in said]
        passed[0] += 20
    [(seconds, reason)] = alarms
    assert seconds == 300
    assert reason.startswith(f"the API at {NOBODY} answered none of 16 questions in 5.0 minutes (limit 5), the last: "
                             "no answer (ConnectionRefusedError). Look at envoy")
    [opened] = open_alarms(engine, charter)
    assert (opened.subject, opened.owner) == ("api", "ML engineer")
    missed, said = watch_api(engine, charter, api[0], missed)
    assert ([one.verdict for one in said], missed, open_alarms(engine, charter)) == (["well"], Missed(), [])


def test_one_answer_begins_the_count_anew_and_three_questions_hours_apart_are_enough(
    engine: sa.Engine, charter: Charter, api: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    crown(engine)
    passed = [time.monotonic()]
    monkeypatch.setattr(api_question.time, "monotonic", lambda: passed[0])
    missed, found = Missed(), []
    for address in (NOBODY, NOBODY, api[0], NOBODY, NOBODY, NOBODY):
        missed, said = watch_api(engine, charter, address, missed)
        found.append([one.verdict for one in said])
        passed[0] += 3600
    assert found == [[], [], [], [], [], ["alarm"]]


def test_without_a_champion_nobody_is_asked(
    engine: sa.Engine, charter: Charter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_question, "fault_of", lambda _: pytest.fail("asked"))
    assert watch_api(engine, charter, NOBODY, Missed(5, 0.0)) == (Missed(), [])
