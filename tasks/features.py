"""Feature store stage. Reads snapshots; writes Feast's registry and online store, answers point-in-time joins."""

from __future__ import annotations

import fcntl
import io
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from models.contract import Contract
from models.errors import DataError
from tasks.home import Home
from tasks.lake import snapshot_folder

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT: Final = "churn"
OVERLAP: Final = timedelta(days=1)


def open_store(home: Home) -> FeatureStore:
    """The feature store of a home: duckdb offline, SQL registry, SQLite online."""
    from feast import FeatureStore, RepoConfig

    home.feast.mkdir(parents=True, exist_ok=True)
    return FeatureStore(config=RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"registry_type": "sql", "path": home.feast_registry, "cache_ttl_seconds": 0,
                  "serve_features_while_materializing": True},
        online_store={"type": "sqlite", "path": str(home.feast_online)},
        # Never `file` (dask): it drops label rows and returns superseded values.
        offline_store={"type": "duckdb"},
        materialization={"pull_latest_features": True, "online_write_batch_size": 10000},
        entity_key_serialization_version=3,
    ))


def apply_features(contract: Contract, home: Home) -> None:
    """Register the objects of a contract; one at a time, whoever calls."""
    from feature_repo.definitions import feast_objects

    with _serialised(home):
        open_store(home).apply(list(feast_objects(contract, str(snapshot_folder(home, contract.fingerprint)))))
        with closing(sqlite3.connect(home.feast_online)) as online:  # readers go on while a snapshot is put online
            online.execute("PRAGMA journal_mode=WAL")


def materialize_snapshot(contract: Contract, home: Home, cut: datetime) -> int:
    """Put the snapshot of a cut online; returns the rows read back from the source.

    A fixed overlap rather than `materialize_incremental`, which would lose a snapshot made out of order.

    Raises:
        DataError: there is no snapshot of the cut.
    """
    rows = pl.scan_parquet(snapshot_folder(home, contract.fingerprint) / "*.parquet").filter(
        pl.col("event_timestamp") == cut
    ).select(pl.len()).collect().item()
    if rows == 0:
        raise DataError(f"cannot materialize {cut:%Y-%m-%d}: there is no snapshot of it. Run the features flow first")
    with _serialised(home), _quiet():
        open_store(home).materialize(
            start_date=cut - OVERLAP, end_date=cut + timedelta(seconds=1), feature_views=[contract.view_name],
        )
    return int(rows)


def join_point_in_time(labels: pl.DataFrame, contract: Contract, home: Home) -> pl.DataFrame:
    """Features as they were known at each label's cut, for the entities that were eligible then.

    Args:
        labels: (n, k) entity key, `event_timestamp`, label.

    Returns:
        Entity key, `event_timestamp`, label and every feature; sorted by cut and entity.

    Raises:
        DataError: Feast answers with other rows than it was asked for.
    """
    wanted = [f"{contract.view_name}:{name}" for name in [contract.eligible, *contract.feature_names]]
    # Feast's row order is its own: carry a row id and sort by it.
    asked = labels.with_row_index("_row").to_pandas()
    with _quiet():
        joined = open_store(home).get_historical_features(
            entity_df=asked, features=wanted, filter_by_created_timestamp=True
        ).to_arrow()
    frame = pl.DataFrame(joined).sort("_row")
    if frame["_row"].to_list() != list(range(len(labels))):
        raise DataError(f"cannot join features: Feast answered {len(frame):,} rows to {len(labels):,} labels")
    features = [pl.col(column.name).cast(pl.Float64 if column.role == "numeric" else pl.String)
                for column in contract.features]
    keep = frame.filter(pl.col(contract.eligible).fill_null(False))
    return keep.select(contract.entity_key, pl.col("event_timestamp").cast(pl.Datetime("us", "UTC")),
                       pl.col(contract.label).cast(pl.Int8), *features).sort("event_timestamp", contract.entity_key)


@contextmanager
def _quiet() -> Iterator[None]:
    """Feast prints its progress bars, and Ibis warns of a DuckDB call it makes itself."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fetch_arrow_table", category=DeprecationWarning)
        yield


@contextmanager
def _serialised(home: Home) -> Iterator[None]:
    home.feast.mkdir(parents=True, exist_ok=True)
    with (home.feast / "apply.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
