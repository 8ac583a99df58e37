"""Retention drops what nothing needs, says why, and keeps what it does not understand."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import RAW_TABLES
from models.decision import Decision
from models.errors import DataError
from tasks.data.lake import parse_stamp, snapshot_partition, stamp, write_partition
from tasks.data.manifest import committed_files, committed_partitions
from tasks.data.quarantine import DROPPED, list_quarantine
from tasks.data.redrive import redrive_quarantine
from tasks.erasure.retention import apply_retention, plan_retention
from tasks.features.snapshots import build_snapshot, write_contract
from tasks.monitoring.truth import truth_partition
from tasks.release import releases, rollouts
from tasks.scoring.score import scores_partition
from tasks.state import read_decisions, record_decision
from tasks.tables import ROLLOUTS
from tests.tasks.conftest import Shop, day

pytestmark = pytest.mark.service  # whole stores for each test: together more seconds than `make check` has

# As of 1 January 2025 the newest mature cut is 1 November, and six train before it: May to October.
NOW = "2025-01-01"
MONTHS = [f"2024-{month:02d}-01" for month in range(2, 13)] + [NOW]


@pytest.fixture
def year(shop: Shop) -> Shop:
    """A year of orders of one customer, a bad row in March, and snapshots of every month and some odd days."""
    shop.write("customers", "c1,2023-12-01,2023-06-01,1980,basic,search,2023-12-01")
    shop.write("orders", *(f"o{month},c1,2024-{month:02d}-10,1,10,2024-{month:02d}-10" for month in range(1, 13)),
               "x1,c1,2024-03-10,-5,10,2024-03-10")
    for as_of in ("2024-04-01", NOW):
        shop.ingest(as_of)
    for cut in [*MONTHS, "2024-07-15", "2024-12-20"]:
        build_snapshot(shop.contract, None, home=shop.home, engine=shop.engine, cut=day(cut))
    return shop


def planned(shop: Shop):
    return plan_retention(shop.charter, shop.contract, shop.home, shop.engine)


def dropped(shop: Shop, folder: str = "snapshots") -> list[str]:
    return [item.path.name for item in planned(shop).drop if item.path.is_relative_to(shop.home.lake / folder)]


def unknown(shop: Shop) -> dict[str, str]:
    return {item.path.name: item.why for item in planned(shop).unknown}


def release(shop: Shop, fingerprint: str, version: str, *, state: str = "champion", cuts: str | None = None) -> None:
    releases.register_release(shop.engine, release_id=f"churn:v{version}", model_version=version, run_id="run",
                              fingerprint=fingerprint, as_of="2024-06-01", auc=0.8, monthly_value=1)
    opened = rollouts.open_new(shop.engine, release_id=f"churn:v{version}", strategy="basic", who="ada", why="test")
    rollouts.close(shop.engine, opened, state=state, reason="test")
    if cuts is not None:
        record_decision(shop.engine, Decision("promotion", "promote", "wins", {
            "train_cuts": cuts, "test_cuts": "2024-11-01"}), as_of=None, subject=version)


def test_a_stamp_is_read_as_it_was_written():
    for moment in (day("2024-01-01"), datetime(2024, 1, 1, 12, 30, tzinfo=UTC),
                   datetime(2024, 1, 1, 12, 30, 5, 7, tzinfo=UTC)):
        assert parse_stamp(stamp(moment)) == moment
    assert [parse_stamp(text) for text in ("", "yesterday", "2024-1-1", "2024-01-01T000000Z")] == [None] * 4


def test_cuts_before_any_training_go_and_those_a_training_or_a_label_needs_stay(year):
    assert dropped(year) == ["cut=2024-02-01.parquet", "cut=2024-03-01.parquet", "cut=2024-04-01.parquet",
                             "cut=2024-07-15.parquet"]  # not 20 December, whose label is still to mature
    reasons = {item.path.name: item.why for item in planned(year).drop}
    assert reasons["cut=2024-03-01.parquet"] == "no training from now on uses a cut before 2024-05-01"
    odd = "no training cut, its labels are mature and no drift check looks back on it"
    assert reasons["cut=2024-07-15.parquet"] == reasons["cut=2024-02-01.parquet"] == odd  # too little history before it


def test_what_is_dropped_comes_back_to_the_byte(year):
    path = snapshot_partition(year.home, year.contract.fingerprint, day("2024-02-01"))
    before = path.read_bytes()
    apply_retention(planned(year), year.home, year.engine)
    assert not path.exists()
    assert dropped(year) == []
    build_snapshot(year.contract, None, home=year.home, engine=year.engine, cut=day("2024-02-01"))
    assert path.read_bytes() == before


def test_where_no_training_can_be_planned_every_cut_stays(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,10,2024-01-10", "o2,c1,2024-02-10,1,10,2024-02-10")
    shop.ingest("2024-03-02")
    for cut in ("2024-02-01", "2024-02-15", "2024-03-01"):
        build_snapshot(shop.contract, None, home=shop.home, engine=shop.engine, cut=day(cut))
    assert dropped(shop) == []


def test_nothing_loaded_is_a_refusal(shop):
    with pytest.raises(DataError, match=r"cannot say what is needed in .*: nothing was ever loaded\. Run `make run`"):
        planned(shop)


def test_what_a_drift_check_looks_back_on_stays(year):
    for as_of in ("2024-04-01", "2024-07-15", "2024-08-15", "2024-09-15"):  # the last three count
        record_decision(year.engine, Decision("drift", "nothing", "same"), as_of=day(as_of))
    assert "cut=2024-07-15.parquet" not in dropped(year)
    assert "cut=2024-04-01.parquet" in dropped(year)


def test_what_a_release_that_can_come_back_learnt_from_stays(year):
    release(year, year.contract.fingerprint, "1", cuts="2024-02-01, 2024-03-01")
    assert dropped(year) == ["cut=2024-04-01.parquet", "cut=2024-07-15.parquet"]


def test_where_the_ledger_does_not_say_what_a_release_learnt_from_its_snapshots_stay(year):
    release(year, year.contract.fingerprint, "1")
    assert dropped(year) == []
    assert set(unknown(year).values()) == {"the ledger does not say what a release of this contract learnt from"}


def test_the_snapshots_of_a_contract_stay_while_a_release_of_it_can_come_back(year):
    older = year.contract.effective(["orders", "customers"], eligible_within_days=90)
    build_snapshot(older, None, home=year.home, engine=year.engine, cut=day("2024-11-01"))
    write_contract(older, year.home)
    old = snapshot_partition(year.home, older.fingerprint, day("2024-11-01"))
    gone = [item for item in planned(year).drop if item.path == old]
    assert [item.why for item in gone] == ["neither the code of today nor a release that can come back has this "
                                           "contract"]
    release(year, older.fingerprint, "1", cuts="2024-02-01")
    release(year, year.contract.fingerprint, "2", cuts="2024-02-01")  # champion now; version 1 can come back
    assert old not in [item.path for item in planned(year).drop]


def test_a_release_that_was_rolled_back_keeps_nothing(year):
    older = year.contract.effective(["orders", "customers"], eligible_within_days=90)
    build_snapshot(older, None, home=year.home, engine=year.engine, cut=day("2024-11-01"))
    release(year, older.fingerprint, "1", state="rolled back", cuts="2024-02-01")
    assert snapshot_partition(year.home, older.fingerprint, day("2024-11-01")) in [
        item.path for item in planned(year).drop]


def test_what_is_not_understood_is_kept_and_named(year):
    folder = year.home.lake / "snapshots" / year.contract.fingerprint
    for path in (folder / "cut=someday.parquet", year.home.lake / "snapshots/0123/cut=2024-01-01.parquet",
                 year.home.lake / "training/f/model.bin", year.home.lake / "training/f/as_of=2024-01-01,a.parquet",
                 year.home.lake / "scores/mine.csv"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")
    assert unknown(year) == {
        "cut=someday.parquet": "its name is no cut",
        "cut=2024-01-01.parquet": "no contract lies beside its folder, so it could not be made again",
        "model.bin": "its name is no training set's",
        "as_of=2024-01-01,a.parquet": "MLflow cannot be asked which models came from it",
        "mine.csv": "its name is no as_of",
    }
    apply_retention(planned(year), year.home, year.engine)
    assert len(unknown(year)) == 5


def test_training_sets_of_registered_models_and_of_today_stay(year):
    sets = [f"as_of={as_of},cuts=a..b.parquet" for as_of in ("2024-06-01", "2024-07-01", NOW)]
    for name in sets:
        path = year.home.lake / "training/f" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")
    year.home.mlflow.mkdir()
    with closing(sqlite3.connect(year.home.mlflow / "mlflow.db")) as mlflow:
        mlflow.execute("CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT)")
        mlflow.execute("CREATE TABLE model_versions (version INTEGER, run_id TEXT)")
        mlflow.execute("INSERT INTO model_versions VALUES (1, 'run1')")
        mlflow.execute("INSERT INTO tags VALUES ('training_set', ?, 'run1')", (sets[0],))
        mlflow.commit()
    assert dropped(year, "training") == [sets[1]]
    with closing(sqlite3.connect(year.home.mlflow / "mlflow.db")) as mlflow:
        mlflow.execute("INSERT INTO model_versions VALUES (2, 'run2')")  # of a run that does not say
        mlflow.commit()
    assert dropped(year, "training") == []


def followed(shop: Shop, *cuts: str, closed: bool = True) -> None:
    """Cohorts of truth, of one customer each."""
    for cut in cuts:
        write_partition(pl.DataFrame({
            "customer_id": ["c1"], "event_timestamp": [day(cut)], "label": [1.0 if closed else None],
            "weight": [1.0 if closed else None]}, schema_overrides={"label": pl.Float64, "weight": pl.Float64}),
            truth_partition(shop.home, day(cut)))


def test_scores_go_once_they_were_joined_to_their_labels_and_the_drift_check_has_judged_them(year):
    for as_of in ("2024-05-01", "2024-06-01", "2024-12-20", NOW):
        scores_partition(year.home, day(as_of)).parent.mkdir(parents=True, exist_ok=True)
        scores_partition(year.home, day(as_of)).write_bytes(b"?")
    assert dropped(year, "scores") == []
    record_decision(year.engine, Decision("drift", "alarm", "crashed"), as_of=day("2024-05-01"))
    for as_of in ("2024-06-01", "2024-09-01", "2024-10-01", "2024-12-20", NOW):
        record_decision(year.engine, Decision("drift", "nothing", "same"), as_of=day(as_of))
    assert dropped(year, "scores") == []
    followed(year, "2024-05-01", "2024-12-20", NOW)
    followed(year, "2024-06-01", closed=False)
    assert dropped(year, "scores") == []
    followed(year, "2024-06-01")
    assert dropped(year, "scores") == ["as_of=2024-06-01.parquet"]


def test_truth_stays_labelled_or_not_and_what_is_no_cohort_is_named(year):
    followed(year, "2024-05-01")
    followed(year, "2024-12-20", closed=False)
    folder = truth_partition(year.home, day("2024-05-01")).parent
    (folder / "cut=2024-05-01.json").write_text("{}")
    (folder / "cut=soon.parquet").write_bytes(b"?")
    assert dropped(year, "truth") == []
    assert unknown(year) == {"cut=soon.parquet": "its name is no cohort's"}


def test_truth_that_cannot_be_read_keeps_retention_from_saying_anything(year):
    followed(year, "2024-05-01")
    truth_partition(year.home, day("2024-05-01")).write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="cannot read the truth of 2024-05-01"):
        planned(year)


def served(path: Path, cut: str | None, *, role: str = "served", why: str = "value") -> None:
    """A part of the predictions with one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"entity": ["c1"], "features_as_of": [day(cut) if cut else None], "role": [role], "why": [why]},
                 schema_overrides={"features_as_of": pl.Datetime("us", "UTC")}).write_parquet(path)


