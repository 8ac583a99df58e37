"""Row keys. Reads typed rows and the committed lake; says which rows are new, and which correct an older one.

`_content` is a 64-bit hash of a row's mapped columns, `_key` says which row it is: its declared key, or
else its content and its occurrence. Both are MD5 over text that we spell, so that they are the same in
every version of every library. Nothing here looks at a value one by one in Python.
"""

from __future__ import annotations

import json
from typing import Final

import duckdb
import polars as pl
import sqlalchemy as sa

from models.contract import Table
from models.errors import DataError
from tasks.home import Home
from tasks.data.manifest import Kind, committed_partitions
from tasks.data.sources import FILE, MOMENT
from tasks.state import last_load
from tasks.tables import SOURCE_FILES, WATERMARKS
from tasks.data.validate import key_columns

CREATED: Final = "created_timestamp"
KEY: Final = "_key"
CONTENT: Final = "_content"
VERSION: Final = "_version"
LOAD: Final = "_load"  # `as_of` of the load a row came with
EARLIER: Final = {KEY: pl.String(), CONTENT: pl.UInt64(), VERSION: pl.Int32(), FILE: pl.String(), LOAD: MOMENT}


def with_keys(typed: pl.DataFrame, table: Table, mapped: set[str], *, moment: str | None = None) -> pl.DataFrame:
    """Add `_content` and `_key`.

    Args:
        typed: (n, k) the table's columns, typed, and `_file`.
        mapped: the columns the source has; the others are no part of the content.
        moment: a column that is part of the key of a row without a declared one. A database is read from a
            watermark on: rows of equal content, told apart by their occurrence, have to be read all or none.

    Returns:
        `typed` with two more columns; a row without a declared key has its content and occurrence in its file as one.
    """
    names = sorted(column.name for column in table.columns if column.name in mapped)
    hashed = typed.with_columns(_hash(typed, names, "md5_number_lower").alias(CONTENT))
    keys = key_columns(table, mapped)
    spelt = [_spelt(typed, key) for key in keys]
    hashed = hashed.with_columns(
        (pl.concat_str(spelt, separator="\x1f") if spelt else pl.lit(None, pl.String)).alias(KEY)
    )
    nameless = hashed[KEY].is_null()
    if not nameless.any():
        return hashed
    rows = hashed.filter(nameless)
    digest = _hash(rows, [*names, *([moment] if moment else [])], "md5")
    by_content = rows.select(FILE, digest.alias(KEY)).select(
        pl.concat_str(KEY, pl.int_range(pl.len()).over(FILE, KEY).cast(pl.String), separator="#")
    ).to_series()
    return hashed.with_columns(
        by_content.alias(KEY) if nameless.all() else hashed[KEY].scatter(nameless.arg_true(), by_content)
    )


def refuse_older_format(home: Home, engine: sa.Engine) -> None:
    """A lake from before the manifest or `_version` is not mixed with this one.

    Raises:
        DataError: there is one.
    """
    loaded, files = last_load(engine), committed_partitions(engine)
    newest = home.lake / files[-1].path if files else None
    if loaded is None or (newest is not None and VERSION in pl.read_parquet_schema(newest)):
        return
    lacks = "a manifest" if newest is None else VERSION
    raise DataError(f"cannot ingest into {home.lake}: an older version wrote it (it lacks {lacks}). Use another "
                    "CHURN_HOME and ingest again from the sources")


def refuse_other_keys(table: Table, mapped: set[str], engine: sa.Engine) -> None:
    """Without a declared key the mapped columns name a row: with others, every row would be a new one.

    Raises:
        DataError: they are others than those of the loads before.
    """
    with engine.connect() as connection:
        before = {frozenset(json.loads(mapping)) for state in (SOURCE_FILES, WATERMARKS) for mapping in
                  connection.execute(sa.select(state.c.mapping).where(state.c.table_name == table.name)).scalars()}
    for columns in sorted(before - {frozenset(mapped)}, key=sorted):
        if not key_columns(table, mapped) or not key_columns(table, set(columns)):
            changed = ", ".join(sorted(mapped ^ columns))
            raise DataError(f"cannot ingest {table.name}: its rows have no key of their own but their content, and the "
                            f"mapping of {changed} changed. Use another CHURN_HOME, or the mapping as it was")


def find_earlier(rows: pl.DataFrame, *, home: Home, engine: sa.Engine, table: str) -> pl.DataFrame:
    """What the lake has under the keys of `rows`: `EARLIER`, where the version is null in the quarantine.

    The lake is read past, not into memory: what is returned is as many rows as the batch has, about.
    """
    found = [pl.DataFrame(schema=EARLIER)]
    keys = rows.lazy().select(KEY).unique()
    kinds: list[tuple[Kind, pl.Expr]] = [
        ("raw", pl.col(VERSION)), ("quarantine", pl.lit(None, pl.Int32).alias(VERSION))]
    for kind, version in kinds:
        partitions = committed_partitions(engine, table, kind=kind)
        if partitions and len(rows):
            # A file at a time: the text columns of the quarantine differ with what the source had.
            lake = pl.concat([pl.scan_parquet(home.lake / one.path).select(
                KEY, CONTENT, version, FILE, pl.lit(one.as_of, MOMENT).alias(LOAD)) for one in partitions])
            found.append(lake.join(keys, on=KEY, how="semi").collect(engine="streaming"))
    return pl.concat(found)


