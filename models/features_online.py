"""Features of one entity from the online store: Feast in the process, configured by value, not by file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from models.contract import Contract
from models.errors import ReleaseError

PROJECT: Final = "churn"
_NUMBERS: Final = ("INT32", "INT64", "FLOAT", "DOUBLE", "BOOL")


@dataclass(frozen=True)
class OnlineRow:
    """What is known of one entity: features by name, whether it may be acted on, and as of when."""

    features: Mapping[str, float | str | None]
    eligible: bool
    as_of: datetime


ReadOnline = Callable[[str], OnlineRow | None]


def open_online(registry: str, online: Path, contract: Contract, *, service_name: str, view: str) -> ReadOnline:
    """Open the store and return the function that reads one entity; None for an unknown one.

    The registry is read once: a feature service is named by its contract's fingerprint and never
    changes, so a registry that is down or half-written cannot take a running release with it.

    Args:
        registry: SQLAlchemy URL of Feast's SQL registry.
        online: file of the SQLite online store.

    Raises:
        ReleaseError: the store cannot be opened, or the feature service has not just the fields the
            release needs.
    """
    from feast import FeatureStore, RepoConfig

    if not online.is_file():
        raise ReleaseError(f"cannot open the online store: {online} does not exist. Run the features stage")
    try:
        store = FeatureStore(
            config=RepoConfig(
                project=PROJECT,
                provider="local",
                registry={
                    "registry_type": "sql",
                    "path": registry,
                    "cache_ttl_seconds": 0,  # 0: never refreshed
                    "serve_features_while_materializing": True,
                },
                online_store={"type": "sqlite", "path": str(online)},
                # Never used here. Feast's default imports dask for it: 0.7 s and 20 MiB a process.
                offline_store={"type": "remote", "host": "unused"},
                entity_key_serialization_version=3,
            )
        )
        service = store.get_feature_service(service_name)
    except Exception as error:  # a dozen kinds, from SQLAlchemy to Feast
        raise ReleaseError(f"cannot open the feature service {service_name!r}: {type(error).__name__}. Run the "
                           "features stage, or name the right registry in CHURN_FEAST_REGISTRY") from error
    check_service(service, contract, view=view)

    def read(entity: str) -> OnlineRow | None:
        response = store.get_online_features(features=service, entity_rows=[{contract.entity_key: entity}])
        return online_row(response.to_dict(include_event_timestamps=True), contract)

    return read


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


def online_row(response: Mapping[str, list[Any]], contract: Contract) -> OnlineRow | None:
    """Pick features by name (their order in a response varies); None where nothing is known of the entity.

    Raises:
        ReleaseError: some features have a timestamp and some have none: half a row is no row.
    """
    stamps = {int(response[f"{name}__ts"][0]) for name in (*contract.feature_names, contract.eligible)}
    if stamps == {0}:  # SQLite says NOT_FOUND, Redis PRESENT with nulls; both give a timestamp of zero
        return None
    if 0 in stamps:
        raise ReleaseError("the online store has only some features of this entity. Materialize again")
    features: dict[str, float | str | None] = {}
    for feature in contract.features:
        value = response[feature.name][0]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            features[feature.name] = None
        else:
            features[feature.name] = float(value) if feature.role == "numeric" else str(value)
    return OnlineRow(
        features=features,
        eligible=response[contract.eligible][0] is True,
        as_of=datetime.fromtimestamp(min(stamps), UTC),
    )
