"""Killed at any instant, or done twice at once: the lake is what a single undisturbed run makes of it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from feature_repo.contract import CONTRACT, RAW_TABLES, Snapshot
from models.charter import Charter, load_charter
from models.errors import PlatformError
from tasks.home import Home
from tasks.data.ingest import ingest_sources
from tasks.data.lake import hash_file
from tasks.locks import hold
from tasks.data.manifest import committed_partitions
from tasks.features.snapshots import build_snapshot
from tasks.data.sources import Sources, TableSource
from tasks.state import last_load, open_state
from tests.tasks.conftest import CUSTOMER_COLUMNS, ORDER_COLUMNS, REPO, day

KILLS = 20
LOADS = ("2024-02-01", "2024-03-01", "2024-04-01")
CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.tasks.data.test_kill_ingest"])


def shop_charter() -> Charter:
    charter = load_charter(REPO / "charter.yaml")
    lenient = charter.requirements.model_copy(update={"max_data_age_days": 1000, "max_bad_share": 0.5})
    return charter.model_copy(update={"requirements": lenient})


def shop_sources(landing: Path) -> Sources:
    return Sources(tables={
        "orders": TableSource(path=str(landing / "orders/*.csv"), columns={name: name for name in ORDER_COLUMNS}),
        "customers": TableSource(path=str(landing / "customers.csv"),
                                 columns={name: name for name in CUSTOMER_COLUMNS}),
    })


def ingest(root: Path, landing: Path, as_of: str) -> dict[str, int]:
    home, sources = Home(root), shop_sources(landing)
    load = ingest_sources(sources, CONTRACT.effective(sources.tables, eligible_within_days=60), RAW_TABLES,
                          charter=shop_charter(), home=home, engine=open_state(home.state_url), root=REPO,
                          as_of=day(as_of))
    return {name: count.kept for name, count in load.counts.items()}


def run_all(root: Path, landing: Path, begun: Path) -> None:
    """Three loads and a snapshot after each, from where it was; touches `begun` when the imports are behind it."""
    home = Home(root)
    contract = CONTRACT.effective(shop_sources(landing).tables, eligible_within_days=60)
    begun.touch()
    for as_of in LOADS:
        done = last_load(open_state(home.state_url))
        if done is None or done <= day(as_of):
            ingest(root, landing, as_of)
        build_snapshot(contract, Snapshot, home=home, engine=open_state(home.state_url), cut=day(as_of))


def spawn(*arguments: object, target: object = run_all) -> multiprocessing.context.ForkServerProcess:
    process = CONTEXT.Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    return process


def finish(process: multiprocessing.context.ForkServerProcess) -> None:
    process.join(timeout=120)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Orders of three months, one file each: bad rows, corrections, and rows that arrive a load later."""
    folder = tmp_path_factory.mktemp("landing")
    (folder / "orders").mkdir()
    who = [f"c{number}" for number in range(200)]
    (folder / "customers.csv").write_text("\n".join([",".join(CUSTOMER_COLUMNS), *(
        f"{one},2024-01-01,2023-06-01,1980,basic,search,2024-01-01" for one in who)]) + "\n")
    rng = random.Random(7)
    for month in (1, 2, 3):
        rows = []
        for number in range(4000):
            at = f"2024-{month:02d}-{rng.randint(1, 28):02d}"
            amount = "ten" if number % 50 == 0 else f"{rng.randint(1, 99)}.5"
            rows.append(f"o{month}-{number},{rng.choice(who)},{at},1,{amount},{at}")
        rows += [f"o{month - 1}-{number},c1,2024-{month:02d}-05,2,7.00,2024-{month:02d}-05" for number in range(20)]
        (folder / f"orders/{month}.csv").write_text("\n".join([",".join(ORDER_COLUMNS), *rows]) + "\n")
    return folder


def files(root: Path) -> dict[str, str]:
    """Every file of the lake but what DuckDB spills, and its hash."""
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (root / "lake").rglob("*") if path.is_file() and ".spill-" not in str(path)}


def state(root: Path) -> list[tuple[object, ...]]:
    """What our state says of the lake, but for wall times."""
    engine = open_state(Home(root).state_url)
    with engine.connect() as connection:
        return [tuple(row) for query in (
            "SELECT path, table_name, kind, as_of, rows, sha256 FROM partitions ORDER BY path",
            "SELECT as_of, counts, dataset_version FROM loads ORDER BY as_of",
            "SELECT table_name, path, as_of, sha256, complete FROM source_files ORDER BY table_name, path",
            "SELECT as_of, table_name, dimension, rows, failing, detail FROM quality ORDER BY 1, 2, 3",
        ) for row in connection.execute(sa.text(query))]


def assert_readable(root: Path, undisturbed: dict[str, str]) -> None:
    """What the manifest lists is there, whole; a snapshot that is there is the one an undisturbed run makes."""
    if not (root / "state.db").exists():
        return
    home = Home(root)
    engine = open_state(home.state_url)
    for kind in ("raw", "quarantine"):
        for partition in committed_partitions(engine, kind=kind):
            path = home.lake / partition.path
            assert hash_file(path) == partition.sha256
            assert len(pl.read_parquet(path)) == partition.rows
    for path in (home.lake / "snapshots").glob("*/*.parquet"):
        assert hash_file(path) == undisturbed[str(path.relative_to(root))]


