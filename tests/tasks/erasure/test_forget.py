"""A person who is forgotten stands nowhere in the home, and everybody else stands where they stood."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import Snapshot
from models.decision import Decision
from models.errors import DataError, PlatformError
from models.serving.prediction_log import PredictionLog
from tasks.data.lake import write_partition
from tasks.data.manifest import committed_files, committed_partitions, current_version
from tasks.erasure.forget import Place, find_person, forget_person
from tasks.erasure.forget_files import Person
from tasks.erasure.forgotten import forgotten_entities
from tasks.features.snapshots import build_snapshot
from tasks.locks import hold
from tasks.monitoring.predictions import read_predictions
from tasks.monitoring.ship_log import ship
from tasks.monitoring.truth import LOCK, truth_partition
from tasks.scoring.score import scores_partition
from tasks.scoring.scores_table import delete_person, write_scores
from tasks.state import read_decisions, record_decision
from tests.tasks.conftest import REPO, Shop, day
from tests.tasks.monitoring.serving_logs import prediction, write_predictions

pytestmark = pytest.mark.service  # whole stores for each test: together more seconds than `make check` has

ENTITY, OTHER = "c000123", "c0001234"  # the other's key begins with the one's
KEY = b"0123456789abcdef"


@pytest.fixture
def filled(shop: Shop) -> Shop:
    """Two customers in everything but Feast: raw, quarantine, snapshots, training, scores, release, logs, databases."""
    shop.write("customers", f"{ENTITY},2024-01-01,2023-06-01,1980,basic,search,2024-01-01",
               f"{OTHER},2024-01-01,2023-06-01,1990,premium,social,2024-01-01")
    shop.write("orders", f"o1,{ENTITY},2024-01-10,1,10,2024-01-10", f"o2, {ENTITY} ,2024-01-11,-1,10,2024-01-11",
               f"o3,{OTHER},2024-01-12,1,20,2024-01-12", f"{ENTITY},o4,2024-01-13,1,20,2024-01-13")
    shop.ingest("2024-02-01")
    shop.write("orders", f"o5,{ENTITY},2024-02-10,2,15,2024-02-10", f"o6,{OTHER},2024-02-11,2,25,2024-02-11",
               file="b.csv")
    shop.ingest("2024-03-01")
    home = shop.home
    for cut in ("2024-02-01", "2024-03-01"):
        build_snapshot(shop.contract, Snapshot, home=home, engine=shop.engine, cut=day(cut))
    rows = pl.DataFrame({"customer_id": [ENTITY, OTHER], "churn_probability": [0.1, 0.2]})
    run = home.mlflow / "artifacts/run1/artifacts"
    for path in (home.lake / "training/f/as_of=2024-03-01.parquet", scores_partition(home, day("2024-03-01")),
                 run / "payload/scores.parquet", home.bentoml / "bentos/churn/v1-a/src/release/scores.parquet"):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(path)
    home.serving.mkdir()
    (home.run / "customer-key").write_bytes(KEY + b"\n")
    log = PredictionLog(home.serving / "predictions.jsonl")
    log.append_many([prediction(f"r{number}", entity=entity)
                     for number, entity in enumerate((ENTITY, OTHER, ENTITY, None))])
    (home.serving / "access.jsonl").write_text("".join(
        json.dumps({"code": 200, "attempts": 1, "ms": 5, "customer": pseudonym(entity)}) + "\n"
        for entity in (ENTITY, OTHER, ENTITY)))
    ship(home, shop.engine)
    write_partition(pl.DataFrame({"customer_id": [ENTITY, OTHER], "event_timestamp": [day("2024-02-01")] * 2,
                                  "label": [1.0, None]}), truth_partition(home, day("2024-02-01")))
    (home.reports).mkdir()
    (home.reports / "drift.html").write_text(f"<p>{ENTITY} moved, {OTHER} did not</p>")
    record_decision(shop.engine, Decision("data", "refuse", f"parity: {ENTITY} differs, {OTHER} not",
                                          {"who": ENTITY}), as_of=None)
    with closing(sqlite3.connect(home.mlflow / "mlflow.db")) as mlflow:
        mlflow.execute("CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT)")
        mlflow.execute("INSERT INTO tags VALUES ('training_set', 'as_of=2024-03-01.parquet', 'run1')")
        mlflow.execute("INSERT INTO tags VALUES ('note', ?, 'run1')", (f"looked at {ENTITY}",))
        mlflow.commit()
    return shop


def pseudonym(entity: str) -> str:
    return hmac.new(KEY, entity.encode(), hashlib.sha256).hexdigest()[:32]


def place(shop: Shop) -> Place:
    return Place(shop.home, shop.engine, shop.contract, shop.sources, REPO)


def forget(shop: Shop, entity: str = ENTITY):
    return forget_person(entity, place(shop), who="ada", why=f"{entity} asked", as_of=day("2024-03-01"))


def files(shop: Shop) -> Iterator[Path]:
    return (path for path in shop.home.root.rglob("*") if path.is_file() and shop.home.landing not in path.parents)


def texts(path: Path) -> list[str]:
    """Every text in a Parquet file."""
    frame = pl.read_parquet(path)
    return [value for name, dtype in frame.schema.items() if dtype == pl.String for value in frame[name].drop_nulls()]


def naming(shop: Shop, *words: str) -> list[str]:
    """Files that hold one of the words, but not as the beginning of the other customer's key; SQLite's pages too."""
    found = []
    for path in files(shop):
        content = "\n".join(texts(path)).encode() if path.suffix == ".parquet" else path.read_bytes()
        content = content.replace(OTHER.encode(), b"")
        found += [str(path) for word in words if word.encode() in content]
    return found


def contents(shop: Shop) -> dict[str, object]:
    """All that is left, whatever the files are called."""
    lake = {f"{kind}/{one.table}/{one.as_of}": pl.read_parquet(shop.home.lake / one.path).rows()
            for kind in ("raw", "quarantine") for one in committed_partitions(shop.engine, kind=kind)}
    others = {str(path.relative_to(shop.home.root)): pl.read_parquet(path).rows() for path in files(shop)
              if path.suffix == ".parquet" and "/raw/" not in str(path) and "/quarantine/" not in str(path)}
    return lake | others


def test_after_forgetting_no_file_of_the_home_names_the_person(filled):
    assert len(naming(filled, ENTITY, pseudonym(ENTITY))) > 10
    done = forget(filled)
    filled.engine.dispose()
    assert naming(filled, ENTITY, pseudonym(ENTITY)) == []
    assert {trace.where: trace.rows for trace in done.traces} == {
        "lake/raw/customers": 1, "lake/raw/orders": 2, "lake/quarantine/orders": 2,
        f"lake/snapshots/{filled.contract.fingerprint}": 2, "lake/training/f": 1, "lake/scores": 1, "lake/truth": 1,
        "mlflow/artifacts": 1, "bentoml/bentos": 1, "serving/predictions.jsonl": 2, "serving/access.jsonl": 2,
        "lake/predictions/date=2026-11-20": 2,
        "reports/drift.html": 1, "state.db": 2, "mlflow/mlflow.db": 1,
    }


def test_everybody_else_stays_where_they_were(filled):
    before = contents(filled)
    forget(filled)
    kept = {name: [row for row in rows if ENTITY not in [str(cell).strip() for cell in row]]
            for name, rows in before.items()}
    assert contents(filled) == kept
    assert sum(len(rows) for rows in kept.values()) < sum(len(rows) for rows in before.values())
    assert (filled.home.reports / "drift.html").read_text() == f"<p>{'x' * 7} moved, {OTHER} did not</p>"
    assert read_decisions(filled.engine, gate="data")[0].decision.reason == f"parity: {'x' * 7} differs, {OTHER} not"


def test_a_log_keeps_its_length_and_a_rollout_sees_as_many_customers(filled):
    access, predictions = filled.home.serving / "access.jsonl", filled.home.serving / "predictions.jsonl"
    sizes = access.stat().st_size, predictions.stat().st_size
    log = PredictionLog(predictions)  # a release that goes on
    forget(filled)
    assert (access.stat().st_size, predictions.stat().st_size) == sizes
    customers = [json.loads(line)["customer"] for line in access.read_text().splitlines()]
    assert customers[0] == customers[2] != customers[1] == pseudonym(OTHER)
    entities = [json.loads(line).get("entity") for line in predictions.read_text().splitlines()]
    assert entities == [None, OTHER, None, None]
    assert log.append_many([prediction("later", entity=OTHER)]) == 1
    assert json.loads(predictions.read_text().splitlines()[-1])["entity"] == OTHER


def test_a_prediction_of_somebody_forgotten_does_not_come_back_when_the_log_is_shipped_on(filled):
    forget(filled)
    write_predictions(filled.home, prediction("later", entity=OTHER))
    ship(filled.home, filled.engine)
    rows = read_predictions(filled.home, roles=("unrouted",))
    assert sorted(rows["request_id"]) == ["later", "r1", "r3"]


def test_forgetting_waits_for_who_joins_predictions_to_labels(filled, monkeypatch):
    """Else they would write back what they had read."""
    monkeypatch.setattr("tasks.erasure.forget.hold", lambda home, name: hold(home, name, patience_seconds=0.2))
    with hold(filled.home, LOCK), pytest.raises(PlatformError, match=r"cannot write to the truth of"):
        forget(filled)
    forget(filled)
    assert pl.read_parquet(truth_partition(filled.home, day("2024-02-01")))["customer_id"].to_list() == [OTHER]


def test_readers_follow_the_manifest_to_the_new_files_and_the_old_ones_are_gone(filled):
    version = current_version(filled.engine)
    forget(filled)
    orders = committed_files(filled.home, filled.engine, "orders")
    assert [path.name for path in orders] == ["load=2024-02-01,1.parquet", "load=2024-03-01,1.parquet"]
    assert sorted((filled.home.lake / "raw/orders").iterdir()) == orders
    assert current_version(filled.engine) != version
    again = build_snapshot(filled.contract, Snapshot, home=filled.home, engine=filled.engine, cut=day("2024-02-15"))
    assert pl.read_parquet(again)["customer_id"].to_list() == [OTHER]


def test_it_says_what_can_no_longer_be_rebuilt_and_which_source_files_still_hold_the_person(filled):
    found = find_person(f" {ENTITY} ", place(filled))
    said = "\n".join(found.unrepeatable)
    assert current_version(filled.engine) in said
    assert "training set as_of=2024-03-01.parquet" in said
    assert "MLflow run run1" in said
    landing = filled.home.landing
    assert [(where, why[:6]) for where, why in found.remains] == [
        (str(landing / "customers/a.csv"), "1 rows"), (str(landing / "orders/a.csv"), "2 rows"),
        (str(landing / "orders/b.csv"), "1 rows")]


def test_looking_changes_nothing(filled):
    def state() -> dict[Path, str]:
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files(filled)
                if path.name != "state.db-shm"}

    before = state()
    find_person(ENTITY, place(filled))
    assert state() == before


def test_an_unknown_person_is_one_line_and_changes_nothing(filled):
    with pytest.raises(DataError, match=r"cannot forget 'c000999': nothing in .* names them\. Check the customer_id"):
        forget(filled, "c000999")
    assert not forgotten_entities(filled.engine, filled.home, pl.Series(["c000999"])).any()
    assert not (filled.home.root / "forget-salt").exists()
    with pytest.raises(DataError, match="cannot forget nobody"):
        forget(filled, "  ")


def test_the_ledger_says_it_without_the_name_and_ingest_knows_them(filled):
    forget(filled)
    newest = read_decisions(filled.engine, gate="erasure")
    assert [row.decision.verdict for row in newest] == ["erased", "begun"]
    assert "by ada: [the person] asked" in newest[0].decision.reason
    assert newest[0].decision.evidence["lake/raw/orders"] == 2
    assert forgotten_entities(filled.engine, filled.home, pl.Series([ENTITY, OTHER])).to_list() == [True, False]


def test_twice_is_once(filled):
    forget(filled)
    after = contents(filled)
    again = forget(filled)
    assert (again.rows, again.forgotten_at is not None) == (0, True)
    assert contents(filled) == after
    assert len(read_decisions(filled.engine, gate="erasure")) == 2


def test_a_file_that_no_row_lists_is_cleaned_and_not_dropped(filled):
    """A home whose manifest is incomplete must not lose the last copy of everybody else's rows."""
    stray = filled.home.lake / "raw/orders/load=2023-01-01.parquet"
    pl.DataFrame({"customer_id": [ENTITY, OTHER]}).write_parquet(stray)
    (filled.home.lake / "raw/orders/.load=2024-01-01.parquet.999999999.tmp").write_text(f"half a file of {ENTITY}")
    forget(filled)
    assert pl.read_parquet(stray)["customer_id"].to_list() == [OTHER]
    assert naming(filled, ENTITY) == []


