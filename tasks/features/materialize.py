"""Online stage. Reads the snapshot of a cut; writes it to the online store, bucket by bucket.

The snapshot has one row an entity already, so nothing is left to ask Feast's offline store; its rows go to
Feast's own writer of the online store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from models.contract import Contract
from models.errors import DataError
from models.serving.features_online import shown
from tasks.data.lake import snapshot_partition, undamaged
from tasks.features.apply import LOCK, open_store, quiet, reachable
from tasks.home import Home
from tasks.locks import hold

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView
    from feast.infra.online_stores.online_store import OnlineStore

Row = tuple[Any, dict[str, Any], datetime, datetime]  # as Feast writes it: entity, values, event and created timestamp
LOGGER = logging.getLogger(__name__)
IN_HOME: Final = "sqlite"  # how `used_online` calls the home's own file
OVERLAP: Final = timedelta(days=1)
ROWS_A_BUCKET: Final = 10_000  # one transaction, one round trip; as protobuf values about 100 MB
_VALUE_FIELDS: Final = {"string": "string_val", "int64": "int64_val", "float64": "double_val", "bool": "bool_val"}


def materialize_snapshot(
    contract: Contract, home: Home, cut: datetime, *, rows_a_bucket: int = ROWS_A_BUCKET
) -> int:
    """Put the snapshot of a cut online; returns its rows.

    Which snapshots were put online before does not matter: one made out of order arrives all the same
    (`materialize_incremental` would lose it), and where an entity has a newer row online, that one stays. Killed
    and run again, it starts over and ends in the same state.

    Raises:
        DataError: there is no snapshot of the cut, or its file is damaged.
        PlatformError: the registry or the online store cannot be reached, or is being written for too long.
    """
    path = snapshot_partition(home, contract.fingerprint, cut)
    with undamaged(path):
        total = pq.read_metadata(path).num_rows if path.exists() else 0
    if total == 0:
        raise DataError(f"cannot materialize {cut:%Y-%m-%d}: there is no snapshot of it. Run the features flow first")
    with hold(home, LOCK), quiet(), reachable(home):
        store = open_store(home)
        view, online = store.get_feature_view(contract.view_name), online_store(store)
        _record_online(home)
        done = 0
        for batch in _buckets(path, rows_a_bucket):
            rows = online_rows(pl.DataFrame(batch), contract, cut)
            online.online_write_batch(store.config, view, _unless_newer(rows, store, view, online), None)
            done += len(rows)
            LOGGER.info("%s of %s rows of %s are online", f"{done:,}", f"{total:,}", f"{cut:%Y-%m-%d}")
        # For who looks in the registry, and for Feast's own commands.
        store.registry.apply_materialization(view, home.feast_project, cut - OVERLAP, cut)
    return total


def used_online(home: Home) -> list[str]:
    """Every online store features of this home were put in, without credentials; empty where none ever were."""
    return home.online_record.read_text(encoding="utf-8").splitlines() if home.online_record.exists() else []


def _record_online(home: Home) -> None:
    """Before the first row is written, so that a killed run is known of, too; the caller holds the lock."""
    place = shown(home.online_store) if home.online_store else IN_HOME
    if place not in used_online(home):
        with home.online_record.open("a", encoding="utf-8") as record:
            record.write(f"{place}\n")


def _buckets(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    batches = pq.ParquetFile(path).iter_batches(batch_size=rows)
    while True:
        with undamaged(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def online_store(store: FeatureStore) -> OnlineStore:
    """Feast's own reader and writer of the online store."""
    from feast.infra.online_stores.helpers import get_online_store_from_config

    online: OnlineStore = get_online_store_from_config(store.config.online_store)
    return online


def online_rows(frame: pl.DataFrame, contract: Contract, cut: datetime) -> list[Row]:
    """Rows of a snapshot as Feast's online stores take them; a null is a value without content."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    nothing = Value()
    columns = [column for column in contract.snapshot if column.role in ("numeric", "categorical", "eligible")]
    names = [column.name for column in columns]
    values = []
    for column in columns:
        field = _VALUE_FIELDS[column.dtype]
        column_values = frame[column.name].to_list()
        made = {value: nothing if value is None else Value(**{field: value}) for value in set(column_values)}
        values.append([made[value] for value in column_values])
    key = [contract.entity_key]
    return [
        (EntityKey(join_keys=key, entity_values=[Value(string_val=entity)]), dict(zip(names, row, strict=True)),
         cut, cut)
        for entity, *row in zip(frame[contract.entity_key].to_list(), *values, strict=True)
    ]


def _unless_newer(rows: list[Row], store: FeatureStore, view: FeatureView, online: OnlineStore) -> list[Row]:
    """Without the rows whose entity has a newer one online; in SQLite a trigger of ours does that."""
    if store.config.online_store.type == "sqlite":
        return rows
    known = online.online_read(store.config, view, [row[0] for row in rows], [view.features[0].name])
    # By seconds: Feast's own reading of a moment passes through a float.
    return [row for row, (moment, _) in zip(rows, known, strict=True)
            if moment is None or int(moment.timestamp()) <= int(row[2].timestamp())]