def drop_known(rows: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """The rows whose key and content the lake does not have, or that return to them, each once, in their order.

    Args:
        rows: (n, k) with `_key`, `_content`, `_file` and `created_timestamp` as it was delivered.
        earlier: what `find_earlier` says of them.
    """
    if len(earlier):
        numbered = rows.with_row_index("_at")
        fresh = numbered.join(earlier, on=[KEY, CONTENT], how="anti", maintain_order="left")
        back = _returned(numbered, earlier)
        rows = (fresh if back.is_empty() else pl.concat([fresh, back]).sort("_at")).drop("_at")
    twice = rows.select(pl.struct(KEY, CONTENT).hash()).to_series().is_duplicated()
    if not twice.any():
        return rows
    repeated = rows.select(KEY, CONTENT).with_row_index("at").filter(twice)
    drop = repeated.filter(pl.int_range(pl.len()).over(KEY, CONTENT) > 0)["at"]
    return rows.filter(~pl.int_range(pl.len(), dtype=pl.UInt32).is_in(drop.implode()))


def _returned(rows: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """The rows by which a file takes a correction back: known, but not what it said of the key last.

    Only the last row a file has of a key speaks for it: a file that grows holds the versions before, too.
    """
    several = earlier.group_by(KEY).agg(pl.col(CONTENT).n_unique().alias("contents")).filter(pl.col("contents") > 1)
    if several.is_empty():
        return rows.clear()
    said = earlier.join(several, on=KEY, how="semi")
    last = said.filter(pl.col(LOAD) == pl.col(LOAD).max().over(FILE, KEY))  # what was bad counts as said, too
    good = said.drop_nulls(VERSION).filter(pl.col(VERSION) == pl.col(VERSION).max().over(FILE, KEY))
    speaks = rows.join(several, on=KEY, how="semi").sort(CREATED, "_at").unique(
        [FILE, KEY], keep="last", maintain_order=True)
    return speaks.join(said, on=[KEY, CONTENT], how="semi").join(said, on=[FILE, KEY], how="semi").join(
        pl.concat([last, good]), on=[FILE, KEY, CONTENT], how="anti")


def with_versions(rows: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """Add `_version`: 0 where the lake has no row of the key, else one more than its highest.

    Of several rows of a key in one batch the one that arrived later, or stands later, has the higher version.

    Args:
        rows: (n, k) about to be kept, with `_key` and `created_timestamp` as it was delivered.
        earlier: what `find_earlier` says of them.
    """
    versioned = rows.with_columns(pl.lit(0, pl.Int32).alias(VERSION))
    latest = earlier.drop_nulls(VERSION).group_by(KEY).agg(pl.col(VERSION).max().alias("_latest"))
    if len(latest):
        versioned = versioned.join(latest, on=KEY, how="left", maintain_order="left").with_columns(
            (pl.col("_latest") + 1).fill_null(0).alias(VERSION)
        ).drop("_latest")
    twice = versioned[KEY].hash().is_duplicated()
    if not twice.any():
        return versioned
    repeated = versioned.select(KEY, CREATED, VERSION).with_row_index("at").filter(twice).sort(CREATED, "at")
    repeated = repeated.with_columns(pl.col(VERSION) + pl.int_range(pl.len(), dtype=pl.Int32).over(KEY))
    return versioned.with_columns(versioned[VERSION].scatter(repeated["at"], repeated[VERSION]))


def _hash(rows: pl.DataFrame, names: list[str], function: str) -> pl.Series:
    spelt = ", ".join(_sql(rows, name) for name in names)
    with duckdb.connect() as connection:
        connection.register("typed", rows.select(names).to_arrow(compat_level=pl.CompatLevel.newest()))
        hashed = connection.sql(f"SELECT {function}(concat_ws(chr(31), {spelt})) AS hashed FROM typed")
        return pl.DataFrame(hashed.to_arrow_table()).to_series()


def _sql(rows: pl.DataFrame, name: str) -> str:
    # A moment as its microseconds: the text of a zoned one is the session's, and needs an extension.
    value = f'epoch_us("{name}")' if isinstance(rows.schema[name], pl.Datetime) else f'"{name}"'
    return f"coalesce(CAST({value} AS VARCHAR), chr(0))"


def _spelt(rows: pl.DataFrame, name: str) -> pl.Expr:
    value = pl.col(name)
    return (value.to_physical() if isinstance(rows.schema[name], pl.Datetime) else value).cast(pl.String)