def test_a_file_that_cannot_be_looked_into_stops_it_before_anything_is_changed(filled):
    (filled.home.lake / "scores/as_of=2024-04-01.parquet").write_bytes(b"no parquet")
    before = contents_of_raw(filled)
    with pytest.raises(PlatformError, match=r"cannot look into .*as_of=2024-04-01\.parquet: .* Mend or remove it"):
        forget(filled)
    assert contents_of_raw(filled) == before


def contents_of_raw(shop: Shop) -> list[object]:
    return [pl.read_parquet(path).rows() for path in committed_files(shop.home, shop.engine, "orders")]


@pytest.mark.parametrize(("entity", "telling"), [("c000123", True), ("ada@example.org", True), ("00042", False),
                                                 ("basic", False), ("c1", False)])
def test_a_name_is_looked_for_in_free_text_only_where_it_cannot_mean_something_else(entity, telling):
    assert Person(entity, "customer_id", frozenset()).telling is telling


def test_a_plain_number_is_forgotten_by_its_key_and_no_text_is_touched(shop):
    """Else "42 rows" in the ledger would lose its number, and another's order 42 its row."""
    shop.write("customers", "42,2024-01-01,2023-06-01,1980,basic,search,2024-01-01",
               "c2,2024-01-01,2023-06-01,1980,basic,search,2024-01-01")
    shop.write("orders", "o1,42,2024-01-10,1,10,2024-01-10", "42,c2,2024-01-10,1,10,2024-01-10",
               "o3,c2,2024-01-11,42,-1,2024-01-11", "o4, 42 ,2024-01-11,-1,1,2024-01-11")
    shop.ingest("2024-02-01")
    record_decision(shop.engine, Decision("data", "accept", "42 rows"), as_of=None)
    done = forget(shop, "42")
    assert {trace.where: trace.rows for trace in done.traces} == {
        "lake/raw/customers": 1, "lake/raw/orders": 1, "lake/quarantine/orders": 1}
    assert read_decisions(shop.engine, gate="data")[0].decision.reason == "42 rows"
    assert done.remains[-1][0] == "free text"


