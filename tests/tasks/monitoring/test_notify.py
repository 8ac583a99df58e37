"""Who is told what: one line a verdict, by an address that may fail, and never at the cost of a flow."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from flows.settings import REPO, load_settings
from models.charter import Charter
from models.decision import Decision
from models.errors import ConfigError
from tasks.home import Home
from tasks.monitoring import notify, teller
from tasks.monitoring.address import check_address
from tasks.monitoring.notify import ChurnNotify, tell_open
from tasks.monitoring.outbox import faults
from tasks.monitoring.teller import Teller, catch_up
from tasks.state import open_state, record_decision
from tasks.tables import DECISIONS, TOLD


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return open_state(f"sqlite:///{tmp_path}/state.db")


@pytest.fixture
def sink() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A web address that takes Apprise's JSON: its port, and what it was sent."""
    taken: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield listening.server_port, taken
    listening.shutdown()
    listening.server_close()


def block(address: str) -> ChurnNotify:
    return ChurnNotify(url=SecretStr(address))


def alarm(engine: sa.Engine, reason: str = "nobody scored") -> str:
    return record_decision(engine, Decision("drift", "alarm", reason), as_of=None)


def test_a_web_address_gets_one_message_a_verdict_and_none_twice(
    engine: sa.Engine, charter: Charter, sink: tuple[int, list[dict[str, Any]]]
) -> None:
    port, taken = sink
    decision_id = alarm(engine)
    address = f"json://127.0.0.1:{port}/"
    assert [tell_open(engine, charter, block(address)), tell_open(engine, charter, block(address))] == [(1, 0), (0, 0)]
    (message,) = taken
    assert message["title"] == "churn.alarm.raised"
    assert message["message"] == (
        f"shop: drift: alarm (owner: data scientist): nobody scored [decision {decision_id}]")


def test_a_line_names_the_role_that_the_verdict_calls_and_of_a_silence_the_owner_of_the_part(
    engine: sa.Engine, charter: Charter, tmp_path: Path
) -> None:
    record_decision(engine, Decision("drift", "alarm", "bad data", {"owner": "data engineer"}), as_of=None)
    record_decision(engine, Decision("silence", "alarm", "ship did not work", {"part": "ship"}), as_of=None,
                    subject="ship")
    tell_open(engine, charter, block(f"file://{tmp_path}/told"))
    told = (tmp_path / "told").read_text()
    assert "drift: alarm (owner: data engineer): bad data" in told
    assert "silence: alarm (owner: data engineer): ship did not work" in told


def test_a_long_reason_of_many_lines_is_one_short_line(engine: sa.Engine, charter: Charter, tmp_path: Path) -> None:
    alarm(engine, "first line\nsecond " + "x" * 2000)
    tell_open(engine, charter, block(f"file://{tmp_path}/told"))
    (line,) = (tmp_path / "told").read_text().splitlines()
    assert "first line second xxx" in line
    assert len(line) < notify.LONGEST + 120


@pytest.mark.parametrize("address", ["json://127.0.0.1:25749/", "file:///nowhere/at/all"])
def test_an_address_that_fails_is_written_down_without_its_secret_and_tried_again(
    engine: sa.Engine, charter: Charter, tmp_path: Path, address: str
) -> None:
    alarm(engine)
    secret = address.replace("127.0.0.1", "user:hunter2@127.0.0.1")
    assert tell_open(engine, charter, block(secret)) == (0, 1)
    (fault,) = faults(engine, "notification")
    assert "CHURN_NOTIFY" in fault
    assert "hunter2" not in fault
    assert tell_open(engine, charter, block(f"file://{tmp_path}/told")) == (1, 0)
    assert list(faults(engine, "notification")) == []


def test_one_of_three_that_fails_does_not_keep_the_others_back(
    engine: sa.Engine, charter: Charter, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def send(_: ChurnNotify, body: str, _subject: str | None = None) -> None:
        if "second" in body:
            raise RuntimeError("c000123 is in the text of a library")
        said.append(body)

    monkeypatch.setattr(ChurnNotify, "notify", send)
    for reason in ("first", "second", "third"):
        alarm(engine, reason)
    assert tell_open(engine, charter, block("json://127.0.0.1/")) == (2, 1)
    assert [line.split("): ")[1].split(" ")[0] for line in said] == ["first", "third"]
    assert faults(engine, "notification") == ["RuntimeError"]


@pytest.mark.parametrize(("address", "said"), [
    ("nonsense://x", "cannot use CHURN_NOTIFY=nonsense:...: no address Apprise knows"),
    ("file://relative", "file:// wants a whole path"), ("file:///nowhere/at/all", "file:// wants a whole path"),
])
def test_an_address_that_cannot_be_used_is_refused_before_anything_starts(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        check_address(address)


@pytest.mark.parametrize(("name", "value", "said"), [
    ("CHURN_MATURITY", "4", "cannot use CHURN_MATURITY='4': Input should be less than or equal to 3"),
    ("CHURN_NOTIFY", "hunter2", r"cannot use CHURN_NOTIFY=\.\.\.: String should match pattern"),
])
def test_a_setting_that_cannot_be_used_is_one_line_and_a_secret_is_not_in_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_the_watchdog_tells_what_no_flow_has_told_and_leaves_the_young_ones(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_API")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHURN_NOTIFY", f"file://{tmp_path}/told")
    home = Home(tmp_path, "shop")
    young = catch_up(home, engine, REPO / "charter.yaml", "shop", Teller())
    alarm(engine)
    assert catch_up(home, engine, REPO / "charter.yaml", "shop", young).process is None
    old = (datetime.now(UTC) - timedelta(seconds=teller.LEFT_TO_FLOW + 1)).isoformat(timespec="microseconds")
    with engine.begin() as connection:
        connection.execute(DECISIONS.update().values(at=old))
    at_work = catch_up(home, engine, REPO / "charter.yaml", "shop", Teller())
    assert at_work.process is not None
    assert catch_up(home, engine, REPO / "charter.yaml", "shop", at_work) is at_work  # one at a time
    assert at_work.process.wait(timeout=120) == 0
    assert "drift: alarm (owner: data scientist): nobody scored" in (tmp_path / "told").read_text()
    with engine.connect() as connection:
        by_notification = sa.select(TOLD.c.done).where(TOLD.c.medium == "notification")
        assert connection.execute(by_notification).scalars().all() == [True]


def test_without_the_setting_the_watchdog_tells_nobody(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHURN_NOTIFY", raising=False)
    monkeypatch.setattr(teller, "LEFT_TO_FLOW", -1.0)
    alarm(engine)
    time.sleep(0.01)
    assert catch_up(Home(tmp_path, "shop"), engine, REPO / "charter.yaml", "shop", Teller()).process is None
