"""Features of one entity from the online store: Feast in the process, configured by value, not by file.

A store is a SQLite file or a Redis server, a registry SQLite or PostgreSQL; where they are is said by URL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from models.contract import Contract
from models.errors import ConfigError, ReleaseError

PRIVATE_PROJECT: Final = "churn"  # Feast's project where both stores lie in the home and nobody else's can
_REDIS: Final = ("redis", "rediss")
_NUMBERS: Final = ("INT32", "INT64", "FLOAT", "DOUBLE", "BOOL")


@dataclass(frozen=True)
class OnlineRow:
    """What is known of one entity: features by name, whether it may be acted on, and as of when."""

    features: Mapping[str, float | str | None]
    eligible: bool
    as_of: datetime


ReadOnline = Callable[[str], OnlineRow | None]


def online_config(place: str, *, seconds: float) -> dict[str, Any]:
    """Feast's configuration of an online store.

    Args:
        place: `redis://[[user]:password@]host[:port][/db]` (`rediss` with TLS), else the file of a SQLite store.
        seconds: how long Redis may take to connect or to answer.

    Raises:
        ConfigError: no URL that can be used; its password is not shown.
    """
    return redis_config(place, seconds=seconds) if "://" in place else {"type": "sqlite", "path": place}


def redis_config(place: str, *, seconds: float) -> dict[str, Any]:
    """Feast's configuration of a Redis; see `online_config`.

    Raises:
        ConfigError: no URL of a Redis; its password is not shown.
    """
    try:
        url = urlsplit(place)
        port, database = url.port or 6379, int(url.path.strip("/") or 0)
    except ValueError:
        url = None
    if url is None or url.scheme not in _REDIS or not url.hostname or url.query:
        raise ConfigError(f"cannot use the online store {shown(place)}: not redis://host:port/db. Mend "
                          "CHURN_ONLINE_STORE, or leave it unset for SQLite in the home")
    options = {"db": database, "socket_timeout": seconds, "socket_connect_timeout": seconds,
               **({"ssl": True} if url.scheme == "rediss" else {}),
               **({"username": unquote(url.username)} if url.username else {}),
               **({"password": unquote(url.password)} if url.password else {})}
    # Feast splits at commas and reads values as JSON: as JSON without a comma, every password arrives as it is.
    written = [f"{name}={json.dumps(value)}".replace(",", "\\u002c") for name, value in options.items()]
    return {"type": "redis", "connection_string": ",".join([f"{url.hostname}:{port}", *written])}


def registry_path(place: str) -> str:
    """The registry's URL as SQLAlchemy wants it: `postgresql://` by psycopg, which Feast brings.

    Raises:
        ConfigError: neither PostgreSQL nor SQLite; its password is not shown.
    """
    scheme, _, rest = place.partition("://")
    # Without a database PostgreSQL takes the one that is named like the user.
    if scheme in ("postgresql", "postgres", "postgresql+psycopg") and rest.split("?")[0].partition("/")[2]:
        return f"postgresql+psycopg://{rest}"
    if scheme == "sqlite" and rest:
        return place
    raise ConfigError(f"cannot use the feature registry {shown(place)}: not postgresql://user@host:port/database. Mend "
                      "CHURN_FEATURE_REGISTRY, or leave it unset for SQLite in the home")


def shown(place: str) -> str:
    """A store's place without user and password, for messages."""
    scheme, separator, rest = place.partition("://")
    return f"{scheme}{separator}{rest.rsplit('@', 1)[-1].split('?', 1)[0]}"


