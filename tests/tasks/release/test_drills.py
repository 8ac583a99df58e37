"""The failure drills of `make bench-canary`, shortened: real Bentos, supervisor, Envoy and feature store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench.clients import CONNECTIONS
from tests.bench.drill_world import CANARY, CHAMPION, Platform, platform
from tests.bench.drills import CHAMPION_DRILLS, DRILLS, WIDER, run

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("drills"), first_port=25130) as made:
        yield made


@pytest.mark.parametrize("name", [name for name in DRILLS if name != "Envoy killed"])
def test_no_client_request_fails_while(world: Platform, name: str) -> None:
    result = run(world, name, 400)
    assert result.outcome.failed == {}  # a wrong score, or a release that may not answer, is a failure too
    assert result.outcome.refused == 0
    answered = result.outcome.answered_by
    assert sum(answered.values()) >= 400
    if name in CHAMPION_DRILLS:
        assert answered[world.releases[CANARY].release_id]
        assert answered[world.releases[CHAMPION].release_id]
    if name == "canary with one feature more, and back":
        assert answered[world.releases[WIDER].release_id] > 20
    if name == "canary answering only 500":
        assert not answered[world.releases[CANARY].release_id]


def test_a_router_that_is_killed_costs_no_more_than_what_was_in_flight(world: Platform) -> None:
    result = run(world, "Envoy killed", 400)
    assert result.in_flight <= CONNECTIONS
    assert result.after == 0  # those between were sent to a router that was dying
    assert {fault.split(":")[0] for fault in result.outcome.failed} <= {"broken off"}
