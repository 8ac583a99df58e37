"""Feature store stage. Reads snapshots; writes Feast's registry, answers point-in-time joins."""

from __future__ import annotations

import io
import re
import sqlite3
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, Final

import duckdb
import polars as pl

from models.contract import Contract
from models.errors import DataError, PlatformError
from models.serving.features_online import online_config, shown
from tasks.data.lake import snapshot_folder
from tasks.home import Home
from tasks.locks import hold

if TYPE_CHECKING:
    from feast import FeatureStore

LOCK: Final = "feature-store"  # whoever writes registry or online store
# A join of one bucket holds its labels, their features and Feast's row numbers: about 1 GB at six cuts a customer.
ENTITIES_A_JOIN: Final = 100_000
# Feast's DuckDB store has one connection a process, which refuses a second thread instead of letting it wait.
ONE_JOIN: Final = threading.Lock()
REDIS_SECONDS: Final = 60.0  # a bucket is written in one round trip, on a busy server too


def open_store(home: Home) -> FeatureStore:
    """The feature store of a home: duckdb offline, SQL registry (SQLite, PostgreSQL), SQLite or Redis online."""
    from feast import FeatureStore, RepoConfig

    home.feast.mkdir(parents=True, exist_ok=True)
    online = online_config(home.feast_online_place, seconds=REDIS_SECONDS)
    if online["type"] == "redis":
        # Else Redis ignores a second writing of the same cut, and a spoilt value would stay for ever. That an older
        # cut never replaces a newer one is seen to by `tasks.features.materialize`.
        online["skip_dedup"] = True
    with reachable(home):
        store = FeatureStore(config=RepoConfig(
            project=home.feast_project,
            provider="local",
            registry={"registry_type": "sql", "path": home.feast_registry, "cache_ttl_seconds": 0,
                      "serve_features_while_materializing": True},
            online_store=online,
            # Never `file` (dask): it drops label rows and returns superseded values.
            offline_store={"type": "duckdb"},
            materialization={"pull_latest_features": True, "online_write_batch_size": 10000},
            entity_key_serialization_version=3,
        ))
        # Feast remembers what a registry lists by the registry's address in memory and its version, which an SQL
        # registry leaves empty: a store opened where one had been before would get the answers of that one.
        store.registry.cached_registry_proto.version_id = uuid.uuid4().hex
    return store


def apply_features(contract: Contract, home: Home) -> None:
    """Register the objects of a contract; one at a time, whoever calls.

    Raises:
        PlatformError: registry or online store cannot be reached, or is another home's.
    """
    from feature_repo.definitions import feast_objects
    from tasks.features.feature_stores import claim_stores

    with hold(home, LOCK), reachable(home):
        claim_stores(home)
        store = open_store(home)
        store.apply(list(feast_objects(contract, str(snapshot_folder(home, contract.fingerprint)))))
        if not home.online_store:
            _guard_sqlite(home, f"{home.feast_project}_{contract.view_name}")


def _guard_sqlite(home: Home, table: str) -> None:
    """Readers go on while a snapshot is put online, and no writer puts an older row over a newer one.

    Feast takes whatever is written last. The trigger also binds who writes by Feast's own means.
    """
    with closing(sqlite3.connect(home.feast_online)) as online:
        online.execute("PRAGMA journal_mode=WAL")
        online.execute(f'CREATE TRIGGER IF NOT EXISTS "{table}_keeps_newer" BEFORE UPDATE ON "{table}" '
                       "WHEN NEW.event_ts < OLD.event_ts BEGIN SELECT RAISE(IGNORE); END")
        online.commit()


