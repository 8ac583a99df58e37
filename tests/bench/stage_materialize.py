"""A snapshot put online: `materialize_snapshot`, beside raw writes of the same bytes in Feast's own layout.

SQLite by `executemany`, Redis by one pipeline of HSET for 10,000 customers; both read the partition with Polars and
encode protobuf values by hand. Importing Feast, applying and emptying the stores are not measured. Redis: the
databases 13 and 14 of 127.0.0.1:6379 are emptied before and after.
"""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import polars as pl
import redis
from feast.infra.online_stores.helpers import _mmh3

from models.contract import Contract
from tasks.data.lake import snapshot_partition
from tasks.features.apply import apply_features, open_store
from tasks.features.materialize import materialize_snapshot
from tasks.features.snapshots import build_snapshot
from tasks.home import Home
from tests.bench.measure import Pair
from tests.bench.world import AS_OF, World

PROJECT: Final = "bench"
OURS, RAW = 13, 14
BATCH: Final = 10_000


@dataclass(frozen=True)
class State:
    home: Home
    contract: Contract


def prepare(world: World, *, store: str) -> State:
    """The snapshot, and two empty online stores: ours by Feast, the other with Feast's table of the same name."""
    build_snapshot(world.contract, None, home=world.home, engine=world.engine, cut=AS_OF)
    shutil.rmtree(world.home.feast, ignore_errors=True)
    url = f"redis://127.0.0.1:6379/{OURS}" if store == "redis" else None
    home = replace(world.home, name=PROJECT, online_store=url)
    apply_features(world.contract, home)
    if store == "redis":
        empty_redis()
        atexit.register(empty_redis)
    else:
        with closing(sqlite3.connect(home.feast_online)) as made, closing(sqlite3.connect(_raw_file(home))) as raw:
            raw.execute("PRAGMA journal_mode=WAL")
            for (sql,) in made.execute("SELECT sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql != ''"):
                raw.execute(sql)
            raw.commit()
    return State(home, world.contract)


def empty_redis() -> None:
    for database in (OURS, RAW):
        redis.Redis(db=database, socket_timeout=600).flushdb()


def ours(state: State) -> State:
    materialize_snapshot(state.contract, state.home, AS_OF)
    return state


def unbucketed(state: State) -> None:
    materialize_snapshot(state.contract, state.home, AS_OF, rows_a_bucket=2**31 - 1)


def by_feast(state: State) -> None:
    """`store.materialize`: what ours replaces."""
    from tasks.features.apply import quiet
    from tasks.features.materialize import OVERLAP

    with quiet():
        open_store(state.home).materialize(AS_OF - OVERLAP, AS_OF, feature_views=[state.contract.view_name])


def by_frame(state: State) -> None:
    """`store.write_to_online_store` bucket by bucket: the public way in, by pandas."""
    store = open_store(state.home)
    frame = pl.read_parquet(_partition(state))
    for start in range(0, len(frame), BATCH):
        store.write_to_online_store(state.contract.view_name, frame.slice(start, BATCH).to_pandas())


def executemany(state: State) -> State:
    rows = encoded(state)
    names, moment = _names(state.contract), int(AS_OF.replace(tzinfo=None).timestamp())
    with closing(sqlite3.connect(_raw_file(state.home))) as connection:
        for batch in rows:
            with connection:
                connection.executemany(
                    f'INSERT INTO "{_table(state)}" '
                    "(entity_key, feature_name, value, value_text, event_ts, created_ts) VALUES (?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT(entity_key, feature_name) DO UPDATE SET "
                    "value = excluded.value, value_text = excluded.value_text, event_ts = excluded.event_ts, "
                    "created_ts = excluded.created_ts",
                    ((key, name, value, text, moment, moment)
                     for key, values, texts in batch for name, value, text in zip(names, values, texts, strict=True)),
                )
    return state


