"""Re-drive. Reads the quarantine; writes raw partitions of what passes now, and the quarantine without it.

For when the rule, the mapping or a table that rows refer to is mended, or the source has delivered a row
again. One transaction lists the new files and strikes the old ones: killed before it, nothing has happened.
What passes was not known at the last load, so it shows from the next `as_of` on, and the past stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract, Table
from models.errors import DataError
from tasks.data.batch import created_after, reindexed, with_arrival
from tasks.data.delivery import TOO_WIDE
from tasks.home import Home
from tasks.data.keys import (
    CONTENT,
    EARLIER,
    KEY,
    LOAD,
    VERSION,
    drop_known,
    find_earlier,
    refuse_older_format,
    refuse_other_keys,
    with_keys,
    with_versions,
)
from tasks.data.lake import raw_partition
from tasks.locks import hold
from tasks.data.manifest import (
    Partition,
    check_lake,
    committed_files,
    committed_partitions,
    dataset_version,
    record_partitions,
    write_raw,
)
from tasks.data.quarantine import (
    DIMENSIONS,
    PART,
    REASON,
    REDELIVERED,
    explained,
    read_quarantine,
    waiting_partitions,
    without_text,
)
from tasks.data.sources import FILE, LINE, Sources, TableSource, parse_text
from tasks.state import last_load
from tasks.data.validate import event_column, find_faults, key_columns, known_entities, repeated_key


@dataclass(frozen=True)
class TableRedrive:
    """What became of one table's quarantine; `waiting` is always the sum of the other three."""

    waiting: int
    passed: int
    bad: int
    redelivered: int  # their key has arrived since, or they stand in the lake already
    reasons: tuple[tuple[str, int], ...]  # of what is still bad, the commonest first


@dataclass(frozen=True)
class Redrive:
    """One run of the quarantine through the checks."""

    as_of: datetime  # of the last load: what passes is known after it
    tables: Mapping[str, TableRedrive]
    dataset_version: str
    dry_run: bool

    @property
    def line(self) -> str:
        """All tables in one sentence."""
        waiting, passed, bad, again = (sum(getattr(one, name) for one in self.tables.values())
                                       for name in ("waiting", "passed", "bad", "redelivered"))
        verb = "would re-drive" if self.dry_run else "re-drove"
        return (f"{verb} {waiting:,} quarantined rows = {passed:,} passed + {bad:,} still bad + {again:,} "
                "re-delivered")


@dataclass(frozen=True)
class _Sorted:
    passed: pl.DataFrame
    bad: pl.DataFrame  # text, with reasons, and the partition each row is of
    superseded: pl.DataFrame  # the same of those whose key has arrived since with another content
    result: TableRedrive


def redrive_quarantine(
    sources: Sources, contract: Contract, schemas: Mapping[str, Any], *, charter: Charter, home: Home,
    engine: sa.Engine, dry_run: bool = False,
) -> Redrive:
    """Put every quarantined row through today's parser and checks again.

    Args:
        contract: the effective contract.
        schemas: table -> Pandera model.
        dry_run: only say what would happen.

    Raises:
        DataError: nothing was loaded yet, a file of the lake is not as it was committed, or rows do not add up: then
            nothing changes.
    """
    with hold(home, "lake"):
        check_lake(home, engine)
        last = last_load(engine)
        if last is None:
            raise DataError("cannot re-drive the quarantine: nothing was loaded yet. Run `make run` first")
        refuse_older_format(home, engine)
        swaps: list[tuple[list[Partition], list[Partition]]] = []
        results: dict[str, TableRedrive] = {}
        known: dict[str, pl.DataFrame] = {}
        for table in sorted(contract.present, key=lambda table: any(column.references for column in table.columns)):
            refuse_other_keys(table, set(sources.tables[table.name].columns), engine)
            partitions = waiting_partitions(home, engine, table.name)
            rows = _sort_out(
                read_quarantine(home, partitions, table.name), table, schemas[table.name], home=home, engine=engine,
                known=known, charter=charter, source=sources.tables[table.name], last=last,
            )
            if any(column.references == table.name for one in contract.tables for column in one.columns):
                known[table.name] = known_entities(contract, table.name, [
                    rows.passed.lazy(), *map(pl.scan_parquet, committed_files(home, engine, table.name))
                ])
            results[table.name] = rows.result
            if not dry_run:
                swaps.append(_write(rows, partitions, table.name, home, last))
        version = _commit(engine, swaps)
        if not dry_run:
            _drop_struck(home, [struck for _, remove in swaps for struck in remove])
    return Redrive(last, results, version, dry_run)


