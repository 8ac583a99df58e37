"""Source types. Reads and writes in which types a source has delivered, so that a change is refused by name.

Text that still parses is the dangerous one: nothing else would notice it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlsplit

import sqlalchemy as sa

from models.errors import DataError
from tasks.data.delivery import Delivery
from tasks.data.sources import TableSource
from tasks.tables import SOURCE_TYPES


def refuse_other_types(engine: sa.Engine, table: str, source: TableSource, delivery: Delivery) -> None:
    """Compare with the loads before; a source that reads something else has none.

    Raises:
        DataError: a column has another type than ever before.
    """
    with engine.connect() as connection:
        before = _known(connection, table, source)
    for theirs, seen in delivery.types.items():
        strange = sorted(set(seen) - set(before.get(theirs, seen)))
        if strange:
            raise DataError(f"cannot read {table}: changed type: {theirs!r} is {strange[0]} now and was "
                            f"{' or '.join(before[theirs])} at the loads before. Cast it in the query, or deliver it "
                            "as before; nothing was written")


def record_types(connection: sa.Connection, table: str, source: TableSource, delivery: Delivery) -> None:
    """Remember them, inside the load's transaction."""
    if not delivery.types:
        return
    types = _known(connection, table, source)
    for theirs, seen in delivery.types.items():
        types[theirs] = sorted({*types.get(theirs, ()), *seen})
    connection.execute(SOURCE_TYPES.delete().where(SOURCE_TYPES.c.table_name == table))
    connection.execute(SOURCE_TYPES.insert().values(
        table_name=table, reading=_reading(source), types=json.dumps(types, sort_keys=True)))


def families_of(source: TableSource, *seen: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Of the columns that are used: their name -> families; one of nulls alone has none."""
    found = {theirs: tuple(sorted({one[theirs] for one in seen if theirs in one} - {"null"}))
             for theirs in source.columns.values()}
    return {theirs: families for theirs, families in found.items() if families}


def _known(connection: sa.Connection, table: str, source: TableSource) -> dict[str, list[str]]:
    row = connection.execute(sa.select(SOURCE_TYPES).where(SOURCE_TYPES.c.table_name == table)).mappings().first()
    known: dict[str, list[str]] = json.loads(row["types"]) if row and row["reading"] == _reading(source) else {}
    return known


def _reading(source: TableSource) -> str:
    url = urlsplit(source.database.get_secret_value() if source.database else "")  # never its password
    return json.dumps([source.path, url.hostname, url.path, source.query, source.columns], sort_keys=True)
