"""Ingest stage. Reads the sources up to `as_of`; writes raw and quarantine partitions, then one transaction.

A load is all or nothing: the files first; then, in one transaction of our state, the manifest, the
scorecard, how far each source was read, and the row of `loads`. A process killed before that leaves
nothing a reader sees and every watermark where it was, and a rerun writes the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract, Table
from models.errors import DataError
from models.gates.quality import Scorecard
from tasks.data.batch import Batch, Counts, sort_out
from tasks.data.delivery import WATERMARK, Delivery
from tasks.home import Home
from tasks.data.keys import refuse_older_format, refuse_other_keys
from tasks.data.lake import quarantine_partition, raw_partition
from tasks.locks import hold
from tasks.data.manifest import (
    Partition,
    check_lake,
    committed_files,
    committed_partitions,
    dataset_version,
    record_partitions,
    sweep_leftovers,
    write_raw,
)
from tasks.data.quality import Arrived, judge_batch, record_scorecard
from tasks.data.source_database import read_database, record_watermark
from tasks.data.source_files import read_files, record_files
from tasks.data.source_types import record_types, refuse_other_types
from tasks.data.sources import FILE, Sources, TableSource
from tasks.state import last_load, now
from tasks.tables import LOADS
from tasks.data.validate import known_entities


@dataclass(frozen=True)
class Load:
    """A committed load."""

    as_of: datetime
    counts: Mapping[str, Counts]
    dataset_version: str

    @property
    def total(self) -> Counts:
        return Counts(*(sum(getattr(count, one.name) for count in self.counts.values()) for one in fields(Counts)))


def committed_loads(engine: sa.Engine) -> list[Load]:
    """Every committed load, oldest first."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(LOADS).order_by(LOADS.c.as_of)).mappings().all()
    return [
        Load(datetime.fromisoformat(row["as_of"]),
             {table: Counts(**counts) for table, counts in json.loads(row["counts"]).items()},
             row["dataset_version"])
        for row in rows
    ]


def ingest_sources(
    sources: Sources,
    contract: Contract,
    schemas: Mapping[str, Any],
    *,
    charter: Charter,
    home: Home,
    engine: sa.Engine,
    root: Path,
    as_of: datetime,
) -> Load:
    """Load what arrived by `as_of` and is not in the lake yet; the same `as_of` again changes nothing.

    Args:
        contract: the effective contract: its tables are those the sources have.
        schemas: table -> Pandera model.
        root: where relative source paths start.

    Raises:
        DataError: a file of the lake is not as it was committed, `as_of` before the last load or the first event, a
            source that cannot be read, or more bad rows than the charter allows: then nothing is written.
    """
    with hold(home, "lake"):
        check_lake(home, engine)
        return _ingest(sources, contract, schemas, charter=charter, home=home, engine=engine, root=root, as_of=as_of)


def _ingest(
    sources: Sources, contract: Contract, schemas: Mapping[str, Any], *, charter: Charter, home: Home,
    engine: sa.Engine, root: Path, as_of: datetime,
) -> Load:
    previous = last_load(engine)
    if previous is not None and as_of < previous:
        raise DataError(f"cannot ingest as of {as_of:%Y-%m-%d}: the last load is of {previous:%Y-%m-%d}, and the past "
                        "is not rewritten. Use a later AS_OF, or another CHURN_HOME")
    refuse_older_format(home, engine)
    sweep_leftovers(home, engine)
    done = {load.as_of: load for load in committed_loads(engine)}
    if as_of in done:
        return done[as_of]
    batches: dict[str, Batch] = {}
    entities: dict[str, pl.DataFrame] = {}
    for table in sorted(contract.present, key=lambda table: any(column.references for column in table.columns)):
        source = sources.tables[table.name]
        refuse_other_keys(table, set(source.columns), engine)
        batches[table.name] = sort_out(
            read_source(table, source, root=root, engine=engine, as_of=as_of), table, schemas[table.name], home=home,
            engine=engine, known=entities, charter=charter, as_of=as_of, previous=previous, mapped=set(source.columns),
        )
        if any(column.references == table.name for one in contract.tables for column in one.columns):
            entities[table.name] = known_entities(contract, table.name, [
                batches[table.name].kept.lazy(), *map(pl.scan_parquet, committed_files(home, engine, table.name))
            ])
    arrived = {name: Arrived(batch.kept, batch.faults, batch.measures) for name, batch in batches.items()}
    card = judge_batch(arrived, contract, charter=charter, home=home, engine=engine, as_of=as_of)
    partitions = []
    for name, batch in batches.items():
        partitions += [
            write_raw(home, batch.kept, raw_partition(home, name, as_of), table=name, kind="raw", as_of=as_of),
            write_raw(home, batch.quarantined, quarantine_partition(home, name, as_of), table=name,
                      kind="quarantine", as_of=as_of),
        ]
    return _commit(engine, as_of, sources, batches, partitions, card)


def read_source(table: Table, source: TableSource, *, root: Path, engine: sa.Engine, as_of: datetime) -> Delivery:
    """What a source has that may be new."""
    if source.database is not None:
        delivery = read_database(table, source, engine=engine, as_of=as_of)
    else:
        delivery = read_files(table, source, root=root, engine=engine)
    refuse_other_types(engine, table.name, source, delivery)
    return delivery


def _commit(
    engine: sa.Engine, as_of: datetime, sources: Sources, batches: Mapping[str, Batch], partitions: list[Partition],
    card: Scorecard,
) -> Load:
    counts = {name: batch.counts for name, batch in batches.items()}
    with engine.begin() as connection:
        record_partitions(connection, partitions)
        record_scorecard(connection, card)
        for name, batch in batches.items():
            record_types(connection, name, sources.tables[name], batch.delivery)
            if batch.delivery.window is None:
                record_files(connection, name, sources.tables[name], batch.delivery, as_of=as_of,
                             waiting=set(batch.waiting[FILE].unique()))
            else:
                lowest: datetime | None = batch.waiting[WATERMARK].min()  # type: ignore[assignment]  # a moment column
                record_watermark(connection, name, sources.tables[name], batch.delivery, as_of=as_of, waiting=lowest)
        load = Load(as_of, counts, dataset_version(committed_partitions(connection)))
        connection.execute(LOADS.insert().values(
            as_of=as_of.isoformat(), at=now(), dataset_version=load.dataset_version,
            counts=json.dumps({name: asdict(count) for name, count in counts.items()}),
        ))
    return load
