"""Killed at every write, truth ends as one undisturbed run makes it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tasks.monitoring.truth import closed_cuts, follow_truth, truth_folder
from tasks.scoring.score import score_snapshot
from tests.tasks.conftest import day
from tests.tasks.release.bake_world import CUT, MATURE, World, copy_world, describe_world, make_world

pytestmark = pytest.mark.service  # a world, and a process for each write: too slow for `make check`
CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.tasks.monitoring.test_kill_truth"])
LATER = "2024-02-02"
WRITES = 6  # of two cohorts: the predictions, the labels, what they came to


@pytest.fixture
def grown(tmp_path: Path) -> World:
    """Two cohorts whose predictions nobody has taken yet; both are mature."""
    world = make_world(tmp_path / "made")
    shop, contract = world.shop, world.shop.contract
    world.promote(world.release("one", contract, world.pipeline(contract)))
    shop.ingest(LATER)
    for as_of in (CUT, LATER):
        score_snapshot(charter=shop.charter, home=shop.home, engine=shop.engine, as_of=day(as_of))
    shop.ingest(MATURE)
    return world


def follow(world: World) -> None:
    shop = world.shop
    report = follow_truth(shop.home, shop.engine, shop.charter, shop.contract, as_of=day(MATURE))
    assert (report.labels.state, report.performance.state) == ("good", "good")


def run(folder: str, before: bool) -> None:
    """In a process of its own: SIGKILL at the first rename of a cohort's file."""
    world = describe_world(Path(folder))
    really = Path.rename

    def rename(self: Path, target: str | Path) -> Path:
        if Path(target).parent.name != "truth":
            return really(self, target)
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        really(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
        return Path(target)

    Path.rename = rename  # type: ignore[method-assign]
    follow(world)


def hashes(world: World) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(truth_folder(world.shop.home).glob("*.*")) if not path.name.startswith(".")}


def test_killed_before_and_after_each_write_it_ends_as_one_undisturbed_run_does(grown, tmp_path):
    undisturbed, killed = (copy_world(grown.shop.home.root, tmp_path / name) for name in ("undisturbed", "killed"))
    follow(undisturbed)
    assert len(hashes(undisturbed)) == 4
    kills = 0
    for turn in range(3 * WRITES):
        process = CONTEXT.Process(target=run, args=(str(killed.shop.home.root), turn % 2 == 0))
        process.start()
        process.join(timeout=120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills == 2 * WRITES
    follow(killed)
    assert hashes(killed) == hashes(undisturbed)
    assert closed_cuts(killed.shop.home) == {day(CUT), day(LATER)}
