"""Who was erased is known by a salted hash, and without the salt nobody is taken for somebody else."""

from __future__ import annotations

import stat
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from models.errors import PlatformError
from tasks.erasure.forgotten import entity_hash, forgotten_entities, forgotten_since, remember_forgotten
from tasks.home import Home
from tasks.state import open_state


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def engine(home: Home) -> sa.Engine:
    return open_state(home.state_url)


def erase(engine: sa.Engine, home: Home, entity: str) -> bool:
    return remember_forgotten(engine, entity_hash(home, entity, make_salt=True), who="ada", why="asked")


def test_nobody_is_forgotten_in_a_new_home_and_asking_makes_no_salt(engine, home):
    asked = forgotten_entities(engine, home, pl.Series("customer_id", ["a", None, "b"]))
    assert asked.to_list() == [False, False, False]
    assert not (home.root / "forget-salt").exists()


def test_the_erased_are_known_again_with_spaces_around_their_key_and_others_are_not(engine, home):
    assert erase(engine, home, "c1")
    asked = forgotten_entities(engine, home, pl.Series("customer_id", ["c1", "c10", None, " c1 ", "c1"]))
    assert asked.to_list() == [True, False, False, True, True]
    assert forgotten_entities(engine, home, pl.Series("customer_id", [], dtype=pl.String)).to_list() == []


def test_erasing_somebody_twice_is_one_row_with_the_first_date(engine, home):
    erase(engine, home, "c1")
    since = forgotten_since(engine, entity_hash(home, "c1"))
    assert not erase(engine, home, "c1")
    assert forgotten_since(engine, entity_hash(home, "c1")) == since
    assert forgotten_since(engine, entity_hash(home, "c2")) is None


def test_neither_state_nor_salt_names_anybody_and_only_the_owner_reads_the_salt(engine, home):
    erase(engine, home, "c000123")
    engine.dispose()
    for path in home.root.rglob("*"):
        assert not path.is_file() or b"c000123" not in path.read_bytes()
    assert stat.S_IMODE((home.root / "forget-salt").stat().st_mode) == 0o600


def test_two_homes_hash_the_same_person_differently(tmp_path):
    one, other = Home(tmp_path / "one"), Home(tmp_path / "other")
    one.root.mkdir()
    other.root.mkdir()
    assert entity_hash(one, "c1", make_salt=True) != entity_hash(other, "c1", make_salt=True)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("no hex"),
                                   lambda path: path.write_text("00" * 32)], ids=["gone", "damaged", "another"])
def test_without_its_salt_an_erasure_is_not_taken_for_none(engine, home, spoil):
    erase(engine, home, "c1")
    spoil(home.root / "forget-salt")
    with pytest.raises(PlatformError, match=r"cannot tell who was erased: .*Restore that file"):
        forgotten_entities(engine, home, pl.Series("customer_id", ["c2"]))
