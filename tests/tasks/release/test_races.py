"""Of several processes that do the same at once one wins: on SQLite, and on PostgreSQL, where READ COMMITTED rules."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from models.errors import ReleaseError
from tasks.release import releases, rollouts
from tasks.state import open_state

pytestmark = pytest.mark.service

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.tasks.release.test_races"])
RACERS, ROUNDS = 4, 25


def build(engine: sa.Engine, name: str) -> str:
    return releases.register_release(
        engine, release_id=f"churn:{name}", model_version=name, run_id="run", fingerprint="f", as_of="2025-01-01",
        auc=0.7, monthly_value=1.0).release_id


def open_one(engine: sa.Engine, racer: int) -> bool:
    try:
        rollouts.open_new(engine, release_id=f"churn:r{racer}", strategy="canary", who=str(racer), why="race")
    except ReleaseError:
        return False
    return True


def advance_one(engine: sa.Engine, _racer: int) -> bool:
    seen = rollouts.open_rollout(engine)
    return seen is not None and seen.state == "packaged" and rollouts.advance(engine, seen, state="smoke-tested")


def close_one(engine: sa.Engine, _racer: int) -> bool:
    seen = rollouts.open_rollout(engine)
    return seen is not None and rollouts.close(engine, seen, state="rolled back", reason="race")


def claim_one(engine: sa.Engine, racer: int) -> bool:
    try:
        return releases.claim_port(engine, f"churn:r{racer}", [25299]) == 25299
    except ReleaseError:
        return False


def reset(engine: sa.Engine, what: str) -> None:
    """What the next round starts from."""
    seen = rollouts.open_rollout(engine)
    if seen:
        rollouts.close(engine, seen, state="rolled back", reason="over")
    if what in ("advance", "close"):
        rollouts.open_new(engine, release_id="churn:r0", strategy="canary", who="x", why="y")
    for racer in range(RACERS):
        releases.free_port(engine, f"churn:r{racer}")


WHAT: dict[str, Callable[[sa.Engine, int], bool]] = {
    "open": open_one, "advance": advance_one, "close": close_one, "claim": claim_one}


def compete(url: str, what: str, racer: int, barrier: Any, won: Any) -> None:
    engine = open_state(url)
    for number in range(ROUNDS):
        if racer == 0:
            reset(engine, what)
        barrier.wait(60)
        if WHAT[what](engine, racer):
            won.put(number)
        barrier.wait(60)


@pytest.mark.parametrize("what", sorted(WHAT))
def test_of_processes_that_do_the_same_at_once_one_wins(state_url: str, what: str) -> None:
    engine = open_state(state_url)
    for racer in range(RACERS):
        build(engine, f"r{racer}")
    with CONTEXT.Manager() as manager:
        barrier, won = manager.Barrier(RACERS), manager.Queue()
        racers = [CONTEXT.Process(target=compete, args=(state_url, what, racer, barrier, won))
                  for racer in range(RACERS)]
        for one in racers:
            one.start()
        for one in racers:
            one.join(120)
        assert [one.exitcode for one in racers] == [0] * RACERS
        rounds = Counter(won.get() for _ in range(won.qsize()))
    assert rounds == dict.fromkeys(range(ROUNDS), 1)


def first_use(url: str, barrier: Any) -> None:
    barrier.wait(60)
    assert rollouts.champion(open_state(url)) is None


def test_of_processes_that_make_a_store_at_once_each_finds_it_whole(state_url: str) -> None:
    with CONTEXT.Manager() as manager:
        barrier = manager.Barrier(RACERS)
        makers = [CONTEXT.Process(target=first_use, args=(state_url, barrier)) for _ in range(RACERS)]
        for one in makers:
            one.start()
        for one in makers:
            one.join(60)
    assert [one.exitcode for one in makers] == [0] * RACERS
