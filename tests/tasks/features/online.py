"""What tests do to an online store behind Feast's back, and how they read it as a release does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from models.serving.features_online import OnlineRow, open_online
from tasks.home import Home
from tests.tasks.conftest import Shop


def read(shop: Shop, entity: str, home: Home | None = None) -> OnlineRow | None:
    """One customer, read as a release does."""
    home, contract = home or shop.home, shop.contract
    return open_online(home.feast_registry, home.feast_online_place, contract, project=home.feast_project,
                       service_name=contract.service_name, view=contract.view_name)(entity)


def spoil(shop: Shop, entity: str, feature: str, **value: Any) -> None:
    """Put another value into the store: `int64_val=7`."""
    from feast.infra.online_stores.helpers import _mmh3
    from feast.protos.feast.types.Value_pb2 import Value

    written = Value(**value).SerializeToString()
    if shop.home.online_store:
        field = _mmh3(f"{shop.contract.view_name}:{feature}")
        changed = 1 - _redis(shop).hset(_key(shop, entity), field, written)  # 0: the field was there
    else:
        changed = _sqlite(shop, "SET value = ? WHERE entity_key = ? AND feature_name = ?",
                          written, _key(shop, entity), feature)
    assert changed == 1


def remove(shop: Shop, entity: str) -> None:
    """Take a customer out of the store."""
    if shop.home.online_store:
        assert _redis(shop).delete(_key(shop, entity)) == 1
    else:
        with closing(sqlite3.connect(shop.home.feast_online)) as online, online:
            assert online.execute(f'DELETE FROM "{_table(shop)}" WHERE entity_key = ?', (_key(shop, entity),)).rowcount


def _sqlite(shop: Shop, change: str, *values: Any) -> int:
    with closing(sqlite3.connect(shop.home.feast_online)) as online, online:
        return online.execute(f'UPDATE "{_table(shop)}" {change}', values).rowcount


def _redis(shop: Shop) -> Any:
    import redis

    return redis.Redis.from_url(shop.home.online_store)


def _table(shop: Shop) -> str:
    return f"{shop.home.feast_project}_{shop.contract.view_name}"


def _key(shop: Shop, entity: str) -> bytes:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=[shop.contract.entity_key], entity_values=[Value(string_val=entity)])
    project = shop.home.feast_project.encode() if shop.home.online_store else b""
    return bytes(serialize_entity_key(key, entity_key_serialization_version=3)) + project
