"""The feature store stops and comes back: GET answers 503 meanwhile, POST goes on."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis

from models.serving.api import build_app
from models.serving.features_online import open_online
from models.serving.payload import load_payload
from models.serving.platform_clock import PlatformClock
from models.serving.prediction_log import PredictionLog
from models.serving.runtime import build_runtime
from tests.conftest import skip_or_fail
from tests.release_payload import KEY, VIEW, write_payload, write_store

pytestmark = pytest.mark.service

PORT = 25052
PLACE = f"redis://127.0.0.1:{PORT}/0"


@dataclass
class Server:
    """A Redis of the test's own."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(["redis-server", "--port", str(PORT), "--bind", "127.0.0.1", "--dir",
                                         str(self.folder), "--appendonly", "yes", "--logfile", "redis.log"])
        client, deadline = redis.Redis(port=PORT), time.monotonic() + 20
        while True:
            try:
                client.ping()
                return
            except redis.exceptions.RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


def test_a_redis_that_stops_is_503_with_retry_after_and_post_goes_on_until_it_is_back(tmp_path):
    if shutil.which("redis-server") is None:
        skip_or_fail("needs redis-server")
    server = Server(tmp_path)
    server.start()
    try:
        registry, _ = write_store(tmp_path / "feast", online=PLACE)
        payload = load_payload(write_payload(tmp_path / "release"))
        app = build_app()
        app.state.runtime = build_runtime(
            payload, release_id="churn:redis", log=PredictionLog(tmp_path / "p.jsonl"), customer_key=KEY,
            clock=PlatformClock(None), read_online=open_online(
                registry, PLACE, payload.contract, view=VIEW, service_name=payload.manifest["feature_service"]))

        def ask(method, path, **options):
            async def send():
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                    return await client.request(method, path, **options)
            return asyncio.run(send())

        rows = {"rows": [{"visits": 1, "spend": 12.5, "tier": "gold"}]}
        assert ask("GET", "/v1/customers/m1/churn").status_code == 200
        server.stop()
        away = ask("GET", "/v1/customers/m1/churn")
        assert (away.status_code, away.headers["retry-after"]) == (503, "1")
        assert str(PORT) not in away.text
        assert ask("POST", "/v1/score", json=rows).status_code == 200
        server.start()
        deadline = time.monotonic() + 20
        while (back := ask("GET", "/v1/customers/m1/churn")).status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert back.status_code == 200
    finally:
        server.stop()