def pipelined_hset(state: State) -> State:
    view, project = state.contract.view_name, state.home.feast_project.encode()
    fields = [*(_mmh3(f"{view}:{name}") for name in _names(state.contract)), f"_ts:{view}".encode()]
    moment = b"\x08" + _varint(int(AS_OF.timestamp()))
    client = redis.Redis(db=RAW)
    for batch in encoded(state, texts=False):
        with client.pipeline(transaction=False) as pipe:
            for key, values, _ in batch:
                pipe.hset(key + project, mapping=dict(zip(fields, (*values, moment), strict=True)))
            pipe.execute()
    return state


def encoded(state: State, *, texts: bool = True) -> Iterator[list[tuple[bytes, tuple[bytes, ...], tuple[Any, ...]]]]:
    """Batches of (entity key, values, their texts) in Feast's encoding, by hand."""
    names = _names(state.contract)
    frame = pl.read_parquet(_partition(state), columns=[state.contract.entity_key, *names])
    prefix = struct.pack("<III", 1, 2, len(state.contract.entity_key)) + state.contract.entity_key.encode()
    for batch in frame.iter_slices(BATCH):
        columns = [batch[name].to_list() for name in names]
        keys = [prefix + struct.pack("<II", 2, len(entity)) + entity.encode()
                for entity in batch[state.contract.entity_key].to_list()]
        values = [[_ENCODERS[batch[name].dtype](value) if value is not None else b"" for value in column]
                  for name, column in zip(names, columns, strict=True)]
        written = ([[None if value is None else str(value) for value in column] for column in columns]
                   if texts else values)
        yield list(zip(keys, zip(*values, strict=True), zip(*written, strict=True), strict=True))


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


_ENCODERS: Final[dict[Any, Callable[[Any], bytes]]] = {  # protobuf: the field's number and kind, then the value
    pl.String: lambda value: b"\x12" + _varint(len(value.encode())) + value.encode(),
    pl.Int64: lambda value: b"\x20" + _varint(value),
    pl.Float64: lambda value: b"\x29" + struct.pack("<d", value),
    pl.Boolean: lambda value: b"\x38\x01" if value else b"\x38\x00",
}


def same_files(ours: State, raw: State) -> bool:
    columns = "entity_key, feature_name, value, value_text, event_ts, created_ts"
    query = f'SELECT {columns} FROM "{_table(ours)}" ORDER BY entity_key, feature_name'
    rows = []
    for path in (str(ours.home.feast_online), _raw_file(raw.home)):
        with closing(sqlite3.connect(path)) as connection:
            rows.append(connection.execute(query).fetchall())
    return rows[0] == rows[1] != []


def same_hashes(_ours: State, _raw: State) -> bool:
    made, raw = redis.Redis(db=OURS), redis.Redis(db=RAW)
    keys = sorted(raw.scan_iter(count=1000))
    return keys == sorted(made.scan_iter(count=1000)) != [] and all(
        made.hgetall(key) == raw.hgetall(key) for key in keys)


def _names(contract: Contract) -> list[str]:
    return [column.name for column in contract.snapshot if column.role in ("numeric", "categorical", "eligible")]


def _partition(state: State) -> str:
    return str(snapshot_partition(state.home, state.contract.fingerprint, AS_OF))


def _table(state: State) -> str:
    return f"{state.home.feast_project}_{state.contract.view_name}"


def _raw_file(home: Home) -> str:
    return str(home.feast / "raw.db")


VARIANTS: Final = {
    "sqlite": Pair(partial(prepare, store="sqlite"), ours, executemany, same_files, unbucketed),
    "redis": Pair(partial(prepare, store="redis"), ours, pipelined_hset, same_hashes, unbucketed),
    # Not in the table: the two other ways to put a snapshot online.
    "sqlite_by_feast": Pair(partial(prepare, store="sqlite"), by_feast, by_frame),
    "redis_by_feast": Pair(partial(prepare, store="redis"), by_feast, by_frame),
}