def test_predictions_go_once_truth_has_them_unless_the_champion_is_still_compared_on_them(year):
    folder = year.home.lake / "predictions"
    old = folder / "date=2024-05-01/part-a-0.parquet"
    served(old, "2024-05-01")
    served(folder / "date=2024-12-20/part-a-0.parquet", "2024-12-20")
    (folder / "date=2024-05-02").mkdir()
    (folder / "date=2024-05-02/other.csv").write_bytes(b"?")
    (folder / "date=2024-05-02/part-b-0.parquet").write_bytes(b"?")

    def going() -> list[str]:
        return [item.path.parent.name for item in planned(year).drop if folder in item.path.parents]

    followed(year, "2024-12-20")
    assert going() == []
    followed(year, "2024-05-01", closed=False)
    assert going() == []
    followed(year, "2024-05-01")
    assert going() == ["date=2024-05-01"]
    assert unknown(year) == {"other.csv": "its name is no part of a date's predictions",
                             "part-b-0.parquet": "it cannot be read"}
    release(year, year.contract.fingerprint, "1")
    with year.engine.begin() as connection:
        connection.execute(ROLLOUTS.update().values(closed_at="2024-04-30T00:00:00+00:00"))
    assert going() == []


def test_predictions_that_truth_never_takes_go_once_their_labels_would_be_mature(year):
    """Shadows, rows a caller gave the features of, and who had left before the cut."""
    folder = year.home.lake / "predictions"
    served(folder / "date=2024-05-01/part-a-0.parquet", "2024-05-01", role="shadow")
    served(folder / "date=2024-05-02/part-a-0.parquet", None)
    served(folder / "date=2024-05-03/part-a-0.parquet", "2024-05-01", why="not_eligible")
    served(folder / "date=2024-12-20/part-a-0.parquet", None)
    assert [item.path.parent.name for item in planned(year).drop if folder in item.path.parents] == [
        "date=2024-05-01", "date=2024-05-02", "date=2024-05-03"]