@pytest.mark.service
@pytest.mark.parametrize("online", ["sqlite", "redis"])
def test_online_the_person_is_unknown_and_a_release_that_runs_goes_on_with_the_others(filled, online, request):
    from models.serving.features_online import open_online
    from tasks.features.apply import apply_features
    from tasks.features.materialize import materialize_snapshot

    if online == "redis":
        url, project = request.getfixturevalue("redis_project")
        filled.home = replace(filled.home, name=project, online_store=url)
    contract, home = filled.contract, filled.home
    apply_features(contract, home)
    for cut in ("2024-02-01", "2024-03-01"):
        materialize_snapshot(contract, home, day(cut))
    read = open_online(home.feast_registry, home.feast_online_place, contract, service_name=contract.service_name,
                       view=contract.view_name, project=home.feast_project)
    assert read(ENTITY) is not None
    before = read(OTHER)
    done = forget(filled)
    assert next(trace for trace in done.traces if trace.where == f"online store ({online})").files == 1
    assert read(ENTITY) is None
    assert read(OTHER) == before is not None
    filled.engine.dispose()
    assert naming(filled, ENTITY, pseudonym(ENTITY)) == []


def test_where_the_feast_folder_is_lost_the_person_is_looked_for_in_redis_all_the_same(filled, redis_project):
    import redis

    url, project = redis_project
    filled.home = replace(filled.home, name=project, online_store=url)
    apply_and_materialize(filled)
    shutil.rmtree(filled.home.feast)
    forget(filled)
    with closing(redis.Redis.from_url(url)) as client:
        keys = [key for key in client.scan_iter(match=f"*{project}") if key != f"churn-home:{project}".encode()]
    assert [ENTITY.encode() + project.encode() in key for key in keys].count(True) == 0
    assert len(keys) == 1  # the other's


