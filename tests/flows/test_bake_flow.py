"""The bake as a flow: the verdict in the ledger and as an artifact, the picture, the state of the rollout."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import ReleaseError
from tasks.release import rollouts
from tasks.release.bake import bake_picture
from tasks.release.bake_state import baking, keep_champion
from tasks.release.release_process import ReleasePlace
from tasks.scoring.score import score_snapshot
from tasks.state import read_decisions
from tests.tasks.conftest import day
from tests.tasks.release.bake_world import CUT, MATURE, World, make_world

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    return make_world(tmp_path)


def released(world: World, *, worse: bool):
    """Two releases, the second one champion; a batch of its scores, and then all labels."""
    shop = world.shop
    world.promote(world.release("one", shop.contract, world.pipeline(shop.contract)), at="2024-01-01")
    rollout = world.promote(world.release("two", shop.contract, world.pipeline(shop.contract, wrong=worse)))
    score_snapshot(charter=shop.charter, home=shop.home, engine=shop.engine, as_of=day(CUT))
    shop.ingest(MATURE)
    return rollout


def test_a_worse_champion_stays_until_a_person_rolls_back_and_a_picture_shows_why(world):
    from prefect.artifacts import Artifact

    from flows.bake import bake

    rollout = released(world, worse=True)
    decision = bake(day(MATURE))
    assert decision.verdict == "roll back"
    (row,) = read_decisions(world.shop.engine, gate="bake")
    assert (row.decision, row.subject) == (decision, "churn:two")
    assert decision.evidence["rollout_id"] == rollout.rollout_id
    assert baking(world.shop.engine) == rollout
    picture = bake_picture(world.shop.home, rollout.rollout_id)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "| customers | 1200 |" in Artifact.get("bake").data
    assert picture.as_uri() in Artifact.get("bake").data


def test_an_equal_champion_is_baked_and_then_nothing_bakes(world):
    from flows.bake import bake

    released(world, worse=False)
    assert bake().verdict == "baked"  # as of the last load
    champion = rollouts.champion(world.shop.engine)
    assert champion is not None
    assert champion.state == "baked"
    again = bake()
    assert (again.verdict, again.reason[:13]) == ("hold", "nothing bakes")
    assert len(read_decisions(world.shop.engine, gate="bake")) == 1


def test_a_person_may_keep_the_champion_whatever_was_said_of_it(world, monkeypatch):
    from tasks.release import bake_state

    settled = []
    monkeypatch.setattr(bake_state, "settle", settled.append)  # no platform runs here; settling has tests of its own
    rollout, shop = released(world, worse=True), world.shop
    place = ReleasePlace(home=shop.home, engine=shop.engine, limits=shop.charter.rollout, repo=Path(), first_port=25350)
    decision = keep_champion(shop.charter, place, who="ada", why="the labels of March are wrong")
    assert decision.reason == "churn:two is kept by ada: the labels of March are wrong"
    assert read_decisions(shop.engine, gate="bake")[0].decision == decision
    assert rollouts.read_rollout(shop.engine, rollout.rollout_id).state == "baked"
    assert settled == [place]
    with pytest.raises(ReleaseError, match="cannot keep: nothing bakes; churn:two is baked since"):
        keep_champion(shop.charter, place, who="ada", why="again")
