"""A backfill gives what each day by itself gives, whatever became of it on the way."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from feature_repo.contract import CONTRACT
from flows.settings import REPO
from models.errors import ConfigError, DataError
from tasks.data.backfill import LOADED, NOT_REACHED, PAST, TAKEN, THERE, cuts_for_online, days_between
from tasks.data.lake import snapshot_partition
from tasks.home import Home

DAYS = [datetime(2024, month, 1, tzinfo=UTC) for month in (2, 3, 4, 5, 6)]


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_days_are_counted_from_the_start_by_days_or_by_months():
    assert days_between(day("2024-01-30"), day("2024-02-03"), step_days=2, step_months=None) == [
        day("2024-01-30"), day("2024-02-01"), day("2024-02-03")]
    assert days_between(day("2024-11-01"), day("2025-02-28"), step_days=1, step_months=2) == [
        day("2024-11-01"), day("2025-01-01")]
    assert days_between(day("2024-01-01"), day("2024-01-01"), step_days=7, step_months=None) == [day("2024-01-01")]


@pytest.mark.parametrize(("start", "end", "days", "months", "words"), [
    ("2024-02-01", "2024-01-01", 1, None, r"from 2024-02-01 to 2024-01-01 by 1 days: the end must not be before"),
    ("2024-01-01", "2024-02-01", 0, None, r"by 0 days: .* the step at least 1"),
    ("2024-01-01", "2024-02-01", 1, 0, r"by 0 months: .* the step at least 1"),
    ("2024-01-31", "2024-03-01", 1, 1, r"not every month has a day 31"),
])
def test_a_range_that_makes_no_sense_is_one_clear_line(start, end, days, months, words):
    with pytest.raises(ConfigError, match=words):
        days_between(day(start), day(end), step_days=days, step_months=months)


@pytest.mark.parametrize(("values", "words"), [
    ({}, "cannot backfill: START, END is missing. Write: make backfill START="),
    ({"START": "2024-01-01", "END": "soon"}, "cannot read AS_OF='soon': not a date"),
    ({"START": "2024-01-01", "END": "2024-02-01", "STEP_DAYS": "-1"}, "cannot backfill by STEP_DAYS='-1': not a whole"),
])
def test_the_command_says_what_is_wrong_with_its_values(values, words, capsys):
    from deploy.local.backfill import main

    assert main(values) == 1
    assert capsys.readouterr().err.startswith(f"error: {words}")


def snapshot(home: Home, cut: str, *entities: str) -> datetime:
    path = snapshot_partition(home, CONTRACT.fingerprint, day(cut))
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({CONTRACT.entity_key: entities}).write_parquet(path)
    return day(cut)


def test_only_the_newest_must_be_online_unless_an_older_one_has_somebody_it_lacks(tmp_path):
    home = Home(tmp_path)
    first, second = snapshot(home, "2024-02-01", "a", "b"), snapshot(home, "2024-03-01", "a", "b")
    assert cuts_for_online(CONTRACT, home, [first, second, day("2024-04-01")]) == [second]
    third = snapshot(home, "2024-04-01", "a", "c")
    assert cuts_for_online(CONTRACT, home, [first, second, third]) == [second, third]
    assert cuts_for_online(CONTRACT, home, [first]) == [first]  # b is in no newer one
    snapshot(home, "2024-05-01", "a", "b", "c")
    assert cuts_for_online(CONTRACT, home, [first, second, third]) == []
    assert cuts_for_online(CONTRACT, home, [day("2020-01-01")]) == []


@dataclass
class Shop:
    """Source files, and homes that read them."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def use(self, name: str) -> Home:
        """Flows of this process work on this home from now on."""
        home = Home(self.folder / name)
        self.monkeypatch.setenv("CHURN_HOME", str(home.root))
        return home

    def write(self, table: str, name: str, *rows: str) -> None:
        columns = [column.name for column in CONTRACT.table(table).columns]
        path = self.folder / "sources" / table / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([",".join(columns), *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Shop:
    """Five months of orders of thirty customers, some late and some bad; flows run on a Prefect server of ours."""
    request.getfixturevalue("prefect_harness")
    made = Shop(tmp_path, monkeypatch)
    names = [f"c{number:02d}" for number in range(30)]
    since = "2023-12-01,2023-06-01,1980,basic,search,2023-12-01"
    made.write("customers", "all.csv", *(f"{name},{since}" for name in names))
    for month in range(1, 6):
        rows = []
        for number, name in enumerate(names[:10 + 4 * month]):
            at = f"2024-{month:02d}-{1 + number % 28:02d}"
            late = f"2024-{month + 1:02d}-03" if number % 7 == 0 else at
            rows.append(f"o{month}-{number},{name},{at},{-1 if number == 9 else 1},{number + month},{late}")
        made.write("orders", f"{month}.csv", *rows)
    document = yaml.safe_load((REPO / "charter.yaml").read_text(encoding="utf-8"))
    document["requirements"] = {"max_bad_share": 0.5, "max_data_age_days": 100, "least_row_share": 0}
    document["problem"]["first_as_of"] = datetime(2024, 2, 1).date()
    (tmp_path / "charter.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    tables = {name: {"path": f"{tmp_path}/sources/{name}/*.csv",
                     "columns": {column.name: column.name for column in CONTRACT.table(name).columns}}
              for name in ("orders", "customers")}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"tables": tables}), encoding="utf-8")
    monkeypatch.setenv("CHURN_CHARTER", str(tmp_path / "charter.yaml"))
    monkeypatch.setenv("CHURN_SOURCES", str(tmp_path / "sources.yaml"))
    monkeypatch.setenv("CHURN_ENV_FILE", str(tmp_path / ".env"))
    return made


def state_of(home: Home) -> dict[str, str]:
    """Every Parquet file of the lake by its hash, and what stands online, row by row."""
    found = {str(path.relative_to(home.lake)): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in home.lake.rglob("*.parquet")}
    with closing(sqlite3.connect(home.feast_online)) as online:
        for (table,) in online.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = online.execute(f'SELECT entity_key, feature_name, value, event_ts FROM "{table}"').fetchall()
            found[table] = hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()
    return found


@pytest.fixture
def by_itself(shop: Shop) -> dict[str, str]:
    """What the days give, each done by itself."""
    from flows.features import features
    from flows.ingest import ingest

    home = shop.use("by-itself")
    for as_of in DAYS:
        ingest(as_of)
        features(as_of)
    return state_of(home)


@pytest.mark.service
def test_the_result_equals_doing_each_day_by_itself(shop, by_itself, capsys):
    from flows.backfill import backfill

    home = shop.use("backfilled")
    done = backfill(DAYS[0], DAYS[-1], step_months=1)
    assert [(one.as_of, one.load, one.snapshot) for one in done] == [(one, LOADED, TAKEN) for one in DAYS]
    assert done[0].entities == 11  # fourteen ordered in January, two of them learnt of later and one badly
    assert len([name for name in by_itself if name.startswith("raw/")]) == 10
    assert state_of(home) == by_itself
    said = capsys.readouterr().err
    assert "backfill 3 of 11: load of 2024-04-01: loaded, " in said
    assert "backfill 11 of 11: the newest is online, 0 s left" in said
    again = backfill(DAYS[0], DAYS[-1], step_months=1)
    assert {(one.load, one.snapshot) for one in again} == {(THERE, THERE)}
    assert state_of(home) == by_itself


@pytest.mark.service
def test_days_before_the_last_load_are_not_loaded_but_get_their_snapshots(shop):
    from flows.backfill import backfill
    from flows.features import features
    from flows.ingest import ingest
    from tasks.clock import platform_now
    from tasks.state import open_state

    home = shop.use("late")
    ingest(DAYS[-1])
    features(DAYS[-1])
    before = state_of(home)
    done = backfill(DAYS[1], DAYS[-1], step_months=1)
    assert [(one.load, one.snapshot) for one in done] == [(PAST, TAKEN)] * 3 + [(THERE, THERE)]
    after = state_of(home)
    assert {name: after[name] for name in before} == before  # online too: never an older cut over a newer one
    assert len(after) == len(before) + 3
    engine = open_state(home.state_url)
    assert platform_now(engine, load(shop)) == DAYS[-1]


def load(shop: Shop) -> Any:
    from models.charter import load_charter

    return load_charter(shop.folder / "charter.yaml")


@pytest.mark.service
def test_it_stops_at_a_refused_batch_with_all_before_it_done_and_goes_on_once_that_is_mended(shop, by_itself):
    from flows.backfill import backfill

    good = (shop.folder / "sources/orders/3.csv").read_text(encoding="utf-8")
    (shop.folder / "sources/orders/3.csv").write_text(good.replace(",1,", ",-1,"), encoding="utf-8")
    home = shop.use("stopped")
    with pytest.raises(DataError, match=r"cannot accept orders .*\. The backfill stopped there: 2 of 5 days are done\. "
                                        r"Mended and started again, it goes on from there"):
        backfill(DAYS[0], DAYS[-1], step_months=1)
    reached = {name: one for name, one in by_itself.items() if "2024-02-01" in name or "2024-03-01" in name}
    assert {name: one for name, one in state_of(home).items() if name in by_itself and "/" in name} == reached
    (shop.folder / "sources/orders/3.csv").write_text(good, encoding="utf-8")
    done = backfill(DAYS[0], DAYS[-1], step_months=1)
    assert [one.load for one in done] == [THERE, THERE, LOADED, LOADED, LOADED]
    assert NOT_REACHED not in [one.snapshot for one in done]
    assert state_of(home) == by_itself


@pytest.mark.service
def test_killed_half_way_and_started_again_it_equals_an_undisturbed_run(shop, by_itself):
    """Killed as soon as a number of files lies in the lake: while it loads, and while it takes snapshots."""
    from prefect.settings import PREFECT_API_URL

    from flows.backfill import backfill

    home = shop.use("killed")
    code = ("from datetime import datetime; from flows.backfill import backfill; "
            f"backfill(datetime.fromisoformat('{DAYS[0]:%Y-%m-%d}'), datetime.fromisoformat('{DAYS[-1]:%Y-%m-%d}'), "
            "step_months=1)")
    for files in (5, 22):
        run = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True,
                               env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())})
        deadline = time.monotonic() + 120
        while len(list(home.lake.rglob("*.parquet"))) < files and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.002)
        os.killpg(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        assert len(list(home.lake.rglob("*.parquet"))) < 25
    done = backfill(DAYS[0], DAYS[-1], step_months=1)
    assert THERE in [one.load for one in done]
    assert state_of(home) == by_itself


@pytest.mark.service
def test_side_by_side_costs_no_more_cpu_than_one_after_another(shop):
    from concurrent.futures import ThreadPoolExecutor

    from flows import backfill as flow
    from flows.context import open_context
    from flows.ingest import ingest

    shop.use("cpu")
    ingest(DAYS[-1])
    context = open_context(DAYS[-1])
    cuts = [[datetime(2024, month, number, tzinfo=UTC) for number in range(1, 5)] for month in (2, 3, 4)]

    def take(workers: int) -> float:
        for path in (context.home.lake / "snapshots").glob("*/*.parquet"):
            path.unlink()
        begun = time.process_time()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda part: flow.take_snapshots.fn(context, context.contract, part), cuts))
        return time.process_time() - begun

    take(1)  # warms up
    ratios = [take(2) / take(1) for _ in range(3)]
    assert sorted(ratios)[1] < 1.25