def test_a_store_that_was_used_online_and_is_not_set_any_more_stops_it_before_anything_is_changed(
        filled, redis_project):
    url, project = redis_project
    private = filled.home
    filled.home = replace(private, name=project, online_store=url)
    apply_and_materialize(filled)
    before = contents_of_raw(filled)
    for now, says in ((None, "is unset"), ("redis://ada:secret@127.0.0.1:1/0", r"says redis://127\.0\.0\.1:1/0")):
        filled.home = replace(private, name=project, online_store=now)
        with pytest.raises(PlatformError, match=f"cannot forget: features were put online in {url}, and "
                                                f"CHURN_ONLINE_STORE {says}\\. Set it to that store, or remove"):
            forget(filled)
    assert contents_of_raw(filled) == before
    filled.home = replace(private, name=project, online_store=url)
    assert "online store (redis)" in {trace.where for trace in forget(filled).traces}


def test_who_moved_from_sqlite_to_redis_is_forgotten_in_both(filled, redis_project):
    apply_and_materialize(filled)
    url, project = redis_project
    filled.home = replace(filled.home, name=project, online_store=url)
    apply_and_materialize(filled)
    assert filled.home.online_record.read_text() == f"sqlite\n{url}\n"
    stores = {trace.where for trace in forget(filled).traces if trace.where.startswith("online store")}
    assert stores == {"online store (sqlite)", "online store (redis)"}


