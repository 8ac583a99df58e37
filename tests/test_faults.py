"""The faults that other tests and the demo build on do what they say, and nothing else."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.serving.features_online import open_online
from tests.faults import errs, skew_online_store
from tests.release_payload import VIEW, tiny_contract, write_store
from tests.router_world import BACKEND, answers, wait

pytestmark = pytest.mark.service  # ports of its own: one process after the other

RELEASE, FAULTY = 25150, 25151
REPO = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [sys.executable, str(BACKEND), str(RELEASE), "churn:a", str(tmp_path_factory.mktemp("release") / "mode")]


@contextmanager
def faulty(fault: str, release: list[str]) -> Iterator[None]:
    """A proxy with a fault on FAULTY, before a release on RELEASE."""
    running = subprocess.Popen(release)
    proxy = subprocess.Popen([sys.executable, "-m", "tests.faults", "--port", str(FAULTY), "--fault", fault,
                              "--upstream", str(RELEASE)], cwd=REPO)
    try:
        wait(lambda: answers(RELEASE) and answers(FAULTY))
        yield
    finally:
        for process in (proxy, running):
            process.terminate()
            process.wait(20)


def ask(path: str, *, port: int = FAULTY, timeout: float = 10) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("x-churn-customer")
    finally:
        connection.close()


def test_errors_hit_their_share_of_the_customers_and_always_the_same_ones(release: list[str]) -> None:
    with faulty("errors:0.2", release):
        seen = {customer: ask(f"/v1/customers/{customer}/churn") for customer in range(200)}
        assert {customer for customer, (status, _) in seen.items() if status == 500} == {
            customer for customer in range(200) if errs(str(customer).encode(), 0.2)}
        assert 20 < sum(status == 500 for status, _ in seen.values()) < 60
        assert all(customer for _, customer in seen.values())  # the log still learns whose error it was
        assert ask("/v1/customers/3/churn?explain=true")[0] == seen[3][0]


def test_a_release_that_answers_only_500_is_still_ready(release: list[str]) -> None:
    with faulty("500", release):
        assert ask("/v1/customers/1/churn")[0] == 500
        assert ask("/readyz")[0] == 200


def test_a_release_that_hangs_is_still_ready(release: list[str]) -> None:
    with faulty("hang", release):
        with pytest.raises(TimeoutError):
            ask("/v1/customers/1/churn", timeout=0.5)
        assert ask("/readyz")[0] == 200


def test_latency_is_added_to_every_request(release: list[str]) -> None:
    with faulty("latency:300", release):
        begin = time.monotonic()
        assert ask("/v1/customers/1/churn")[0] == 200
        assert time.monotonic() - begin >= 0.3


def test_in_front_of_a_command_it_takes_its_port_and_ends_with_it(tmp_path: Path) -> None:
    """The command names the port; it is started on another one."""
    release = [sys.executable, str(BACKEND), str(FAULTY), "churn:a", str(tmp_path / "mode")]
    proxy = subprocess.Popen([sys.executable, "-m", "tests.faults", "--port", str(FAULTY), "--fault", "none", "--",
                              *release], cwd=REPO)
    try:
        wait(lambda: answers(FAULTY))
        assert ask("/v1/customers/1/churn")[0] == 200
        (tmp_path / "mode").write_text("end")
    finally:
        proxy.terminate()
        assert proxy.wait(20) is not None
    assert not answers(FAULTY)


def test_a_skewed_store_differs_in_one_feature_and_the_original_does_not(tmp_path: Path) -> None:
    registry, file = write_store(tmp_path)
    assert skew_online_store(file, tmp_path / "skewed.db", feature="visits", add=2) == 3
    contract = tiny_contract()
    right, skewed = (open_online(registry, online, contract, service_name=contract.service_name, view=VIEW)("m1")
                     for online in (file, tmp_path / "skewed.db"))
    assert right is not None
    assert skewed is not None
    assert skewed.features == {**right.features, "visits": 3.0}
    assert right.features["visits"] == 1.0
