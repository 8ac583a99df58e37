"""Shadow, warm fallback, limit a client and rotation, through the real Envoy."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import PlatformError
from tasks.home import Home
from tasks.release.router_log import access_logs, rotate_access_log
from tasks.release.routing import Routes, Upstream, access_log, read_routes, set_routes
from tests.router_world import World, running, wait

API, LIMITED_API = 25100, 25101
CHAMPION, NEWCOMER, BEFORE = Upstream("churn:a", 25102), Upstream("churn:b", 25103), Upstream("churn:old", 25104)
SHADOWED = Routes(CHAMPION, shadow=NEWCOMER, salt="r1")
ROWS = json.dumps({"rows": [{"x": 0.5}]}).encode()


@pytest.fixture(scope="module")
def platform() -> Iterator[World]:
    with running(API, CHAMPION, NEWCOMER, BEFORE) as world:
        yield world


@pytest.fixture
def world(platform: World) -> World:
    platform.heal(CHAMPION, NEWCOMER, BEFORE)
    return platform


def test_a_shadow_gets_a_copy_of_every_request_of_a_customer_and_answers_none(world: World) -> None:
    assert set_routes(world.home, SHADOWED)
    before = len(world.asked(NEWCOMER))
    assert {world.who(customer) for customer in range(20)} == {CHAMPION.release_id}
    for headers in ({}, {"X-Customer-Id": "7"}):
        assert world.ask("/v1/score", body=ROWS, headers=headers)[2]["release_id"] == CHAMPION.release_id
    world.ask("/docs")
    wait(lambda: len(world.asked(NEWCOMER)) >= before + 22)
    mirrored = [line.split() for line in world.asked(NEWCOMER)[before:]]
    assert Counter(method for method, *_ in mirrored) == {"GET": 20, "POST": 2}
    # Both logs join by the request id; the shadow sees the name the client asked for.
    own = [line.split() for line in world.asked(CHAMPION)]
    assert {request_id for _, _, request_id, _ in mirrored} <= {request_id for _, _, request_id, _ in own}
    assert {host for *_, host in mirrored} == {f"127.0.0.1:{API}"}


def test_while_a_shadow_is_on_the_log_says_so_and_who_answered_in_microseconds(world: World) -> None:
    assert set_routes(world.home, replace(SHADOWED, salt="logged"))
    world.ask("/v1/customers/7/churn")
    entry = [entry for entry in world.log() if entry["rollout"] == "logged"][-1]
    assert (entry["shadow"], entry["share"], entry["answered_by"]) == ("1", None, CHAMPION.release_id)
    assert isinstance(entry["us"], int)
    assert entry["ms"] <= entry["us"] / 1000 <= entry["ms"] + 1


@pytest.mark.parametrize("mode", ["hang", "500", "gone"])
def test_a_shadow_that_fails_costs_the_client_nothing(world: World, mode: str) -> None:
    if mode == "gone":
        world.processes[NEWCOMER.release_id].kill()
    else:
        world.mode(NEWCOMER, mode)
    assert set_routes(world.home, SHADOWED)
    begin = time.monotonic()
    for customer in range(100):  # more than it may hold at once
        status, _, body = world.ask(f"/v1/customers/{customer}/churn")
        assert (status, body["release_id"]) == (200, CHAMPION.release_id)
    assert time.monotonic() - begin < 60  # a hundred waits for the shadow would be 300 s


@pytest.mark.parametrize("mode", ["hang", "500", "gone"])
def test_where_the_champion_does_not_answer_the_one_before_does_and_the_canary_never(world: World, mode: str) -> None:
    assert set_routes(world.home, Routes(CHAMPION, NEWCOMER, 0.5, "warm", fallback=BEFORE))
    dealt = {customer: world.who(customer) for customer in range(30)}
    assert set(dealt.values()) == {CHAMPION.release_id, NEWCOMER.release_id}
    if mode == "gone":
        world.processes[CHAMPION.release_id].kill()
    else:
        world.mode(CHAMPION, mode)
    theirs = [customer for customer, release_id in dealt.items() if release_id == CHAMPION.release_id]
    assert {world.who(customer) for customer in theirs[:4]} == {BEFORE.release_id}
    assert {world.who(customer) for customer in set(dealt) - set(theirs)} == {NEWCOMER.release_id}


def test_a_canary_and_a_champion_that_both_fail_are_answered_by_the_one_before(world: World) -> None:
    assert set_routes(world.home, Routes(CHAMPION, NEWCOMER, 0.5, "both", fallback=BEFORE))
    world.mode(CHAMPION, "500")
    world.mode(NEWCOMER, "500")
    assert {world.who(customer) for customer in range(30)} == {BEFORE.release_id}


def test_a_champion_without_another_is_never_taken_out_of_its_cluster(world: World) -> None:
    world.mode(CHAMPION, "500")
    assert set_routes(world.home, Routes(CHAMPION))
    assert {world.ask(f"/v1/customers/{customer}/churn")[0] for customer in range(50)} == {500}
    world.mode(CHAMPION, "")
    assert world.ask("/v1/customers/1/churn")[0] == 200


def test_the_description_of_the_api_is_routed(world: World) -> None:
    assert set_routes(world.home, Routes(CHAMPION))
    assert world.ask("/openapi.json")[0] == 200
    assert set_routes(world.home, Routes())
    assert world.ask("/openapi.json")[0] == 503


def test_a_log_that_is_moved_aside_under_load_loses_no_line_and_its_pieces_do_not_grow(world: World) -> None:
    assert set_routes(world.home, Routes(CHAMPION))
    world.log()  # what earlier tests asked is flushed
    lines_before = len([line for path in access_logs(world.home) for line in path.read_bytes().splitlines()])
    asked = Counter[int]()

    def load(number: int) -> None:
        for customer in range(150):
            asked[world.ask(f"/v1/customers/{number}-{customer}/churn")[0]] += 1

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    sizes: dict[Path, int] = {}
    while any(thread.is_alive() for thread in threads):
        if piece := rotate_access_log(world.home):
            sizes[piece] = piece.stat().st_size
    for thread in threads:
        thread.join()
    world.log()
    assert len(sizes) >= 2
    assert {piece: piece.stat().st_size for piece in sizes} == sizes
    assert access_logs(world.home) == [*sizes, access_log(world.home)]
    lines = [line for path in access_logs(world.home) for line in path.read_bytes().splitlines()]
    assert all(json.loads(line)["code"] == 200 for line in lines[lines_before:])
    assert len(lines) - lines_before == asked[200] == 600
    assert access_log(world.home).stat().st_mode & 0o777 == 0o600


def test_a_log_is_not_moved_where_nobody_can_be_told(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.serving.mkdir()
    assert rotate_access_log(home) is None
    access_log(home).write_text("{}\n")
    assert rotate_access_log(home) is None
    assert access_logs(home) == [access_log(home)]


@pytest.fixture(scope="module")
def limited() -> Iterator[World]:
    with running(LIMITED_API, CHAMPION_OF_LIMITED, rate_limit=20) as world:
        assert set_routes(world.home, Routes(CHAMPION_OF_LIMITED))
        yield world


CHAMPION_OF_LIMITED = Upstream("churn:limited", 25105)


def test_a_client_that_asks_too_often_is_told_to_wait_and_another_is_not(limited: World) -> None:
    time.sleep(1.1)
    answers = [limited.ask("/v1/customers/7/churn") for _ in range(60)]
    codes = Counter(status for status, _, _ in answers)
    assert set(codes) == {200, 429}
    assert 20 <= codes[200] <= 45  # a bucket of 20, and what was filled up meanwhile
    _, headers, body = next(answer for answer in answers if answer[0] == 429)
    assert headers["retry-after"] == "1"
    assert body["error"] == "more than 20 requests a second from one client; wait a second and try again"
    assert limited.ask("/v1/customers/7/churn", headers={"Authorization": "Bearer other"})[0] == 200
    entry = next(entry for entry in limited.log() if entry["code"] == 429)
    assert (entry["attempts"], entry["route"], entry["flags"]) == (0, "customer", "RL")
    assert "other" not in access_log(limited.home).read_text()


def test_an_invented_key_a_request_does_not_lift_the_limit_of_an_address(limited: World) -> None:
    time.sleep(1.1)
    codes = Counter(limited.ask("/v1/customers/7/churn", headers={"Authorization": f"Bearer {number}"})[0]
                    for number in range(600))
    assert codes[200] < 500  # ten clients may share an address: 200, and what was filled up meanwhile
    assert codes[429] > 100


def test_routes_with_every_role_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for routes in (SHADOWED, replace(SHADOWED, fallback=BEFORE),
                   Routes(CHAMPION, NEWCOMER, 0.25, "r1", None, BEFORE, same_features=False)):
        set_routes(home, routes)
        assert read_routes(home) == routes


@pytest.mark.parametrize("wrong", [
    {"shadow": NEWCOMER, "salt": "r1"}, {"champion": CHAMPION, "shadow": NEWCOMER}, {"fallback": BEFORE},
    {"champion": CHAMPION, "fallback": CHAMPION},
    {"champion": CHAMPION, "canary": NEWCOMER, "canary_share": 0.5, "salt": "r1", "fallback": NEWCOMER},
    {"champion": CHAMPION, "shadow": NEWCOMER, "salt": "r1", "fallback": NEWCOMER},
    {"champion": CHAMPION, "canary": NEWCOMER, "shadow": BEFORE, "canary_share": 0.5, "salt": "r1"},
])
def test_roles_that_contradict_each_other_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PlatformError, match="cannot route"):
        Routes(**wrong)  # type: ignore[arg-type]  # one of each


def test_a_request_under_way_while_the_routes_change_is_tried_again_where_it_began(world: World) -> None:
    assert set_routes(world.home, Routes(CHAMPION, fallback=BEFORE))
    world.mode(CHAMPION, "hang")
    seen: list[tuple[int, str]] = []

    def ask() -> None:
        status, _, body = world.ask("/v1/customers/7/churn")
        seen.append((status, body.get("release_id", str(body))))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    assert set_routes(world.home, Routes(NEWCOMER))
    assert set_routes(world.home, Routes(NEWCOMER, fallback=CHAMPION))  # and once more, as a settle after it would
    thread.join()
    assert seen == [(200, BEFORE.release_id)]


def test_a_cluster_that_nothing_names_goes_with_a_later_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)

    def clusters() -> set[str]:
        document = json.loads((home.run / "envoy" / "xds" / "cds.json").read_text())
        return {one["name"] for one in document["resources"]}

    set_routes(home, Routes(CHAMPION))
    set_routes(home, Routes(NEWCOMER))
    set_routes(home, Routes(BEFORE))
    assert len(clusters()) == 3
    monkeypatch.setattr("tasks.release.routing.RETIRED_SECONDS", 0.0)
    set_routes(home, Routes(BEFORE, fallback=CHAMPION))
    assert clusters() == {f"stable/{BEFORE.release_id}/{BEFORE.port}"}


def test_rows_that_a_caller_brings_stay_with_the_champion_where_the_canary_reads_other_features(world: World) -> None:
    assert set_routes(world.home, Routes(CHAMPION, NEWCOMER, 0.5, "wider", fallback=BEFORE, same_features=False))
    assert {world.who(customer) for customer in range(30)} == {CHAMPION.release_id, NEWCOMER.release_id}
    assert {world.ask("/v1/score", body=ROWS, headers={"X-Customer-Id": str(customer)})[2]["release_id"]
            for customer in range(30)} == {CHAMPION.release_id}
    assert set_routes(world.home, replace(SHADOWED, same_features=False))
    before = len(world.asked(NEWCOMER))
    world.ask("/v1/score", body=ROWS)
    world.ask("/v1/customers/7/churn")
    wait(lambda: len(world.asked(NEWCOMER)) > before)
    assert [line.split()[0] for line in world.asked(NEWCOMER)[before:]] == ["GET"]