def apply_and_materialize(shop: Shop) -> None:
    from tasks.features.apply import apply_features
    from tasks.features.materialize import materialize_snapshot

    apply_features(shop.contract, shop.home)
    materialize_snapshot(shop.contract, shop.home, day("2024-03-01"))


def test_an_online_store_that_does_not_answer_stops_it_before_anything_is_changed(filled):
    filled.home.feast.mkdir()
    filled.home = replace(filled.home, online_store="redis://127.0.0.1:1/0")
    before = contents_of_raw(filled)
    with pytest.raises(PlatformError, match=r"cannot forget in the online store: Redis says .*\. Start it, then try"):
        forget(filled)
    assert contents_of_raw(filled) == before


def test_a_source_that_delivers_the_person_again_brings_nobody_back(filled):
    forget(filled)
    filled.write("orders", f"o7,{ENTITY},2024-03-05,1,10,2024-03-05", f"o8,{OTHER},2024-03-05,1,10,2024-03-05",
                 file="c.csv")
    filled.write("customers", f"{ENTITY},2024-03-04,2023-06-01,1980,premium,search,2024-03-04",
                 f"{OTHER},2024-03-04,2023-06-01,1980,premium,search,2024-03-04", file="b.csv")
    counts = filled.ingest("2024-04-01").counts
    assert (counts["orders"].kept, counts["orders"].forgotten, counts["customers"].forgotten) == (1, 1, 1)
    filled.engine.dispose()
    assert naming(filled, ENTITY) == []


