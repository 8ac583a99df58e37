"""One fault of each kind on real Bentos behind the real Envoy: what the judge says of the logs they write."""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Iterator

import polars as pl
import pytest

from models.decision import Decision
from models.limits import Rollout
from tasks.data.lake import snapshot_partition, write_partition
from tasks.release import releases, rollouts
from tasks.release.looks import look, picture
from tasks.release.package import bento_venv, serve_command
from tasks.release.processes import start_program, stop_program
from tasks.release.release_process import ReleasePlace
from tasks.release.router_lines import opening_evidence
from tasks.release.routing import Routes, Upstream, routes_lock, set_routes
from tasks.state import open_state
from tests.bench.drill_world import CANARY, CHAMPION, REPO, Platform, answers, contract, members, platform
from tests.release_payload import AS_OF

pytestmark = pytest.mark.service

FIRST_PORT = 25310
LIMITS = Rollout(stages=(0.5,), least_customers=60, max_error_excess=0.3, max_slow_excess=0.6)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("judged"), first_port=FIRST_PORT) as made:
        write_partition(pl.from_pandas(members()), snapshot_partition(made.home, contract().fingerprint, AS_OF))
        yield made


def judged(world: Platform, fault: str, port: int) -> Decision:
    """Send every member once, half of them to a canary with this fault, and look."""
    place = ReleasePlace(home=world.home, engine=open_state(f"sqlite:///{world.home.root}/{port}.db"), limits=LIMITS,
                         repo=REPO, first_port=FIRST_PORT)
    champion, canary = world.releases[CHAMPION], Upstream(world.releases[CANARY].release_id, port)
    rollout = opened(place, champion.release_id, canary.release_id)
    command, environment = serve_command(world.home, canary.release_id, bento_venv(world.home, canary.release_id),
                                         port=port)
    start_program(world.home, f"faulty-{port}", [
        sys.executable, str(REPO / "tests" / "faults.py"), "--port", str(port), "--fault", fault, "--", *command],
        environment=environment, directory=REPO)
    try:
        deadline = time.monotonic() + 180
        while not answers(port, "/readyz"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with routes_lock(world.home):
            set_routes(world.home, Routes(champion, canary, 0.5, rollout.rollout_id))
        ask_everybody(world.api)
        time.sleep(1.5)  # Envoy writes its log every half second
        return look(place, rollouts.read_rollout(place.engine, rollout.rollout_id))
    finally:
        with routes_lock(world.home):
            set_routes(world.home, Routes(champion))
        stop_program(world.home, f"faulty-{port}")
        if picture(world.home, rollout.rollout_id).exists():
            print(picture(world.home, rollout.rollout_id))


def opened(place: ReleasePlace, champion: str, canary: str) -> rollouts.RolloutRow:
    for release_id in (champion, canary):
        releases.register_release(place.engine, release_id=release_id, model_version=release_id, run_id="r",
                                  fingerprint="f", as_of="2025-01-01", auc=0.7, monthly_value=1.0)
    first = rollouts.open_new(place.engine, release_id=champion, strategy="basic", who="t", why="t")
    rollouts.close(place.engine, first, state="champion", reason="first")
    row = rollouts.open_new(place.engine, release_id=canary, strategy="canary", who="t", why="t")
    rollouts.advance(place.engine, row, state="canary", evidence=opening_evidence(place.home))
    return rollouts.read_rollout(place.engine, row.rollout_id)


def ask_everybody(api: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=10)
    for member in members()["member_id"]:
        connection.request("GET", f"/v1/customers/{member}/churn")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200  # whatever the canary does, its customers are answered


def test_a_canary_without_a_fault_is_not_rolled_back_and_scores_as_its_batch(world: Platform) -> None:
    decision = judged(world, "none", FIRST_PORT + 11)
    assert decision.verdict != "roll back", decision.reason
    assert int(decision.evidence["scores_compared"] or 0) > 100
    assert (decision.evidence["scores_apart"], decision.evidence["canary_errors"]) == (0, 0)


@pytest.mark.parametrize(("fault", "says"), [
    ("errors:0.15", "canary customers and 0 of"), ("500", "kill switch"), ("latency:300", "waited longer than"),
    ("skew:visits:3", "away from its own batch score of the same row"),
])
def test_a_fault_is_rolled_back_by_its_own_monitor(world: Platform, fault: str, says: str) -> None:
    port = FIRST_PORT + 12 + ["errors:0.15", "500", "latency:300", "skew:visits:3"].index(fault)
    decision = judged(world, fault, port)
    assert decision.verdict == "roll back", decision.reason
    assert says in decision.reason
