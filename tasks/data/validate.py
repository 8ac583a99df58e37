"""Validation. Reads typed rows; answers which are bad and every reason why. Writes nothing.

Pandera checks the columns on an eager Polars frame (a LazyFrame's data checks are silently skipped);
what follows from roles alone (unique keys, references, arrival after the event) is checked here. Each
fault names its dimension of data quality: accuracy, completeness, consistency or timeliness (DAMA).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import pandera.polars as pa
import polars as pl

from models.contract import Column, Contract, Table
from models.errors import DataError
from tasks.data.sources import FILE

FAULTS: Final = {"row": pl.Int64(), "dimension": pl.String(), "reason": pl.String()}


def find_faults(
    typed: pl.DataFrame,
    unparsed: pl.DataFrame,
    table: Table,
    schema: type[pa.DataFrameModel],
    *,
    known: Mapping[str, pl.DataFrame],
) -> pl.DataFrame:
    """Every fault of every row.

    Args:
        typed: (n, k) columns of the contract and `_file`.
        unparsed: `row` and `reason` of cells that could not be parsed; their columns are null in `typed`.
        known: what `known_entities` says of each table that the columns of this one refer to.

    Returns:
        `row` (0-based), `dimension` (of data quality) and `reason`; a row may have several.

    Raises:
        DataError: the schema fails as a whole (a column missing or of another type), which no single row explains.
    """
    parsed = unparsed.select("row", pl.lit("accuracy").alias("dimension"), "reason")
    faults = pl.concat([
        parsed,
        _pandera_faults(typed, table, schema),
        _reference_faults(typed, table, known),
        _arrived_before_event(typed, table),
    ])
    faults = pl.concat([faults, _repeated_keys(typed, table, bad=faults["row"])])
    # A cell that could not be parsed is null now: its own reason stands, "is missing" would be wrong.
    named = pl.col("reason").str.extract(r"^(\w+) (?:is no|has more than) ").alias("column")
    unparsed_columns = parsed.select("row", named)
    missing = unparsed_columns.select(
        "row", pl.lit("completeness").alias("dimension"), (pl.col("column") + " is missing").alias("reason")
    )
    return faults.join(missing, on=["row", "dimension", "reason"], how="anti").unique(maintain_order=True)


def _pandera_faults(typed: pl.DataFrame, table: Table, schema: type[pa.DataFrameModel]) -> pl.DataFrame:
    names = [column.name for column in table.columns]
    try:
        schema.validate(typed.select(names), lazy=True)
    except pa.errors.SchemaErrors as error:
        cases: pl.DataFrame = error.failure_cases
    else:
        return pl.DataFrame(schema=FAULTS)
    structural = cases.filter(pl.col("index").is_null())
    if len(structural):
        first = structural.row(0, named=True)
        raise DataError(f"cannot accept {table.name}: {first['column'] or 'the table'} fails {first['check']}; mend "
                        "the source or its mapping")
    wording = pl.DataFrame([
        {"column": column.name, "check": check.name, "dimension": check.dimension, "reason": check.wording}
        for column in table.columns for check in column.checks
    ])
    return cases.select(pl.col("index").cast(pl.Int64).alias("row"), "column", "check").join(
        wording, on=["column", "check"], how="left"
    ).select(
        "row",
        pl.col("dimension").fill_null("accuracy"),
        pl.col("reason").fill_null(pl.col("column") + " fails " + pl.col("check")),
    )


def key_columns(table: Table, mapped: set[str]) -> list[str]:
    """What names a row: the declared row key; entity and event time where the entity has a history; else nothing."""
    row_key = table.column("row_key")
    if row_key is not None:
        return [row_key.name] if row_key.name in mapped else []
    entity, event = table.column("entity_key"), table.column("event_time")
    return [column.name for column in (entity, event) if column is not None]


def _repeated_keys(typed: pl.DataFrame, table: Table, *, bad: pl.Series) -> pl.DataFrame:
    """Among rows without another fault: else a spoiled copy could push out the good row of its key."""
    keys = key_columns(table, {name for name in typed.columns if typed[name].null_count() < len(typed)})
    if not keys:
        return pl.DataFrame(schema=FAULTS)
    # By hash first: few rows share one, and only those are looked at cell by cell.
    shared = typed.select(pl.struct(keys).hash() if len(keys) > 1 else pl.col(keys[0]).hash()).to_series()
    rows = shared.is_duplicated().arg_true()
    if rows.is_empty():
        return pl.DataFrame(schema=FAULTS)
    named = typed[rows].with_columns(rows.cast(pl.Int64).alias("row")).filter(
        ~pl.col("row").is_in(bad.implode()) & pl.all_horizontal(pl.col(key).is_not_null() for key in keys)
    )
    # The same row delivered twice is dropped by its content, not here; here the content differs.
    different = named.unique([column.name for column in table.columns] + [FILE], keep="first", maintain_order=True)
    repeated = different.filter(pl.int_range(pl.len()).over([*keys, FILE]) > 0)
    return _repeated(repeated, keys)


def repeated_key(rows: pl.DataFrame, table: Table, mapped: set[str]) -> pl.DataFrame:
    """The fault of rows (their `row`) whose key a good row of their file has."""
    return _repeated(rows, key_columns(table, mapped))


def _repeated(rows: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    return _faults(rows, "consistency", f"{', '.join(keys)} stands twice in the file with different content")


def known_entities(contract: Contract, name: str, frames: Iterable[pl.LazyFrame]) -> pl.DataFrame:
    """What other tables may ask of a table's entities.

    Args:
        frames: rows of the table `name`, of earlier loads and of this one.

    Returns:
        One row an entity: its key, and the earliest value of each column that a row which refers to it may not precede.
    """
    entity = contract.table(name).column("entity_key")
    if entity is None:
        raise DataError(f"table {name} has no column with the role entity_key, and another refers to it; give it one "
                        "in the contract")
    asked = sorted({
        column.not_before.partition(".")[2] for table in contract.tables for column in table.columns
        if column.not_before is not None and column.not_before.partition(".")[0] == name
    })
    rows = pl.concat([frame.select(entity.name, *asked) for frame in frames])
    return rows.drop_nulls(entity.name).group_by(entity.name).agg(pl.col(column).min() for column in asked).collect()


def _reference_faults(typed: pl.DataFrame, table: Table, known: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    found = [pl.DataFrame(schema=FAULTS)]
    for column in table.columns:
        if column.references is None or column.references not in known:
            continue
        entities = known[column.references]
        bounded = {one: f"_{one.not_before.partition('.')[2]}" for one in table.columns
                   if one.not_before is not None and one.not_before.partition(".")[0] == column.references}
        theirs = entities.select(
            pl.col(entities.columns[0]).alias(column.name), pl.lit(True).alias("_known"),
            *[pl.col(name).alias(f"_{name}") for name in entities.columns[1:]],
        )
        beside = typed.select(column.name, *[one.name for one in bounded if one.name != column.name]).join(
            theirs, on=column.name, how="left", maintain_order="left"
        )
        unknown = pl.col(column.name).is_not_null() & pl.col("_known").is_null()
        found.append(_where(beside, unknown, column, "references"))
        found += [_where(beside, pl.col(one.name) < pl.col(bound), one, "not_before") for one, bound in bounded.items()]
    return pl.concat(found)


def _where(rows: pl.DataFrame, fails: pl.Expr, column: Column, name: str) -> pl.DataFrame:
    check = next(check for check in column.checks if check.name == name)
    return _faults(rows.select(pl.arg_where(fails).alias("row")), check.dimension, check.wording)


def _arrived_before_event(typed: pl.DataFrame, table: Table) -> pl.DataFrame:
    event, arrival = table.column("event_time"), table.column("arrival_time")
    if event is None or arrival is None:
        return pl.DataFrame(schema=FAULTS)
    rows = typed.select(pl.arg_where(pl.col(event.name) > pl.col(arrival.name)).alias("row"))
    return _faults(rows, "consistency", f"{event.name} is later than {arrival.name}")


def _faults(rows: pl.DataFrame, dimension: str, reason: str) -> pl.DataFrame:
    return rows.select(
        pl.col("row").cast(pl.Int64), pl.lit(dimension).alias("dimension"), pl.lit(reason).alias("reason")
    )


def event_column(table: Table) -> Column:
    """The column that says when it happened."""
    column = table.column("event_time")
    if column is None:
        raise DataError(f"table {table.name} has no column with the role event_time; give it one in the contract")
    return column