def _sort_out(
    waiting: pl.DataFrame, table: Table, schema: Any, *, home: Home, engine: sa.Engine,
    known: Mapping[str, pl.DataFrame], charter: Charter, source: TableSource, last: datetime,
) -> _Sorted:
    mapped = set(source.columns)
    text = waiting.select(*[name for name in waiting.columns if name in mapped], FILE, LINE)
    typed, unparsed = parse_text(text, table)
    # A line with more cells than the header, or fewer: whatever the rest of it looks like, it is not what was meant.
    cut = waiting.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
                         pl.col(REASON).str.extract(TOO_WIDE).alias("reason")).drop_nulls()
    unparsed = pl.concat([unparsed, cut])
    rows = with_keys(with_arrival(typed, table, charter), table, mapped).with_columns(
        waiting.select(LOAD, PART, pl.col(KEY).alias("_old_key"), pl.col(CONTENT).alias("_old_content"))
    ).with_row_index("row")
    # Read as before, a row keeps its key: its occurrence may be counted among rows that have left the quarantine,
    # and where a database declares no key it holds the watermark, which is not kept.
    named = [pl.col(name).is_not_null() for name in key_columns(table, mapped)]
    declared = pl.all_horizontal(named) if named else pl.lit(False)
    as_before = (pl.col(CONTENT) == pl.col("_old_content")) | (pl.lit(source.database is not None) & ~declared)
    rows = rows.with_columns(pl.when(as_before).then("_old_key").otherwise(KEY).alias(KEY)).drop(
        "_old_key", "_old_content")
    lake = _lake_rows(rows, home, engine, table.name)
    later = rows.join(lake.select(KEY, LOAD), on=KEY).filter(pl.col(f"{LOAD}_right") > pl.col(LOAD))["row"]
    replaced = pl.col("row").is_in(later.implode())
    fresh = drop_known(rows.filter(~replaced), lake)
    positions = fresh["row"]
    # A file of one name in two loads is two files: in the later one, the same key is a correction.
    judged = typed[positions].with_columns(pl.format("{}@{}", FILE, fresh[LOAD]).alias(FILE))
    faults = find_faults(judged, reindexed(unparsed, positions), table, schema, known=known)
    # The other row of its key was good, and so is not in the quarantine: it must not look unique here.
    same_file = fresh.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("row")).join(
        lake.select(KEY, LOAD, FILE), on=[KEY, LOAD, FILE], how="semi"
    ).filter(~pl.col("row").is_in(faults["row"].implode()))
    faults = pl.concat([faults, repeated_key(same_file, table, mapped)])
    marked = fresh.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("at")).join(
        explained(faults), left_on="at", right_on="row", how="left", maintain_order="left"
    )
    good, bad = marked.filter(pl.col(REASON).is_null()), marked.filter(pl.col(REASON).is_not_null())
    passed = with_versions(good, find_earlier(good, home=home, engine=engine, table=table.name)).select(
        *[column.name for column in table.columns], created_after(last), KEY, CONTENT, VERSION, FILE, LINE
    ).sort(event_column(table).name, KEY, VERSION)
    still = waiting[bad["row"]].with_columns(bad.select(REASON, DIMENSIONS, KEY, CONTENT))
    # Nothing else knows the keys and contents of these, and their old file may grow and be read again.
    past = rows.filter(replaced)
    superseded = waiting[past["row"]].with_columns(past.select(KEY, CONTENT))
    counted = faults.group_by("reason").agg(pl.col("row").n_unique()).sort(["row", "reason"], descending=[True, False])
    result = TableRedrive(len(waiting), len(passed), len(still), len(rows) - len(fresh), tuple(counted.iter_rows()))
    if result.waiting != result.passed + result.bad + result.redelivered:
        raise DataError(f"cannot account for every quarantined row of {table.name}: {result}; nothing was changed")
    return _Sorted(passed, still, superseded, result)


def _lake_rows(rows: pl.DataFrame, home: Home, engine: sa.Engine, table: str) -> pl.DataFrame:
    """The committed rows under the keys of `rows`, without the quarantine, which they stand in themselves."""
    found = [pl.DataFrame(schema=EARLIER)]
    keys = rows.lazy().select(KEY).unique()
    for partition in committed_partitions(engine, table):
        lake = pl.scan_parquet(home.lake / partition.path).select(KEY, CONTENT, VERSION, FILE)
        found.append(lake.join(keys, on=KEY, how="semi").with_columns(
            pl.lit(partition.as_of, EARLIER[LOAD]).alias(LOAD)
        ).collect())
    return pl.concat(found)


def _write(
    rows: _Sorted, partitions: list[Partition], table: str, home: Home, last: datetime
) -> tuple[list[Partition], list[Partition]]:
    """Files beside the ones in use: those to list, and those to strike."""
    add, remove = [], []
    if len(rows.passed):
        path = _numbered(raw_partition(home, table, last))
        add.append(write_raw(home, rows.passed, path, table=table, kind="raw", as_of=last))
    for part, partition in enumerate(partitions):
        before = pl.read_parquet(home.lake / partition.path)
        after = rows.bad.filter(pl.col(PART) == part).select(before.columns)
        if after.equals(before):
            continue
        remove.append(partition)
        if len(after):
            path = _numbered(home.lake / partition.path)
            add.append(write_raw(home, after, path, table=table, kind="quarantine", as_of=partition.as_of))
        known = rows.superseded.filter(pl.col(PART) == part).select(before.columns)
        if len(known):
            path = _numbered(home.lake / partition.path)
            add.append(write_raw(home, without_text(known, REDELIVERED), path, table=table, kind="quarantine",
                                 as_of=partition.as_of))
    return add, remove


def _numbered(path: Path) -> Path:
    """`load=AS_OF,N.parquet` with an N that no file has: a reader may still be in the one it replaces."""
    load = path.name.removesuffix(".parquet").split(",")[0]
    taken = [int(match[1]) for other in path.parent.glob(f"{load},*.parquet")
             if (match := re.search(r",(\d+)\.parquet$", other.name))]
    return path.with_name(f"{load},{max(taken, default=0) + 1}.parquet")


def _commit(engine: sa.Engine, swaps: list[tuple[list[Partition], list[Partition]]]) -> str:
    with engine.begin() as connection:
        for add, remove in swaps:
            record_partitions(connection, add, remove=remove)
        return dataset_version(committed_partitions(connection))


def _drop_struck(home: Home, struck: list[Partition]) -> None:
    for partition in struck:
        (home.lake / partition.path).unlink(missing_ok=True)
