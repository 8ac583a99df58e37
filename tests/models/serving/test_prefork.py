"""Several workers on one port, as real processes over a tiny release."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.release_payload import KEY, write_payload, write_store
from tests.waiting import free_port, wait_for

pytestmark = pytest.mark.service
REPO = Path(__file__).resolve().parents[3]
GOOD = {"visits": 1, "spend": 12.5, "tier": "gold"}


class Served:
    """A release's parent process, started from a folder laid out as a Bento's."""

    def __init__(self, folder: Path, *, workers: str = "2", port: int | None = None, **changed: str) -> None:
        self.folder, self.port = folder, port or free_port(range(25000, 25010))
        if not (folder / "models").exists():
            shutil.copytree(REPO / "models", folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
        registry, online = f"sqlite:///{folder}/feast/registry.db", folder / "feast/online.db"
        if not online.exists():
            write_store(folder / "feast")
        (folder / "key").write_bytes(KEY)
        (folder / "clock").write_text("2025-01-02")
        self.log = folder / f"{self.port}.log"
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1",
            "CHURN_FEAST_REGISTRY": registry, "CHURN_FEAST_ONLINE": str(online), "CHURN_FEAST_PROJECT": "churn",
            "CHURN_CUSTOMER_KEY_FILE": str(folder / "key"), "CHURN_PREDICTION_LOG": str(folder / "predictions.jsonl"),
            "CHURN_CLOCK_FILE": str(folder / "clock"), "CHURN_RELEASE_ID": "churn:tiny",
            "CHURN_RELEASE_WORKERS": workers, "TMPDIR": str(folder), **changed,
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "models.serving.prefork", "--port", str(self.port)], env=environment,
                cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def wait(self, seconds: float = 120) -> bool:
        """Whether it became ready; False where it ended first."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            with contextlib.suppress(OSError):
                if self.ask("GET", "/readyz")[0] == 200:
                    return True
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bento")
    write_payload(folder / "release", estimator="boosting")
    one = Served(folder)
    assert one.wait(), one.log.read_text()
    yield one
    one.stop()


def count(text: str, series: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(series))


def test_two_workers_answer_and_metrics_add_up_over_both(served):
    wait_for(lambda: len(served.workers()) == 2, say=served.log.read_text)
    before = count(served.ask("GET", "/metrics")[1], "churn_requests_total")
    for _ in range(40):  # a connection each: whichever worker is free takes it
        assert served.ask("POST", "/v1/score", {"rows": [GOOD]})[0] == 200
    seen = {served.ask("GET", "/metrics")[1] for _ in range(6)}
    assert {count(text, "churn_requests_total") - before for text in seen} == {40}
    assert all('release="churn:tiny"' in line for line in next(iter(seen)).splitlines() if line.startswith("churn_"))


def test_an_answer_leaves_in_one_write(served):
    """Head and body apart are a request that no other release can take over, if the worker dies between them."""
    body = json.dumps({"rows": [GOOD]}).encode()
    scored = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body), body)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        for request in [scored, b"GET /v1/customers/c1/churn HTTP/1.1\r\nhost: x\r\n\r\n"] * 150:
            client.sendall(request)
            first = client.recv(65536)
            head, _, rest = first.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 ")
            assert json.loads(rest)["request_id"]


def test_a_killed_worker_is_followed_by_another_while_the_other_answers(served):
    wait_for(lambda: len(served.workers()) == 2, say=served.log.read_text)
    before = served.workers()
    os.kill(min(before), signal.SIGKILL)
    for _ in range(20):
        assert served.ask("GET", "/v1/customers/m1/churn")[0] == 200
    wait_for(lambda: len(served.workers()) == 2 and min(before) not in served.workers(), say=served.log.read_text)
    assert "another one takes its place" in served.log.read_text()


def test_when_all_workers_are_killed_the_release_comes_back_by_itself(served):
    wait_for(lambda: len(served.workers()) == 2, say=served.log.read_text)
    for worker in served.workers():
        os.kill(worker, signal.SIGKILL)
    assert served.ask("GET", "/v1/customers/m1/churn")[0] == 200  # waits in the socket's queue, or in a new worker


def test_workers_end_with_a_parent_that_is_killed_and_the_port_is_free_again(served):
    other = Served(served.folder)
    try:
        assert other.wait(), other.log.read_text()
        workers = [psutil.Process(worker) for worker in other.workers()]
        other.process.kill()
        other.process.wait(10)
        assert not psutil.wait_procs(workers, timeout=15)[1]
        again = Served(served.folder, port=other.port)
        try:
            assert again.wait(), again.log.read_text()
        finally:
            again.stop()
        assert again.process.returncode == 0
    finally:
        other.stop()


def test_a_worker_that_cannot_be_replaced_does_not_cost_the_one_that_answers(served):
    wait_for(lambda: len(served.workers()) == 2, say=served.log.read_text)
    online = served.folder / "feast/online.db"
    online.rename(online.with_suffix(".away"))
    try:
        os.kill(min(served.workers()), signal.SIGKILL)
        wait_for(lambda: "online.db does not exist" in served.log.read_text(), say=served.log.read_text)
        assert served.ask("POST", "/v1/score", {"rows": [GOOD]})[0] == 200
    finally:
        online.with_suffix(".away").rename(online)
    wait_for(lambda: len(served.workers()) == 2, say=served.log.read_text)
    assert served.process.poll() is None


def test_a_worker_forked_while_the_parent_is_told_to_end_ends_too():
    """The signal comes after the parent asked whether it ends, and before it holds signals back to fork."""
    script = """if True:
        import os, signal, sys, time
        from models.serving import prefork
        mask = signal.pthread_sigmask
        def late(how, names):
            if how == signal.SIG_BLOCK:
                os.kill(os.getpid(), signal.SIGTERM)
            return mask(how, names)
        def work(*_):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            mask(signal.SIG_UNBLOCK, prefork.ENDING)
            time.sleep(60)
            return 0
        signal.pthread_sigmask, prefork._work = late, work
        sys.exit(prefork._Parent(2, None, None).run())
    """
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO, timeout=20).returncode == 0


def test_a_taken_port_and_a_wrong_number_of_workers_are_one_line_each(served):
    taken = Served(served.folder, port=served.port)
    assert taken.process.wait(60) == 1
    assert f"cannot listen on 127.0.0.1:{served.port}: Address already in use" in (
        served.folder / f"{served.port}.log").read_text()
    wrong = Served(served.folder, workers="none")
    assert wrong.process.wait(60) == 1
    assert "CHURN_RELEASE_WORKERS='none'" in wrong.log.read_text()


def test_a_release_whose_store_lacks_its_feature_service_ends_with_one_line_and_is_never_ready(served, tmp_path):
    write_store(tmp_path, project="other")
    lost = Served(served.folder, CHURN_FEAST_REGISTRY=f"sqlite:///{tmp_path}/registry.db")
    assert lost.wait() is False
    text = lost.log.read_text()
    assert (lost.process.returncode, "Traceback" in text) == (1, False)
    assert "the release does not start: cannot open the feature service" in text