@pytest.fixture(scope="module")
def undisturbed(landing: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    root = tmp_path_factory.mktemp("undisturbed")
    durations = []
    for name in ("warm", "home"):
        begun = root / f"{name}.begun"
        process = spawn(root / name, landing, begun)
        wait_for(begun)
        since = time.monotonic()
        finish(process)
        durations.append(time.monotonic() - since)
    assert files(root / "warm") == files(root / "home")
    return root / "home", durations[-1]


def wait_for(path: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.002)


@pytest.mark.service
def test_killed_at_any_instant_the_lake_is_accepted_and_a_rerun_makes_the_same_bytes(landing, undisturbed, tmp_path):
    reference, seconds = undisturbed
    expected, rng, killed, attempt = files(reference), random.Random(), 0, 0
    assert len([name for name in expected if "/raw/" in name]) == 6
    while killed < KILLS:
        root, begun, attempt = tmp_path / str(attempt), tmp_path / f"{attempt}.begun", attempt + 1
        assert attempt < 4 * KILLS, f"{killed} of {attempt} runs were killed before they were done"
        process = spawn(root, landing, begun)
        wait_for(begun)
        since = time.monotonic()
        process.join(timeout=(killed + rng.random()) / KILLS * seconds)  # each twentieth of a run has its turn
        process.kill()
        process.join()
        if process.exitcode == 0:  # done before: the machine was busier when the time was taken
            seconds = time.monotonic() - since
            continue
        assert process.exitcode == -9
        killed += 1
        assert_readable(root, expected)
        finish(spawn(root, landing, begun))
        assert files(root) == expected
        assert state(root) == state(reference)


def test_many_first_uses_of_a_home_at_once_make_one_state(tmp_path):
    for attempt in range(10):
        url = Home(tmp_path / str(attempt)).state_url
        with ThreadPoolExecutor(8) as pool:
            engines = list(pool.map(open_state.__wrapped__, [url] * 8))
        assert {last_load(engine) for engine in engines} == {None}


def ingest_loudly(root: Path, landing: Path, as_of: str, log: Path, begun: Path) -> None:
    import logging

    logging.basicConfig(filename=log, level=logging.INFO)
    begun.touch()
    ingest(root, landing, as_of)


@pytest.mark.service
def test_of_two_ingests_at_once_one_waits_and_nothing_is_doubled(landing, undisturbed, tmp_path):
    reference, _ = undisturbed
    pair = [spawn(tmp_path / "home", landing, LOADS[0], tmp_path / f"{number}.log", tmp_path / f"{number}.begun",
                  target=ingest_loudly) for number in range(2)]
    for process in pair:
        finish(process)
    ours = files(tmp_path / "home")
    assert ours == {name: hashed for name, hashed in files(reference).items() if name in ours}
    assert [row for row in state(tmp_path / "home") if "load=2024-02-01" in str(row[0])] == [
        row for row in state(reference) if "load=2024-02-01" in str(row[0])]


@pytest.mark.service
def test_who_waits_says_for_whom_and_goes_on_when_the_other_is_done(landing, tmp_path):
    with hold(Home(tmp_path / "home"), "lake"):
        process = spawn(tmp_path / "home", landing, LOADS[0], tmp_path / "log", tmp_path / "begun",
                        target=ingest_loudly)
        wait_for(tmp_path / "begun")
        until = time.monotonic() + 30
        while "waiting for" not in (tmp_path / "log").read_text() and time.monotonic() < until:
            time.sleep(0.05)
        assert f"waiting for process {os.getpid()}, which writes to the lake of" in (tmp_path / "log").read_text()
        assert not (tmp_path / "home/lake").exists()
    finish(process)
    assert (tmp_path / "home/lake/raw/orders").exists()


def keep_holding(root: Path, begun: Path) -> None:
    with hold(Home(root), "lake"):
        begun.touch()
        time.sleep(60)


def test_a_refusal_after_patience_says_who_holds_the_lake(tmp_path):
    process = spawn(tmp_path, tmp_path / "begun", target=keep_holding)
    try:
        wait_for(tmp_path / "begun")
        with pytest.raises(PlatformError, match=f"process {process.pid} has been at it for over 0 s. Wait for it"), \
                hold(Home(tmp_path), "lake", patience_seconds=0.2):
            pass
    finally:
        process.kill()
        process.join()
    with hold(Home(tmp_path), "lake", patience_seconds=0.2):  # the kernel freed it
        pass


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_stays(landing, tmp_path):
    ingest(tmp_path, landing, LOADS[0])
    process = spawn(tmp_path, tmp_path / "begun", target=keep_holding)
    dead = process.pid
    process.kill()
    process.join()
    folder = tmp_path / "lake/snapshots/abc"
    folder.mkdir(parents=True)
    left = folder / f".cut=2024-02-01.parquet.{dead}.tmp"
    being_written = folder / f".cut=2024-02-01.parquet.{os.getpid()}.tmp"
    unlisted = tmp_path / "lake/raw/orders/load=2024-02-20.parquet"
    for path in (left, being_written, unlisted):
        path.write_bytes(b"half")
    ingest(tmp_path, landing, LOADS[1])
    assert [path.exists() for path in (left, being_written, unlisted)] == [False, True, False]
