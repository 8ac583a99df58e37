"""Feast objects, all of them derived from a contract: one entity, one wide view, and a service a project.

Each contract has its own view and service, named by its fingerprint, so a champion and a canary with
different features read side by side.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Bool, Float64, Int64, String

from feature_repo.value import VALUE
from models.contract import Contract

_TYPES = {"string": String, "int64": Int64, "float64": Float64, "bool": Bool}


def feast_objects(contract: Contract, snapshots: str) -> list[Entity | FeatureView | FeatureService]:
    """The objects of one contract.

    Args:
        snapshots: the folder of this contract's snapshot partitions, or a glob of them.
    """
    entity = Entity(
        name=contract.entity_key, join_keys=[contract.entity_key], value_type=ValueType.STRING,
        description=next(column.description for column in contract.snapshot if column.role == "entity_key"),
    )
    source = FileSource(
        name=f"snapshots_{contract.fingerprint}", path=snapshots, file_format=ParquetFormat(),
        timestamp_field="event_timestamp", created_timestamp_column="created_timestamp",
    )
    columns = [column for column in contract.snapshot if column.role in ("numeric", "categorical", "eligible")]
    view = FeatureView(
        name=contract.view_name,
        entities=[entity],
        # A label row meets the snapshot of exactly its cut; an older one must not stand in for it.
        ttl=timedelta(hours=1),
        schema=[
            Field(name=column.name, dtype=_TYPES[column.dtype], description=column.description,
                  tags={"unit": column.unit, "role": column.role, "owner": column.owner})
            for column in columns
        ] + [Field(name=contract.entity_key, dtype=String)],
        source=source,
        online=True,
        description=f"one row per {contract.entity_key} and cut",
        owner="data engineer",
        tags={"fingerprint": contract.fingerprint},
    )
    service = FeatureService(
        name=contract.service_name, features=[view], description="everything a model of this contract reads",
        owner="data scientist", tags={"fingerprint": contract.fingerprint},
    )
    value_features = VALUE.features(contract)
    if not value_features:  # a domain without them has no such project
        return [entity, view, service]
    # Another project reads some features of the same view: they are computed, stored and put online once.
    value_service = FeatureService(
        name=VALUE.service_name(contract), features=[view[[contract.eligible, *value_features]]],
        description=VALUE.description, owner="data scientist", tags={"fingerprint": contract.fingerprint},
    )
    return [entity, view, service, value_service]


def _command_line_objects() -> dict[str, Any]:
    # Only for the `feast` command, which collects objects from module globals; flows call `feast_objects`. It
    # deletes what it does not find, so it must find every contract that ever took a snapshot, an older release's too.
    lake = os.environ.get("FEAST_SNAPSHOTS")
    objects: dict[str, Any] = {}
    for path in sorted(Path(lake).glob("*.json")) if lake else []:
        contract = Contract.from_json(path.read_text(encoding="utf-8"))
        objects |= {one.name: one for one in feast_objects(contract, str(path.with_suffix("")))}
    return objects


globals().update(_command_line_objects())
