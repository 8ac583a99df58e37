"""Scores in a SQL table: whole or not at all, the same however often, on both databases."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from models.errors import ConfigError, PlatformError
from tasks.home import Home, sqlalchemy_scores_url
from tasks.scoring.score import score_snapshot
from tasks.scoring.scores_table import delete_person, used_tables, write_scores
from tests.release_payload import AS_OF
from tests.tasks.scoring.champion import TINY, crown, make_home

ROWS = 400


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    made, _ = make_home(tmp_path / "home", ROWS)
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else f"sqlite:///{tmp_path}/s.db"
    return replace(made, scores_url=url)


def score(home: Home) -> Path:
    from tasks.state import open_state

    return score_snapshot(charter=TINY, home=home, engine=open_state(home.state_url), as_of=AS_OF)


def write(home: Home, scores: Path, **options: object) -> int:
    return write_scores(scores, as_of=AS_OF, home=home, chunk_rows=150, **options)


def read(home: Home, query: str = "SELECT * FROM tiny_scores ORDER BY as_of, rank") -> list[sa.RowMapping]:
    engine = sa.create_engine(sqlalchemy_scores_url(home.scores_url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.execute(sa.text(query)).mappings())


def test_the_table_holds_what_the_file_holds_however_often_it_is_written(home):
    scores = score(home)
    for _ in range(2):
        assert write(home, scores) == ROWS
        frame = pl.read_parquet(scores).rename({"member_id": "entity"})
        columns = ["rank", "entity", "churn_probability", "decision", "why", "expected_value", "release_id"]
        assert [tuple(row[name] for name in columns) for row in read(home)] == frame.select(columns).rows()
        assert [bool(row["within_budget"]) for row in read(home)] == frame["within_budget"].to_list()
        assert {str(row["as_of"])[:19] for row in read(home)} == {"2025-01-01 00:00:00"}


def test_another_champion_replaces_its_as_of_and_no_other(home):
    from tasks.state import open_state

    first = score(home)
    write(home, first)
    earlier = home.lake / "earlier.parquet"
    pl.read_parquet(first).with_columns(pl.col("as_of") - pl.duration(days=31)).write_parquet(earlier)
    write_scores(earlier, as_of=AS_OF - timedelta(days=31), home=home)
    crown(home, open_state(home.state_url), "2", threshold=0.9)
    write(home, score(home))
    found = read(home, "SELECT as_of, release_id, count(*) AS n FROM tiny_scores GROUP BY as_of, release_id "
                       "ORDER BY as_of")
    assert [(row["release_id"], row["n"]) for row in found] == [("churn:v1", ROWS), ("churn:v2", ROWS)]


def test_a_reader_sees_a_whole_as_of_and_a_writer_that_dies_changes_nothing(home):
    scores = score(home)
    write(home, scores)
    before = read(home)
    seen: list[int] = []

    def die_half_way(done: int, _total: int) -> None:
        seen.append(len(read(home)))
        if done > 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(home, scores, progress=die_half_way)
    assert seen == [ROWS] * 2
    assert read(home) == before


def test_two_writers_at_once_end_as_one(home):
    scores = score(home)
    faults: list[Exception] = []

    def go() -> None:
        try:
            write(home, scores)
        except Exception as error:
            faults.append(error)

    write(home, scores)
    threads = [threading.Thread(target=go) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert faults == []
    assert len(read(home)) == ROWS


def test_a_person_is_found_and_erased(home):
    write(home, score(home))
    assert delete_person(home, "m0000007", apply=False) == 1
    assert delete_person(home, "m0000007", apply=True) == 1
    assert delete_person(home, "m0000007", apply=True) == 0
    assert len(read(home)) == ROWS - 1


def test_a_table_elsewhere_stops_an_erasure(home):
    write(home, score(home))
    assert len(used_tables(home)) == 1
    with pytest.raises(PlatformError, match=r"cannot forget: scores were written to .*, and CHURN_SCORES_URL is unset"):
        delete_person(replace(home, scores_url=None), "m0000007", apply=False)


def test_where_no_scores_were_ever_written_there_is_nobody_to_erase(home):
    assert delete_person(home, "m0000007", apply=True) == 0
    assert delete_person(replace(home, scores_url=None), "m0000007", apply=True) == 0


@pytest.mark.parametrize("url", ["mysql://ada:secret@h/d", "postgresql://ada:secret@h", "sqlite:///relative.db", "me"])
def test_another_kind_of_url_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="cannot use CHURN_SCORES_URL=") as caught:
        sqlalchemy_scores_url(url)
    assert "secret@" not in str(caught.value)


def test_a_database_that_is_away_is_one_line_without_its_password(tmp_path):
    home, _ = make_home(tmp_path, 10)
    home = replace(home, scores_url="postgresql://ada:se%20cret@127.0.0.1:25449/shop")
    with pytest.raises(PlatformError, match=r"cannot write the scores to postgresql://127.0.0.1:25449/shop") as caught:
        write(home, score(home))
    assert "\n" not in str(caught.value)
    assert "cret" not in str(caught.value)
    assert "ada" not in str(caught.value)
