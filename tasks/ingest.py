"""Ingest stage. Reads the sources up to `as_of`; writes raw and quarantine partitions and one row of `loads`.

A load is all or nothing: partitions first, the row in our state last. Readers follow that row, so a
process killed in between leaves nothing a reader sees, and a rerun writes the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract, Table
from models.errors import DataError
from tasks.home import Home
from tasks.lake import dataset_version, quarantine_partition, raw_partition, write_partition
from tasks.sources import FILE, LINE, MOMENT, Sources, parse_text, read_table
from tasks.state import LOADS, last_load, now
from tasks.validate import event_column, find_faults, key_columns

CREATED, KEY, CONTENT = "created_timestamp", "_key", "_content"


@dataclass(frozen=True)
class Counts:
    """Rows of one table in one load; `rows_in` is always the sum of the other three."""

    rows_in: int
    kept: int
    quarantined: int
    redelivered: int


@dataclass(frozen=True)
class Load:
    """A committed load."""

    as_of: datetime
    counts: Mapping[str, Counts]
    dataset_version: str

    @property
    def total(self) -> Counts:
        return Counts(*(sum(getattr(count, name) for count in self.counts.values())
                        for name in ("rows_in", "kept", "quarantined", "redelivered")))


@dataclass(frozen=True)
class _Batch:
    """One table's rows of a load, sorted out."""

    kept: pl.DataFrame
    quarantined: pl.DataFrame
    counts: Counts


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
        DataError: `as_of` before the last load or the first event, a source that cannot be read, or more
            bad rows than the charter allows: then nothing is written.
    """
    previous = last_load(engine)
    if previous is not None and as_of < previous:
        raise DataError(f"cannot ingest as of {as_of:%Y-%m-%d}: the last load is of {previous:%Y-%m-%d}, and the past "
                        "is not rewritten. Use a later AS_OF, or another CHURN_HOME")
    done = {load.as_of: load for load in committed_loads(engine)}
    if as_of in done:
        return done[as_of]
    batches: dict[str, _Batch] = {}
    entities: dict[str, pl.Series] = {}
    for table in sorted(contract.present, key=lambda table: any(column.references for column in table.columns)):
        text = read_table(table, sources.tables[table.name], root=root)
        earlier = read_earlier(home, engine, table.name)
        batches[table.name] = _sort_out(
            text, table, schemas[table.name], earlier=earlier, known=entities, charter=charter, as_of=as_of,
            previous=previous, mapped=set(sources.tables[table.name].columns),
        )
        entities[table.name] = pl.concat([
            _entities(batches[table.name].kept, contract), _entities(earlier, contract)
        ])
    _refuse_old(contract, batches, home, engine, charter, as_of)
    for name, batch in batches.items():
        write_partition(batch.kept, raw_partition(home, name, as_of))
        write_partition(batch.quarantined, quarantine_partition(home, name, as_of))
    return _commit(engine, home, as_of, {name: batch.counts for name, batch in batches.items()})


def _commit(engine: sa.Engine, home: Home, as_of: datetime, counts: Mapping[str, Counts]) -> Load:
    partitions = [raw_partition(home, name, load.as_of) for load in committed_loads(engine) for name in load.counts]
    partitions += [raw_partition(home, name, as_of) for name in counts]
    load = Load(as_of, counts, dataset_version(partitions))
    with engine.begin() as connection:
        connection.execute(LOADS.insert().values(
            as_of=as_of.isoformat(), at=now(), dataset_version=load.dataset_version,
            counts=json.dumps({name: asdict(count) for name, count in counts.items()}),
        ))
    return load


def read_earlier(home: Home, engine: sa.Engine, table: str) -> pl.DataFrame:
    """Keys and contents of every row of earlier loads, kept or quarantined."""
    frames = [pl.DataFrame(schema={KEY: pl.String, CONTENT: pl.String})]
    for load in committed_loads(engine):
        if table in load.counts:
            kept = pl.read_parquet(raw_partition(home, table, load.as_of))
            frames.append(kept.select(pl.all().exclude(FILE, LINE)))
            frames.append(pl.read_parquet(quarantine_partition(home, table, load.as_of)).select(KEY, CONTENT))
    return pl.concat(frames, how="diagonal")


def _entities(rows: pl.DataFrame, contract: Contract) -> pl.Series:
    if contract.entity_key not in rows.columns:
        return pl.Series(contract.entity_key, [], dtype=pl.String)
    return rows[contract.entity_key].drop_nulls().unique()


def _sort_out(
    text: pl.DataFrame,
    table: Table,
    schema: Any,
    *,
    earlier: pl.DataFrame,
    known: dict[str, pl.Series],
    charter: Charter,
    as_of: datetime,
    previous: datetime | None,
    mapped: set[str],
) -> _Batch:
    typed, unparsed = parse_text(text, table)
    rows = _with_keys(_with_arrival(typed, table, charter), table, mapped).with_row_index("row")
    # What has not arrived yet is no part of this load; a row without a readable time counts with its file.
    begun = rows.group_by(FILE).agg((pl.col(CREATED).min() <= as_of).fill_null(True).alias("begun"))
    here = rows.join(begun, on=FILE).filter(pl.col("begun") & (pl.col(CREATED).is_null() | (pl.col(CREATED) <= as_of)))
    if here.is_empty() and previous is None:
        first = rows.select(pl.col(CREATED).min().dt.to_string("%Y-%m-%d")).item()
        raise DataError(f"cannot ingest {table.name} as of {as_of:%Y-%m-%d}: its first row arrived {first}. Use that "
                        "AS_OF or a later one")
    fresh = here.join(earlier, on=[KEY, CONTENT], how="anti").unique([KEY, CONTENT], keep="first", maintain_order=True)
    fresh = fresh.sort("row")
    positions = fresh["row"]
    faults = find_faults(
        typed[positions], _reindexed(unparsed, positions), table, schema, known_entities=known
    )
    reasons = faults.group_by("row").agg(
        pl.col("reason").sort().str.join("; "), pl.col("dimension").unique().sort().str.join(", ").alias("dimensions")
    )
    marked = fresh.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("row")).join(reasons, on="row", how="left")
    bad = marked.filter(pl.col("reason").is_not_null())
    _refuse_bulk(table, len(bad), len(marked), faults, charter)
    kept = marked.filter(pl.col("reason").is_null()).select(
        *[column.name for column in table.columns], _created(previous), KEY, CONTENT, FILE, LINE
    )
    originals = text[positions][bad["row"]].select(*[name for name in text.columns if name not in (FILE, LINE)])
    quarantined = pl.concat([
        originals, bad.select("reason", "dimensions", FILE, LINE, KEY, CONTENT)
    ], how="horizontal")
    counts = Counts(len(here), len(kept), len(bad), len(here) - len(fresh))
    if counts.rows_in != counts.kept + counts.quarantined + counts.redelivered:
        raise DataError(f"cannot account for every row of {table.name}: {counts}")
    return _Batch(kept.sort(event_column(table).name, KEY), quarantined, counts)


def _created(previous: datetime | None) -> pl.Expr:
    # A row that shows up after a load we committed was not known then, whatever its arrival time says.
    if previous is None:
        return pl.col(CREATED)
    return pl.max_horizontal(CREATED, pl.lit(previous + timedelta(microseconds=1), dtype=MOMENT)).alias(CREATED)


def _with_arrival(typed: pl.DataFrame, table: Table, charter: Charter) -> pl.DataFrame:
    event, arrival = event_column(table), table.column("arrival_time")
    assumed = pl.col(event.name) + pl.duration(days=charter.problem.assumed_delay_days)
    unmapped = arrival is None or typed[arrival.name].null_count() == len(typed)
    created = assumed if unmapped or arrival is None else pl.coalesce(pl.col(arrival.name), assumed)
    return typed.with_columns(created.cast(MOMENT).alias(CREATED))


def _with_keys(typed: pl.DataFrame, table: Table, mapped: set[str]) -> pl.DataFrame:
    """`_content`: hash of the row; `_key`: hash of its declared key, else content and occurrence in its file."""
    names = sorted(column.name for column in table.columns if column.name in mapped)
    content = pl.concat_str([pl.col(name).cast(pl.String).fill_null("\x00") for name in names], separator="\x1f")
    keys = key_columns(table, mapped)
    hashed = typed.with_columns(_digest(content).alias(CONTENT))
    occurrence = pl.int_range(pl.len()).over(FILE, CONTENT).cast(pl.String)
    by_content = pl.concat_str([pl.col(CONTENT), occurrence], separator="#")
    if not keys:
        return hashed.with_columns(by_content.alias(KEY))
    declared = pl.concat_str([pl.col(key).cast(pl.String) for key in keys], separator="\x1f")
    return hashed.with_columns(pl.coalesce(declared, by_content).alias(KEY))


def _digest(text: pl.Expr) -> pl.Expr:
    import hashlib

    return text.map_batches(
        lambda column: pl.Series([hashlib.blake2b(value.encode(), digest_size=12).hexdigest() for value in column]),
        return_dtype=pl.String,
    )


def _reindexed(unparsed: pl.DataFrame, positions: pl.Series) -> pl.DataFrame:
    index = pl.DataFrame({"old": positions.cast(pl.Int64)}).with_row_index("new")
    joined = unparsed.join(index, left_on="row", right_on="old")
    return joined.select(pl.col("new").cast(pl.Int64).alias("row"), "reason")


def _refuse_bulk(table: Table, bad: int, rows: int, faults: pl.DataFrame, charter: Charter) -> None:
    limit = charter.requirements.max_bad_share
    if rows and bad / rows > limit:
        common = faults.group_by("reason").len().sort("len", "reason", descending=[True, False]).row(0)
        raise DataError(f"cannot accept {table.name}: {bad:,} of {rows:,} new rows are bad ({bad / rows:.1%}), at most "
                        f"{limit:.1%}; most often: {common[0]} ({common[1]:,}). Mend the source; nothing was written")


def _refuse_old(
    contract: Contract, batches: Mapping[str, _Batch], home: Home, engine: sa.Engine, charter: Charter, as_of: datetime
) -> None:
    """A feed that has stopped looks like customers who have left: refuse it, table by table that every source has."""
    limit = timedelta(days=charter.requirements.max_data_age_days)
    for table in contract.present:
        if table.optional:
            continue
        event = event_column(table).name
        frames = [batches[table.name].kept.lazy(), *(
            pl.scan_parquet(raw_partition(home, table.name, load.as_of)) for load in committed_loads(engine)
            if table.name in load.counts
        )]
        newest = max((moment for frame in frames for moment in [frame.select(pl.col(event).max()).collect().item()]
                      if moment is not None), default=None)
        if newest is None or as_of - newest > limit:
            seen = "it has no rows" if newest is None else f"its newest event is of {newest:%Y-%m-%d}"
            raise DataError(f"cannot ingest {table.name} as of {as_of:%Y-%m-%d}: {seen}, at most {limit.days} days old "
                            "may it be (max_data_age_days). Mend the feed or use an earlier AS_OF; nothing was written")


