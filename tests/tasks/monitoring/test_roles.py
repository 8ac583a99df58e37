"""Roles by what the real Envoy writes: served, mirrored, answered by somebody else, never routed."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from models.serving.prediction_log import PredictionLog
from tasks.monitoring.predictions import read_predictions
from tasks.monitoring.roles import ROLES
from tasks.monitoring.ship_log import prediction_log, ship
from tasks.release.routing import Routes, Upstream, set_routes
from tasks.state import open_state
from tasks.tables import ROLLOUTS
from tests.router_world import running
from tests.tasks.monitoring.serving_logs import NEW, OLD, prediction

pytestmark = pytest.mark.service

API = 25060
CHAMPION, NEWCOMER = Upstream(OLD, 25061), Upstream(NEW, 25062)


def release(
    upstream: Upstream, log: PredictionLog, guard: threading.Lock, slow: threading.Event
) -> ThreadingHTTPServer:
    """Logs each request as a release does, and answers; while `slow` is set only after its try is over."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != "/readyz":
                line = prediction(self.headers["x-request-id"] or "direct", release=upstream.release_id,
                                  attempt=int(self.headers.get("x-envoy-attempt-count", 1)))
                with guard:
                    log.append_many([{**line, "at": datetime.now(UTC).isoformat()}])
                if slow.is_set():
                    time.sleep(1.5)
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", upstream.port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_each_answer_gets_the_role_it_had():
    with running(API) as world:
        home, engine, guard, slow = world.home, open_state(world.home.state_url), threading.Lock(), threading.Event()
        logs = [PredictionLog(prediction_log(home)) for _ in range(2)]
        servers = [release(CHAMPION, logs[0], guard, threading.Event()), release(NEWCOMER, logs[1], guard, slow)]
        with engine.begin() as connection:
            for rollout_id in ("shadowed", "dealt"):
                connection.execute(ROLLOUTS.insert().values(
                    rollout_id=rollout_id, release_id=NEW, champion_id=OLD, strategy="canary", state="rolled back",
                    stage=0, who="t", why="t", opened_at="2026-01-01", closed_at="2026-01-01",
                    stage_since="2026-01-01", evidence="{}"))
        try:
            ask = http.client.HTTPConnection("127.0.0.1", CHAMPION.port)
            ask.request("GET", "/v1/customers/golden/churn")
            ask.getresponse().read()
            assert set_routes(home, Routes(CHAMPION, shadow=NEWCOMER, salt="shadowed"))
            for customer in range(10):
                assert world.ask(f"/v1/customers/{customer}/churn")[0] == 200
            time.sleep(0.5)  # copies may come after the answer
            assert set_routes(home, Routes(CHAMPION, canary=NEWCOMER, canary_share=0.99, salt="dealt"))
            assert {world.ask(f"/v1/customers/{customer}/churn")[0] for customer in range(30)} == {200}
            slow.set()
            assert world.ask("/v1/customers/0/churn")[0] == 200
            world.log()  # waits until Envoy has written it
            ship(home, engine, settle_seconds=-2)
            rows = read_predictions(home, roles=ROLES)
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()
            for log in logs:
                log.close()
    seen = Counter(zip(rows["release_id"], rows["role"], strict=True))
    by_canary = seen.pop((NEW, "served"))
    assert 25 <= by_canary <= 30
    assert seen == {(OLD, "unrouted"): 1, (OLD, "served"): 10 + 30 - by_canary + 1, (NEW, "shadow"): 10,
                    (NEW, "superseded"): 1}
    assert rows.filter(role="superseded")["request_id"].is_in(
        rows.filter(attempt=2, role="served")["request_id"].implode()).all()