def open_online(
    registry: str, online: str | Path, contract: Contract, *, service_name: str, view: str,
    project: str = PRIVATE_PROJECT,
) -> ReadOnline:
    """Open the store and return the function that reads one entity; None for an unknown one.

    Read by `OnlineStore.online_read`, the method every store of Feast has to have: for one entity and thirty features
    a quarter of the CPU of `FeatureStore.get_online_features`, which builds a response of columns around it.

    The registry is read once: a feature service is named by its contract's fingerprint and never
    changes, so a registry that is down or half-written cannot take a running release with it.

    Args:
        registry: SQLAlchemy URL of Feast's SQL registry.
        online: file of the SQLite online store, or the URL of a Redis.
        project: Feast's project: keeps charters apart that share a Redis or a registry.

    Raises:
        ReleaseError: the store cannot be opened, or the feature service has not just the fields the
            release needs.
    """
    from feast import FeatureStore, RepoConfig
    from feast.infra.online_stores.helpers import get_online_store_from_config
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    configured = online_config(str(online), seconds=2)
    if configured["type"] == "sqlite" and not Path(online).is_file():
        raise ReleaseError(f"cannot open the online store: {online} does not exist. Run the features stage")
    try:
        store = FeatureStore(
            config=RepoConfig(
                project=project,
                provider="local",
                registry={
                    "registry_type": "sql",
                    "path": registry_path(registry),
                    "cache_ttl_seconds": 0,  # 0: never refreshed
                    "serve_features_while_materializing": True,
                },
                online_store=configured,
                # Never used here. Feast's default imports dask for it: 0.7 s and 20 MiB a process.
                offline_store={"type": "remote", "host": "unused"},
                entity_key_serialization_version=3,
            )
        )
        service = store.get_feature_service(service_name)
        check_service(service, contract, view=view)
        table = store.get_feature_view(view)
        reader = get_online_store_from_config(store.config.online_store)
    except ReleaseError:
        raise
    except Exception as error:  # a dozen kinds, from SQLAlchemy to Feast; its text may hold credentials
        raise ReleaseError(f"cannot open the feature service {service_name!r}: {type(error).__name__}. Run the "
                           "features stage, or name the right registry in CHURN_FEATURE_REGISTRY") from error
    wanted = [*contract.feature_names, contract.eligible]

    def read(entity: str) -> OnlineRow | None:
        key = EntityKey(join_keys=[contract.entity_key], entity_values=[Value(string_val=entity)])
        ((as_of, values),) = reader.online_read(store.config, table, [key], list(wanted))
        return online_row(as_of, values, contract)

    return read


def import_feast(online: str) -> None:
    """Import what `open_online` needs of Feast: seconds, which workers that are forked afterwards need not spend."""
    store = online_config(online, seconds=2)["type"]
    for name in ("feature_store", "infra.offline_stores.remote", "infra.registry.sql", f"infra.online_stores.{store}"):
        import_module(f"feast.{name}")


def check_service(service: Any, contract: Contract, *, view: str) -> None:
    """Compare a Feast feature service with the contract, by view, name and kind of type.

    Raises:
        ReleaseError: a view or field too many or too few, or a number that is a string (`apply` takes a
            changed type without a word).
    """
    views = [projection.name for projection in service.feature_view_projections]
    if views != [view]:
        raise ReleaseError(f"the feature service {service.name!r} reads {views}, the release needs {view!r}. Run the "
                           "features stage")
    seen = {
        field.name: field.dtype.to_value_type().name
        for projection in service.feature_view_projections
        for field in projection.features
    }
    wanted = {**dict.fromkeys(contract.numeric, _NUMBERS), **dict.fromkeys(contract.categorical, ("STRING",)),
              contract.eligible: ("BOOL",)}
    for name in wanted.keys() ^ seen.keys():
        where = "has a field more than" if name in seen else "lacks a field of"
        raise ReleaseError(f"the feature service {service.name!r} {where} the release: {name!r}. Run the features "
                           "stage, or package the release again")
    for name, kinds in wanted.items():
        if seen[name] not in kinds:
            raise ReleaseError(f"{name!r} is {seen[name]} in the feature service {service.name!r}, the release needs "
                               f"{' or '.join(kinds)}. Package the release again")


def online_row(as_of: datetime | None, values: Mapping[str, Any] | None, contract: Contract) -> OnlineRow | None:
    """What Feast's `online_read` found of an entity, in our terms; None where nothing is known of it.

    Args:
        as_of: when it was true, UTC; Redis says the epoch where SQLite says None.
        values: Feast's value of each feature, by name.

    Raises:
        ReleaseError: a feature is not there: half a row is no row.
    """
    if as_of is None or values is None or not as_of.timestamp():
        return None
    features: dict[str, float | str | None] = {}
    try:
        for feature in contract.features:
            value = _value(values[feature.name])
            features[feature.name] = None if value is None else (
                float(value) if feature.role == "numeric" else str(value))
        eligible = _value(values[contract.eligible]) is True
    except KeyError:
        raise ReleaseError("the online store has only some features of this entity. Materialize again") from None
    return OnlineRow(features=features, eligible=eligible, as_of=as_of.astimezone(UTC))


def _value(value: Any) -> float | str | bool | None:
    """The one value Feast's message holds; None where it holds none, or NaN."""
    kind = value.WhichOneof("val")
    found: float | str | bool | None = None if kind in (None, "null_val") else getattr(value, kind)
    return None if found != found else found