def test_batch_scores_go_unless_their_release_is_on_trial(year):
    for version in ("1", "2"):
        path = year.home.lake / "batch-scores" / f"churn-v{version}" / "as_of=2025-01-01.parquet"
        path.parent.mkdir(parents=True)
        pl.DataFrame({"customer_id": ["c1"], "churn_probability": [0.5]}).write_parquet(path)
    release(year, year.contract.fingerprint, "1")
    release(year, year.contract.fingerprint, "2", state="canary")
    assert [item.path.parent.name for item in planned(year).drop if item.why == "no rollout is judged by it"] == [
        "churn-v1"]


def test_the_text_of_old_bad_rows_goes_and_delivered_again_they_are_still_known(year):
    old = committed_files(year.home, year.engine, "orders", kind="quarantine")[0]
    assert pl.read_parquet(old)["items"].to_list() == ["-5"]
    limits = year.charter.requirements.model_copy(update={"keep_quarantine_days": 200})
    year.charter = year.charter.model_copy(update={"requirements": limits})
    plan = planned(year)
    assert [one.path for one, _ in plan.empty] == [str(old.relative_to(year.home.lake))]
    apply_retention(plan, year.home, year.engine)
    kept = pl.read_parquet(committed_files(year.home, year.engine, "orders", kind="quarantine")[0])
    assert kept.select("customer_id", "items", "reason").rows() == [(None, None, DROPPED)]
    assert not old.exists()
    assert planned(year).empty == ()
    assert list_quarantine(year.home, year.engine, [year.contract.table("orders")]) == []
    done = redrive_quarantine(year.sources, year.contract, RAW_TABLES, charter=year.charter, home=year.home,
                              engine=year.engine)
    assert done.tables["orders"].waiting == 0
    year.write("orders", "x1,c1,2024-03-10,-5,10,2024-03-10", "o13,c1,2025-01-01,1,10,2025-01-01", file="again.csv")
    counts = year.ingest("2025-01-02").counts["orders"]
    assert (counts.kept, counts.quarantined, counts.redelivered) == (1, 0, 1)


