"""Validation. Reads typed rows; answers which are bad and every reason why. Writes nothing.

Pandera checks the columns on an eager Polars frame (a LazyFrame's data checks are silently skipped);
what follows from roles alone (unique keys, references, arrival after the event) is checked here.
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from models.contract import Column, Table
from models.errors import DataError
from tasks.sources import FILE

FAULTS = {"row": pl.Int64(), "dimension": pl.String(), "reason": pl.String()}


def find_faults(
    typed: pl.DataFrame,
    unparsed: pl.DataFrame,
    table: Table,
    schema: type[pa.DataFrameModel],
    *,
    known_entities: dict[str, pl.Series],
) -> pl.DataFrame:
    """Every fault of every row.

    Args:
        typed: (n, k) columns of the contract and `_file`.
        unparsed: `row` and `reason` of cells that could not be parsed; their columns are null in `typed`.
        known_entities: table -> entity keys that exist in it, for columns that reference it.

    Returns:
        `row` (0-based), `dimension` (of data quality) and `reason`; a row may have several.

    Raises:
        DataError: the schema fails as a whole (a column missing or of another type), which no single row explains.
    """
    parsed = unparsed.select("row", pl.lit("accuracy").alias("dimension"), "reason")
    faults = pl.concat([
        parsed,
        _pandera_faults(typed, table, schema),
        _unknown_references(typed, table, known_entities),
        _arrived_before_event(typed, table),
    ])
    faults = pl.concat([faults, _repeated_keys(typed, table, bad=faults["row"])])
    # A cell that could not be parsed is null now: its own reason stands, "is missing" would be wrong.
    unparsed_columns = parsed.select("row", pl.col("reason").str.extract(r"^(\w+) is no ").alias("column"))
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
    named = typed.with_row_index("row").filter(
        ~pl.col("row").is_in(bad.implode()) & pl.all_horizontal(pl.col(key).is_not_null() for key in keys)
    )
    # The same row delivered twice is dropped by its content, not here; here the content differs.
    different = named.unique([column.name for column in table.columns] + [FILE], keep="first", maintain_order=True)
    repeated = different.filter(pl.int_range(pl.len()).over([*keys, FILE]) > 0)
    return _faults(repeated, "consistency", f"{', '.join(keys)} stands twice in the file with different content")


def _unknown_references(typed: pl.DataFrame, table: Table, known: dict[str, pl.Series]) -> pl.DataFrame:
    found = [pl.DataFrame(schema=FAULTS)]
    for column in table.columns:
        if column.references is None or column.references not in known:
            continue
        rows = typed.with_row_index("row").filter(
            pl.col(column.name).is_not_null() & ~pl.col(column.name).is_in(known[column.references].implode())
        )
        found.append(_faults(rows, "consistency", f"{column.name} is unknown to {column.references}"))
    return pl.concat(found)


def _arrived_before_event(typed: pl.DataFrame, table: Table) -> pl.DataFrame:
    event, arrival = table.column("event_time"), table.column("arrival_time")
    if event is None or arrival is None:
        return pl.DataFrame(schema=FAULTS)
    rows = typed.with_row_index("row").filter(pl.col(event.name) > pl.col(arrival.name))
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
