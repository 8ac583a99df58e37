"""Everybody is scored as the API would, ranked under the budget, in chunks whose size changes nothing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from models.errors import ConfigError, DataError
from models.serving.payload import load_payload
from models.serving.scorer import decide, feature_frame, in_holdout, predict
from tasks.data.lake import snapshot_partition, sweep_unfinished
from tasks.home import Home
from tasks.release import package
from tasks.scoring.chunks import arrow_frame
from tasks.scoring.score import read_scored, score_snapshot, scores_partition
from tasks.state import open_state
from tests.release_payload import AS_OF, SALT, tiny_contract
from tests.tasks.scoring.champion import TINY, crown, make_home, snapshot_rows, write_snapshot

REPO = Path(__file__).parents[3]


@pytest.fixture
def place(tmp_path: Path) -> tuple[Home, sa.Engine]:
    return make_home(tmp_path, 2_000)


def score(place: tuple[Home, sa.Engine], *, budget: int = 10, **options: object) -> pl.DataFrame:
    home, engine = place
    charter = TINY.model_copy(update={"value": TINY.value.model_copy(update={"contact_budget": budget})})
    return pl.read_parquet(score_snapshot(charter=charter, home=home, engine=engine, as_of=AS_OF, **options))


def test_scores_and_decisions_are_those_of_one_row_after_the_other(place):
    home, _ = place
    payload = load_payload(package.bento_payload(home, "churn:v1"))
    rows = snapshot_rows(2_000)
    scores = {row["member_id"]: row for row in score(place).iter_rows(named=True)}
    assert len(scores) == 2_000
    expected = predict(payload.pipeline, rows.to_pandas(), payload.contract)
    for row, probability in zip(rows.iter_rows(named=True), expected, strict=True):
        seen = scores[row["member_id"]]
        answer = decide(float(probability), row["member_id"], payload.policy, eligible=row["active"])
        assert seen["churn_probability"] == pytest.approx(probability, abs=1e-12)
        assert (seen["decision"], seen["why"]) == (answer.decision, answer.why)
        assert seen["expected_value"] == pytest.approx(answer.expected_value, abs=1e-9)


def test_the_file_is_in_the_order_of_contacts_and_the_budget_takes_the_first(place):
    scores = score(place, budget=25)
    assert scores["rank"].to_list() == list(range(1, 2_001))
    contacted = (scores["decision"] == "contact").to_list()
    contacts = sum(contacted)
    assert 25 < contacts < 2_000
    assert contacted == [True] * contacts + [False] * (2_000 - contacts)
    assert scores["within_budget"].to_list() == [True] * 25 + [False] * 1_975
    assert scores.head(contacts)["expected_value"].is_sorted(descending=True)
    gone = scores.filter(why="not_eligible")
    assert gone["rank"].min() == 2_001 - len(gone)
    assert not gone["within_budget"].any()


def test_who_is_held_out_is_marked_and_never_within_the_budget(tmp_path):
    home, engine = make_home(tmp_path, 500)
    path = home.bentoml / "bentos/churn/v1/src/release/charter.json"
    charter = json.loads(path.read_text())
    charter["value"]["holdout_share"] = 0.5
    path.write_text(json.dumps(charter))
    scores = score((home, engine), budget=500)
    held = scores.filter(why="holdout")
    assert 50 < len(held) < 400
    assert all(in_holdout(entity, salt=SALT, share=0.5) for entity in held["member_id"])
    contacts = scores.filter(decision="contact")["member_id"]
    assert not any(in_holdout(entity, salt=SALT, share=0.5) for entity in contacts)
    assert set(held["decision"]) == {"leave"}
    assert not held["within_budget"].any()


def test_neither_the_chunk_nor_the_memory_limit_nor_a_second_run_changes_a_byte(place):
    home, _ = place
    score(place)
    before = scores_partition(home, AS_OF).read_bytes()
    score(place)
    assert scores_partition(home, AS_OF).read_bytes() == before
    score(place, chunk_rows=333, memory_limit="30MB")
    assert scores_partition(home, AS_OF).read_bytes() == before


def test_another_champion_replaces_the_scores(place):
    home, engine = place
    score(place)
    crown(home, engine, "2", threshold=0.9)
    scores = score(place)
    assert set(scores["release_id"]) == {"churn:v2"}
    assert read_scored(home, engine, AS_OF).release_id == "churn:v2"


def test_scores_of_a_part_of_the_customers_are_no_answer(place):
    """99 of 100 who are eligible must have a score that is a number, whoever cut the file down."""
    home, engine = place
    score(place)
    path = scores_partition(home, AS_OF)
    whole = pl.read_parquet(path)
    eligible = whole.filter(pl.col("why") != "not_eligible")
    assert len(read_scored(home, engine, AS_OF).current) == len(eligible)
    enough = math.ceil(0.99 * len(eligible))
    eligible.head(enough).write_parquet(path)
    assert len(read_scored(home, engine, AS_OF).current) == enough
    said = rf"{enough - 1:,} of {len(eligible):,} eligible customers have a score, 99% must"
    broken = pl.when(pl.int_range(pl.len()) < enough - 1).then("churn_probability")
    for cut in (eligible.head(enough - 1), whole.filter(why="not_eligible").vstack(eligible.head(enough - 1)),
                eligible.with_columns(broken.otherwise(float("nan"))), eligible.with_columns(broken.otherwise(None))):
        cut.write_parquet(path)
        with pytest.raises(DataError, match=said):
            read_scored(home, engine, AS_OF)


def test_each_chunk_is_told_of(place):
    told: list[tuple[int, int]] = []
    score(place, chunk_rows=900, progress=lambda done, total: told.append((done, total)))
    assert told == [(900, 2_000), (1_800, 2_000), (2_000, 2_000)]


def test_without_a_champion_nothing_is_scored(tmp_path):
    home = Home(tmp_path, "tiny")
    with pytest.raises(DataError, match="cannot score: no release is champion"):
        score((home, open_state(home.state_url)))


def test_an_infinite_number_is_named_and_the_scores_before_stay(place):
    home, _ = place
    score(place)
    before = scores_partition(home, AS_OF).read_bytes()
    rows = snapshot_rows(2_000)
    write_snapshot(home, rows.with_columns(pl.when(pl.col("member_id") == "m0001999").then(float("inf"))
                                           .otherwise("spend").alias("spend")))
    with pytest.raises(DataError, match=r"cannot score rows: 'spend' is infinite in 1 of 198;"):
        score(place, chunk_rows=901)
    assert scores_partition(home, AS_OF).read_bytes() == before
    assert sweep_unfinished(home) == 0


def test_a_damaged_snapshot_and_a_limit_that_is_none_are_one_line(place):
    home, _ = place
    with pytest.raises(ConfigError, match="cannot use CHURN_MEMORY_LIMIT='much'"):
        score(place, memory_limit="much")
    path = snapshot_partition(home, tiny_contract().fingerprint, AS_OF)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="cannot read the snapshot"):
        score(place)


def test_a_batch_is_prepared_as_the_service_prepares_rows():
    rows = snapshot_rows(300)
    [batch] = rows.to_arrow().combine_chunks().to_batches()
    ours, theirs = arrow_frame(batch, tiny_contract()), feature_frame(rows.to_pandas(), tiny_contract())
    assert ours[theirs.columns].equals(theirs)
    assert [type(value) for value in ours["tier"]] == [type(value) for value in theirs["tier"]]


def peak_of(folder: Path, rows: int) -> float:
    """Peak memory in MB of a process that scores so many rows in chunks of 5,000."""
    write_snapshot(Home(folder, TINY.name), snapshot_rows(rows))
    code = ("import sys; from pathlib import Path; from tests.bench.measure import peak_gb\n"
            "from tests.tasks.scoring.champion import TINY, AS_OF, Home, open_state\n"
            "from tasks.scoring.score import score_snapshot\n"
            "home = Home(Path(sys.argv[1]), TINY.name); engine = open_state(home.state_url)\n"
            "score_snapshot(charter=TINY, home=home, engine=engine, as_of=AS_OF, chunk_rows=5000,\n"
            "               memory_limit='40MB')\n"
            "print(peak_gb() * 1000)")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=REPO, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.service
def test_memory_does_not_grow_with_the_customers(tmp_path):
    """Four times the rows: a frame of the additional ones alone would take 60 MB and more."""
    home, _ = make_home(tmp_path, 10)
    few, many = peak_of(home.root, 200_000), peak_of(home.root, 800_000)
    assert many - few < 40, (few, many)