def test_raw_rows_stay_and_the_ledger_says_what_went(year):
    before = [(one.path, one.sha256) for one in committed_partitions(year.engine)]
    apply_retention(planned(year), year.home, year.engine)
    assert [(one.path, one.sha256) for one in committed_partitions(year.engine)] == before
    (row,) = read_decisions(year.engine, gate="retention")
    assert row.decision.evidence["files"] == 4
    apply_retention(planned(year), year.home, year.engine)
    assert len(read_decisions(year.engine, gate="retention")) == 1


def test_the_command_lists_before_it_drops(year, monkeypatch, capsys):
    from deploy.local import retention

    monkeypatch.setenv("CHURN_HOME", str(year.home.root))
    assert retention.main({}) == 1  # a folder in which no pipeline ran
    assert capsys.readouterr().err.startswith("error: no pipeline has run in")
    (year.home.root / "charter-name").write_text("shop\n")
    assert retention.main({}) == 0
    said = capsys.readouterr().out
    assert "4 files" in said
    assert "(cut=2024-03-01.parquet to cut=2024-04-01.parquet): no training from now on uses a cut before" in said
    assert "make retention APPLY=1" in said
    assert len(list((year.home.lake / "snapshots").glob("*/*.parquet"))) == len(MONTHS) + 2
    assert retention.main({"APPLY": "1"}) == 0
    assert len(list((year.home.lake / "snapshots").glob("*/*.parquet"))) == len(MONTHS) + 2 - 4


def test_nothing_is_dropped_from_a_home_that_is_only_looked_at(year):
    before = {path: path.stat().st_mtime_ns for path in Path(year.home.lake).rglob("*.parquet")}
    planned(year)
    assert {path: path.stat().st_mtime_ns for path in Path(year.home.lake).rglob("*.parquet")} == before
