"""Routes through the real Envoy, to two small programs."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.errors import PlatformError
from models.gates.canary import judge
from models.gates.canary_counts import Skew
from models.limits import Rollout
from tasks.home import Home
from tasks.release.evidence import read_evidence
from tasks.release.router_lines import latency_edges
from tasks.release.routing import Routes, Upstream, access_log, read_routes, set_routes, write_bootstrap
from tests.router_world import World, running

API, CHAMPION, CANARY = 24200, Upstream("churn:a", 24201), Upstream("churn:b", 24202)


@pytest.fixture(scope="module")
def platform() -> Iterator[World]:
    with running(API, CHAMPION, CANARY) as world:
        yield world


@pytest.fixture
def world(platform: World) -> World:
    platform.heal(CHAMPION, CANARY)
    return platform


def split(share: float, salt: str = "r1") -> Routes:
    return Routes(CHAMPION, CANARY, share, salt)


def test_without_a_champion_the_api_says_so(world: World) -> None:
    assert set_routes(world.home, Routes())
    status, headers, body = world.ask("/v1/customers/7/churn")
    assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/json", "1")
    assert body["error"] == "no release serves yet; train and release a model (`make run`)"
    assert world.ask("/docs")[0] == 503
    assert world.ask("/")[0] == 404


def test_only_the_api_is_routed(world: World) -> None:
    assert set_routes(world.home, Routes(CHAMPION))
    for path in ("/docs", "/docs/x.js", "/v1/customers/7/churn?explain=true"):
        assert (path, world.ask(path)[0]) == (path, 200)
    for path in ("/readyz", "/metrics", "/", "/docsx", "/v1/customers/7", "/v1/customers/7/churn/x"):
        status, _, body = world.ask(path)
        assert (path, status) == (path, 404)
        assert "no such path" in body["error"]
    for path in ("/v1/customers/a%2fb/churn", "/v1/customers/a%00b/churn"):
        status, _, body = world.ask(path)
        assert (path, status) == (path, 400)
        assert "encoded slash" in body["error"]


def test_large_bodies_are_refused_and_a_batch_is_not(world: World) -> None:
    set_routes(world.home, Routes(CHAMPION))
    batch = json.dumps({"rows": [{"x": 0.5, "pad": "y" * 500}] * 1000}).encode()
    assert world.ask("/v1/score", body=batch)[0] == 200
    assert world.ask("/v1/score", body=b"x" * 1_100_000)[0] == 413
    assert world.ask("/v1/customers/7/churn", body=b"x" * 20_000)[0] == 413


def test_a_customer_stays_with_their_release_whatever_they_ask_for(world: World) -> None:
    assert set_routes(world.home, split(0.3))
    first = [world.who(customer) for customer in range(300)]
    assert 60 <= first.count(CANARY.release_id) <= 120  # 90 expected, four standard deviations
    assert first == [world.who(f"{customer}") for customer in range(300)]
    rows = json.dumps({"rows": [{"x": 0.5}]}).encode()
    for customer in range(100):
        by_header = world.ask("/v1/score", body=rows, headers={"X-Customer-Id": str(customer)})[2]["release_id"]
        with_query = world.ask(f"/v1/customers/{customer}/churn?explain=false")[2]["release_id"]
        assert by_header == with_query == first[customer]


def test_a_ramp_only_adds_customers_and_another_rollout_deals_anew(world: World) -> None:
    seen: dict[float, set[int]] = {}
    for share in (0.05, 0.25, 0.5):
        set_routes(world.home, split(share))
        seen[share] = {customer for customer in range(200) if world.who(customer) == CANARY.release_id}
    assert seen[0.05] < seen[0.25] < seen[0.5]
    set_routes(world.home, split(0.5, "r2"))
    other = {customer for customer in range(200) if world.who(customer) == CANARY.release_id}
    assert 20 < len(other & seen[0.5]) < 80  # 50 expected where the two deals are independent


def test_rows_of_nobody_in_particular_go_to_the_champion(world: World) -> None:
    set_routes(world.home, split(0.9))
    rows = json.dumps({"rows": [{"x": 0.5}]}).encode()
    assert {world.ask("/v1/score", body=rows)[2]["release_id"] for _ in range(20)} == {CHAMPION.release_id}


def test_a_canary_that_fails_is_answered_by_the_champion_and_then_killed(world: World) -> None:
    world.mode(CANARY, "500")
    set_routes(world.home, split(0.5, "killed"))
    answers_ = Counter((status, body["release_id"]) for status, _, body in
                       (world.ask(f"/v1/customers/{customer}/churn") for customer in range(200)))
    assert answers_ == {(200, CHAMPION.release_id): 200}
    world.log()
    edges = latency_edges({})
    evidence = read_evidence(world.home, "killed", (0.5,), canary_id=CANARY.release_id, edges=edges, limits=Rollout())
    arm = evidence.stages[0].canary
    assert 70 < arm.customers == arm.failed == arm.errors < 130
    assert evidence.stages[0].champion.errors == 0
    decision = judge(evidence.stages, Rollout(), edges=edges, skew=Skew(), minutes_in_stage=0.1)
    assert decision.verdict == "roll back"
    assert decision.reason.startswith("kill switch: ")


def test_a_canary_that_hangs_costs_its_customers_one_try(world: World) -> None:
    world.mode(CANARY, "hang")
    set_routes(world.home, split(0.9, "hung"))
    begin = time.monotonic()
    assert {world.who(customer) for customer in range(3)} == {CHAMPION.release_id}
    assert time.monotonic() - begin < 4.5


def test_the_canary_never_answers_for_the_champion(world: World) -> None:
    set_routes(world.home, split(0.5, "alone"))
    theirs = [customer for customer in range(40) if world.who(customer) == CHAMPION.release_id]
    world.mode(CHAMPION, "500")
    assert {world.ask(f"/v1/customers/{customer}/churn")[0] for customer in theirs} == {500}


def test_the_customers_hash_is_logged_and_neither_it_nor_the_path_gets_out(world: World) -> None:
    set_routes(world.home, split(0.5, "secret"))
    _, headers, _ = world.ask("/v1/customers/very-secret-7/churn")
    assert "x-churn-customer" not in headers
    assert not [name for name in headers if name.startswith("x-envoy")]
    entry = [entry for entry in world.log() if entry["rollout"] == "secret"][-1]
    assert len(entry["customer"]) == 32
    assert (entry["route"], entry["share"], entry["attempts"], entry["code"]) == ("customer", "0.5", 1, 200)
    assert entry["answered_by"] in (CHAMPION.release_id, CANARY.release_id)
    assert entry["upstream"].startswith("127.")
    assert "very-secret" not in access_log(world.home).read_text()
    assert access_log(world.home).stat().st_mode & 0o777 == 0o600


def test_a_client_cannot_ask_envoy_for_more_retries(world: World) -> None:
    world.mode(CHAMPION, "500")
    set_routes(world.home, Routes(CHAMPION))
    world.ask("/v1/customers/7/churn", headers={"x-envoy-max-retries": "50", "x-request-id": "mine"})
    entry = world.log()[-1]
    assert entry["attempts"] == 3
    assert entry["request_id"] != "mine"


@pytest.mark.service  # 8 s of load
def test_no_request_fails_while_weights_change_the_canary_is_killed_and_is_promoted(world: World) -> None:
    set_routes(world.home, Routes(CHAMPION))
    codes: Counter[int] = Counter()
    stop = threading.Event()

    def load(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", API, timeout=10)
        while not stop.is_set():
            number += 1
            connection.request("GET", f"/v1/customers/{number}/churn")
            answer = connection.getresponse()
            answer.read()
            codes[answer.status] += 1
            time.sleep(0.002)

    threads = [threading.Thread(target=load, args=(seed * 100_000,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for share in (0.05, 0.25, 0.5):
            assert set_routes(world.home, split(share))
            time.sleep(0.7)
        world.processes[CANARY.release_id].kill()
        time.sleep(1.5)
        world.start(CANARY)
        time.sleep(1.5)
        assert set_routes(world.home, Routes(CANARY))
        world.processes[CHAMPION.release_id].terminate()
        time.sleep(1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes.pop(200) > 500
    assert codes == {}


def test_routes_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert read_routes(home) == Routes()
    for routes in (Routes(), Routes(CHAMPION), split(0.25)):
        assert not set_routes(home, routes)  # no Envoy runs here
        assert read_routes(home) == routes


def test_starting_anew_keeps_the_champion_and_leaves_the_canary_out_until_it_is_ready(tmp_path: Path) -> None:
    home = Home(tmp_path)
    set_routes(home, split(0.25))
    write_bootstrap(home, host="127.0.0.1", api_port=API)
    assert read_routes(home) == Routes(CHAMPION)


def test_a_route_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    set_routes(home, Routes())
    (home.run / "envoy" / "xds" / "rds.json").write_text("{}")
    with pytest.raises(PlatformError, match=r"cannot read who serves: .* is not a route file of ours"):
        read_routes(home)


@pytest.mark.parametrize("routes", [lambda: Routes(None, CANARY, 0.5, "r1"), lambda: Routes(CHAMPION, CANARY, 0.5, ""),
                                    lambda: Routes(CHAMPION, CANARY, 1.0, "r1")])
def test_a_canary_needs_a_champion_a_salt_and_a_share_below_one(routes: Callable[[], Routes]) -> None:
    with pytest.raises(PlatformError):
        routes()
