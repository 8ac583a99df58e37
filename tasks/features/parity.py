"""Parity stage. Reads the online store and the snapshots of a sample of entities; says where they differ.

What a model is served must be what it was trained on. The online vector is read as a release reads it, the
offline row as training does (Feast's point-in-time join), and they are compared value by value, by type too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl

from models.contract import Contract
from models.errors import DataError
from tasks.data.lake import snapshot_folder, snapshot_partition, undamaged
from tasks.features.apply import features_as_known, open_store, quiet, reachable
from tasks.home import Home

SAMPLE: Final = 200  # a fault in 1.5 % of the rows is missed once in twenty times; costs half a second


@dataclass(frozen=True)
class Parity:
    """How much was compared, all of it equal."""

    entities: int
    values: int


def check_parity(contract: Contract, home: Home, cut: datetime, *, sample: int = SAMPLE) -> Parity:
    """Compare a random sample (seeded by the cut) of a snapshot's entities online with their offline rows.

    Raises:
        DataError: a value, type or event timestamp differs, an entity is missing online, or there is nothing to
            compare; names the first entity and feature.
        PlatformError: the registry or the online store cannot be reached.
    """
    key, path = contract.entity_key, snapshot_partition(home, contract.fingerprint, cut)
    with undamaged(path):
        known = pl.read_parquet(path, columns=[key])[key] if path.exists() else pl.Series()
    if known.is_empty() or sample < 1:
        raise DataError(f"cannot compare online features as of {cut:%Y-%m-%d}: there is nothing to compare, the "
                        f"snapshot has {len(known)} rows. Run the features flow first")
    entities = known.sample(min(sample, len(known)), seed=int(cut.timestamp())).sort().to_list()
    online = _read_online(entities, contract, home)
    moments = _snapshot_moments(online, entities, contract, home, cut)
    offline = features_as_known(
        pl.DataFrame({contract.entity_key: entities, "event_timestamp": moments},
                     schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")}), contract, home)
    differences = [
        f"{contract.entity_key} {entity!r} has {name} = {_told(online[name][row])} online, "
        f"{_told(offline[name][row])} offline"
        for row, entity in enumerate(entities) for name in (contract.eligible, *contract.feature_names)
        if not _equal(online[name][row], offline[name][row])
    ]
    values = len(entities) * (1 + len(contract.feature_names))
    if differences:
        raise DataError(f"cannot trust the online store as of {cut:%Y-%m-%d}: {differences[0]} ({len(differences):,} "
                        f"of {values:,} values differ, {len(entities):,} rows compared). Run the features flow again")
    return Parity(len(entities), values)


def _read_online(entities: Sequence[str], contract: Contract, home: Home) -> Mapping[str, Sequence[Any]]:
    with quiet(), reachable(home):
        store = open_store(home)
        answer: dict[str, list[Any]] = store.get_online_features(
            features=store.get_feature_service(contract.service_name),
            entity_rows=[{contract.entity_key: entity} for entity in entities],
        ).to_dict(include_event_timestamps=True)
    return answer


def _snapshot_moments(
    online: Mapping[str, Sequence[Any]], entities: Sequence[str], contract: Contract, home: Home, cut: datetime
) -> list[datetime]:
    """The snapshot each online row says it is of: that of the cut, or a newer one that was put online before."""
    names = (contract.eligible, *contract.feature_names)
    moments, taken = [], {_seconds(cut): cut}
    for row, entity in enumerate(entities):
        stamps = {name: int(online[f"{name}__ts"][row]) for name in names}
        name, stamp = min(stamps.items(), key=lambda item: item[1])
        if stamp != max(stamps.values()) or stamp < _seconds(cut):
            raise DataError(f"cannot trust the online store as of {cut:%Y-%m-%d}: {contract.entity_key} {entity!r} has "
                            f"{name} as of {_day(stamp)} online, as of {cut:%Y-%m-%d} offline. Run the features flow "
                            "again")
        if stamp not in taken:
            taken |= _taken(contract, home)
        if stamp not in taken:
            raise DataError(f"cannot trust the online store as of {cut:%Y-%m-%d}: {contract.entity_key} {entity!r} is "
                            f"of {_day(stamp)}, of which there is no snapshot. Run the features flow again")
        moments.append(taken[stamp])
    return moments


def _taken(contract: Contract, home: Home) -> dict[int, datetime]:
    """The cuts that have a snapshot, by their second: an online store keeps no more."""
    cuts = []
    for path in snapshot_folder(home, contract.fingerprint).glob("*.parquet"):
        with undamaged(path):
            cuts.append(pl.scan_parquet(path).select("event_timestamp").head(1).collect().item())
    return {_seconds(cut): cut for cut in cuts}


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _day(stamp: int) -> str:
    return f"{datetime.fromtimestamp(stamp, UTC):%Y-%m-%d %H:%M}" if stamp else "never (it is missing)"


def _equal(online: Any, offline: Any) -> bool:
    return type(online) is type(offline) and bool(online == offline)


def _told(value: Any) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"