def join_point_in_time(
    labels: pl.DataFrame, contract: Contract, home: Home, *, entities_a_join: int = ENTITIES_A_JOIN
) -> pl.DataFrame:
    """Features as they were known at each label's cut, for the entities that were eligible then.

    Args:
        labels: (n, k) entity key, `event_timestamp`, label.
        entities_a_join: entities are joined in contiguous ranges of so many, which bounds memory; a snapshot is
            sorted by entity, so DuckDB reads of it what a range needs. The answer is the same for any number.

    Returns:
        Entity key, `event_timestamp`, label and every feature; sorted by cut and entity.

    Raises:
        DataError: there are no labels, or Feast answers with other rows than it was asked for.
        PlatformError: the registry cannot be reached.
    """
    if labels.is_empty():
        raise DataError("cannot join features: there are no labels. Ingest a longer range")
    store, key = open_store(home), contract.entity_key
    features = [pl.col(column.name).cast(pl.Float64 if column.role == "numeric" else pl.String)
                for column in contract.features]
    joined: dict[Any, list[pl.DataFrame]] = {cut: [] for cut in labels["event_timestamp"].unique().sort()}
    starts = labels[key].unique().sort().gather_every(entities_a_join).to_list()
    for first, after in zip(starts, [*starts[1:], None], strict=True):
        of_range = labels.filter((pl.col(key) >= first) & (pl.lit(True) if after is None else pl.col(key) < after))
        rows = features_as_known(of_range.sort("event_timestamp", key), contract, home, store=store)
        kept = rows.filter(pl.col(contract.eligible).fill_null(False)).select(
            key, "event_timestamp", pl.col(contract.label).cast(pl.Int8), *features)
        for (cut,), part in kept.partition_by("event_timestamp", as_dict=True).items():
            joined[cut].append(part)
    parts = [part for of_cut in joined.values() for part in of_cut]
    return pl.concat(parts, rechunk=False) if parts else kept


def features_as_known(
    asked: pl.DataFrame, contract: Contract, home: Home, *, store: FeatureStore | None = None
) -> pl.DataFrame:
    """The rows of `asked`, in their order, with the flag and every feature as known at `event_timestamp`.

    A row without a snapshot of its moment has nulls throughout.

    Raises:
        DataError: Feast answers with other rows than it was asked for.
        PlatformError: the registry cannot be reached.
    """
    store = store or open_store(home)
    names, view = [contract.eligible, *contract.feature_names], contract.view_name
    # Feast's row order is its own: carry a row id and sort by it. The other columns need not make the journey.
    question = asked.select(contract.entity_key, "event_timestamp").with_row_index("_row")
    try:
        with ONE_JOIN, quiet(), reachable(home):
            answer = store.get_historical_features(
                entity_df=question.to_pandas(), features=[f"{view}:{name}" for name in names],
                filter_by_created_timestamp=True,
            ).to_arrow()
    except duckdb.Error as error:  # it names the file
        raise DataError(f"cannot join features: {str(error).partition(chr(10))[0]}. Move the file away and run the "
                        "features flow; it is made anew from the lake") from error
    frame = pl.DataFrame(answer).sort("_row")
    if len(frame) != len(asked) or not (frame["_row"] == pl.int_range(len(asked), eager=True)).all():
        raise DataError(f"cannot join features: Feast answered {len(frame):,} rows to {len(asked):,} labels")
    return asked.hstack(frame.select(names))


@contextmanager
def quiet() -> Iterator[None]:
    """Feast prints its progress bars, and Ibis warns of a DuckDB call it makes itself."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fetch_arrow_table", category=DeprecationWarning)
        yield


@contextmanager
def reachable(home: Home) -> Iterator[None]:
    """Say in one line, without credentials, which store does not answer.

    Raises:
        PlatformError: in place of whatever SQLAlchemy, SQLite or Redis raise.
    """
    from redis.exceptions import RedisError
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except RedisError as error:
        raise PlatformError(f"cannot use the online store {shown(home.feast_online_place)}: {type(error).__name__}. "
                            "Start it, or mend CHURN_ONLINE_STORE") from error
    except sqlite3.Error as error:
        raise PlatformError(f"cannot use the online store {home.feast_online}: {error}. "
                            f"{_mend_file(error)}") from error
    except DBAPIError as error:
        missing = re.search(r'database "(.+?)" does not exist', str(error.orig))
        why = f"database {missing[1]!r} does not exist" if missing else type(error).__name__
        how = "Create it" if missing else "Start it"
        if not home.feature_registry:
            why, how = str(error.orig), _mend_file(error.orig)
        raise PlatformError(f"cannot use the feature registry {shown(home.feast_registry)}: {why}. {how}"
                            f"{', or mend CHURN_FEATURE_REGISTRY' if home.feature_registry else ''}") from error


def _mend_file(error: BaseException | None) -> str:
    """What to do about a SQLite file of ours: all that stands in it can be made again."""
    if isinstance(error, sqlite3.OperationalError):  # locked, no space, no right to write
        return "See who else uses it and whether it may be written, and start again"
    return "Move the file away and run the features flow"