def test_a_database_source_is_named_for_nobody_looked_into_it(filled):
    table = filled.sources.tables["orders"]
    source = table.model_validate({"columns": table.columns, "database": "postgresql://127.0.0.1/shop",
                                   "query": "SELECT 1", "watermark": "arrived_at"})
    filled.sources = filled.sources.model_copy(update={"tables": {**filled.sources.tables, "orders": source}})
    assert ("the database of orders", "not looked at; not ours: have the person removed there; ingest drops their "
            "rows") in find_person(ENTITY, place(filled)).remains


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.tasks.erasure.test_forget import *
from feature_repo.contract import CONTRACT
from tasks.home import Home
from tasks.data.sources import Sources, TableSource
from tasks.state import open_state

home, left = Home(Path(sys.argv[1])), int(sys.argv[2])
real = Path.rename, Path.unlink
def counted(number):
    def step(path, *arguments, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real[number](path, *arguments, **named)
    return step
Path.rename, Path.unlink = counted(0), counted(1)
sources = Sources(tables={name: TableSource(path=str(home.landing / name / "*.csv"), columns={
    column.name: column.name for column in CONTRACT.table(name).columns}) for name in ("orders", "customers")})
forget_person(ENTITY, Place(home, open_state(home.state_url), CONTRACT.effective(sources.tables,
              eligible_within_days=60), sources, REPO), who="ada", why="asked", as_of=day("2024-03-01"))
"""


@pytest.mark.service
def test_killed_half_way_the_same_command_completes_it(filled):
    """Killed at its 3rd, 8th and 17th change of a file: in the new raw files, in the old ones, in what was made."""
    expected = {name: [row for row in rows if ENTITY not in [str(cell).strip() for cell in row]]
                for name, rows in contents(filled).items()}
    for steps in (3, 8, 17):
        done = subprocess.run([sys.executable, "-c", KILLED, str(filled.home.root), str(steps)], cwd=REPO, check=False,
                              capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert naming(filled, ENTITY)
        assert forgotten_entities(filled.engine, filled.home, pl.Series([ENTITY])).all()
    forget(filled)
    filled.engine.dispose()
    assert naming(filled, ENTITY, pseudonym(ENTITY)) == []
    assert contents(filled) == expected
    assert sorted((filled.home.lake / "raw/orders").iterdir()) == committed_files(filled.home, filled.engine, "orders")


@pytest.mark.parametrize("where", ["home", "elsewhere", "postgresql"])
def test_a_person_is_erased_from_the_table_of_scores_as_well(filled, where, tmp_path_factory, request):
    folder = filled.home.root if where == "home" else tmp_path_factory.mktemp("elsewhere")
    url = request.getfixturevalue("postgres_url") if where == "postgresql" else f"sqlite:///{folder}/scores.db"
    filled.home = replace(filled.home, scores_url=url)
    scores = scores_partition(filled.home, day("2024-03-01"))
    rows = pl.read_parquet(scores).with_columns(
        decision=pl.lit("leave"), why=pl.lit("budget"), expected_value=pl.lit(1.0), rank=pl.lit(1),
        within_budget=pl.lit(False), release_id=pl.lit("churn:v1"), as_of=pl.lit(day("2024-03-01")))
    rows.write_parquet(scores)
    write_scores(scores, as_of=day("2024-03-01"), home=filled.home)
    done = forget(filled)
    assert {trace.where: trace.rows for trace in done.traces}["scores table"] == 1
    assert (delete_person(filled.home, ENTITY, apply=False), delete_person(filled.home, OTHER, apply=False)) == (0, 1)
    if where != "postgresql":
        assert ENTITY.encode() not in (folder / "scores.db").read_bytes().replace(OTHER.encode(), b"")
    filled.home = replace(filled.home, scores_url=None)
    with pytest.raises(PlatformError, match="cannot forget: scores were written to"):
        forget(filled, OTHER)
