"""Source database. Reads a query of a PostgreSQL by its watermark, to Arrow through ADBC; records how far it was read.

One read-only transaction sees one state of the database: the rows, and the count and sums they are
compared with. Rows that landed later than the overlap reaches back are noticed by the number and fingerprint
of what lies before it; on any difference the source is read from the beginning, and what the lake has drops
out by its keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import polars as pl
import sqlalchemy as sa

from models.contract import Table
from models.errors import DataError
from models.gates.quality import Measure
from tasks.data.delivery import HASH, WATERMARK, Before, Delivery, Window, check_types, compare_totals, no_rows
from tasks.data.source_types import families_of
from tasks.data.sources import FILE, LINE, MOMENT, TableSource
from tasks.tables import WATERMARKS

NAME: Final = "database"
CONNECT_SECONDS: Final = 10
_FAMILIES: Final = {
    "int2": "int", "int4": "int", "int8": "int", "numeric": "decimal", "float4": "float", "float8": "float",
    "text": "string", "varchar": "string", "bpchar": "string", "name": "string", "uuid": "string", "citext": "string",
    "timestamptz": "timestamp", "timestamp": "timestamp", "date": "date", "bool": "bool",
}
_MOMENTS: Final = {"timestamptz": "TIMESTAMPTZ", "timestamp": "TIMESTAMP", "date": "TIMESTAMP"}
_SAFE: Final = ("Connection refused", "timeout expired", "could not translate host name", "no password supplied",
                "Network is unreachable", "No route to host", "server closed the connection", "does not support SSL")


def read_database(table: Table, source: TableSource, *, engine: sa.Engine, as_of: datetime) -> Delivery:
    """The rows that landed since the last load, less the overlap, and by `as_of`; those without a watermark always.

    Raises:
        DataError: the database cannot be reached, refuses the query, or gives a column that is missing or of a
            type that cannot become ours. The message never holds the URL or its password.
    """
    last = _last(engine, table.name)
    if last is not None and last["reading"] != _reading(source):
        last = None
    since = None if last is None else _since(source, last)
    with _transaction(table, source) as cursor:
        types = _types(table, source, cursor)
        before = Before() if since is None else _before(source, cursor, types, since)
        seen, found = Before(), Before()
        if last is not None:
            seen = Before(int(last["rows_before"]), int(last["fingerprint"]))
            found = _before(source, cursor, types, datetime.fromisoformat(last["since"]))
        if found != seen:
            since, before = None, Before()
        where = _where(source, types, since, as_of)
        rows = _rows(source, cursor, types, where)
        sums = [ours for ours, theirs in source.columns.items()
                if next(column.dtype for column in table.columns if column.name == ours) == "decimal"
                and _FAMILIES.get(types[theirs]) in ("decimal", "int", "float")]
        said = _totals(source, cursor, where, sums)
    host = urlsplit(source.database.get_secret_value()).hostname if source.database else ""
    measures = compare_totals(said, rows, by=f"the database on {host}", where="what was read")
    if last is not None:
        measures.append(_late_measure(seen, found, str(last["since"]), source))
    families = families_of(source, {name: _FAMILIES.get(kind, kind) for name, kind in types.items()})
    since_text = None if since is None else since.isoformat()
    return Delivery(rows, window=Window(since_text, before), types=families, measures=tuple(measures))


def record_watermark(
    connection: sa.Connection, table: str, source: TableSource, delivery: Delivery, *, waiting: datetime | None,
    as_of: datetime,
) -> None:
    """Move the watermark, inside the load's transaction: to the highest that was read, or just before what waits.

    Args:
        waiting: the lowest watermark of rows that were read but had not arrived by `as_of`.
    """
    highest: datetime | None = delivery.rows[WATERMARK].max()  # type: ignore[assignment]  # a moment column
    if waiting is not None:
        highest = waiting - timedelta(microseconds=1)
    if highest is None or delivery.window is None:
        return
    since = highest - timedelta(days=source.overlap_days)
    if delivery.window.since is not None:
        since = max(since, datetime.fromisoformat(delivery.window.since))
    passed = delivery.rows.filter(pl.col(WATERMARK) < since)[HASH]
    before = delivery.window.before
    fingerprint = before.fingerprint + int(passed.cast(pl.Decimal(38, 0)).sum() or 0)  # the sum of many outgrows int64
    connection.execute(WATERMARKS.delete().where(WATERMARKS.c.table_name == table))
    connection.execute(WATERMARKS.insert().values(
        table_name=table, as_of=as_of.isoformat(), watermark=highest.isoformat(), since=since.isoformat(),
        rows_before=before.rows + len(passed), fingerprint=str(fingerprint),
        mapping=json.dumps(source.columns, sort_keys=True), reading=_reading(source),
    ))


def _last(engine: sa.Engine, table: str) -> Mapping[Any, Any] | None:
    with engine.connect() as connection:
        return connection.execute(sa.select(WATERMARKS).where(WATERMARKS.c.table_name == table)).mappings().first()


def _since(source: TableSource, last: Mapping[Any, Any]) -> datetime:
    # A longer overlap than the load before had reaches further back.
    moment = datetime.fromisoformat(last["watermark"]) - timedelta(days=source.overlap_days)
    return min(moment, datetime.fromisoformat(last["since"]))


def _late_measure(seen: Before, found: Before, since: str, source: TableSource) -> Measure:
    differ = max(abs(found.rows - seen.rows), int(found != seen))
    text = (f"the source had {seen.rows:,} rows before {since[:19]}Z at the last load and has {found.rows:,} now, "
            f"{'others' if differ else 'the same'}; overlap_days is {source.overlap_days:g}"
            + ("; it was read from its beginning for them" if differ else ""))
    return Measure("completeness", "rows that landed before the overlap", differ, "rows", text, 0.0, refuses=False,
                   step="Raise overlap_days")


def _reading(source: TableSource) -> str:
    url = urlsplit(source.database.get_secret_value() if source.database else "")
    return json.dumps({"host": url.hostname, "database": url.path.strip("/"), "query": source.query,
                       "watermark": source.watermark, "columns": source.columns}, sort_keys=True)


@contextmanager
def _transaction(table: Table, source: TableSource) -> Iterator[Any]:
    """A cursor in a read-only, repeatable-read transaction in UTC."""
    from adbc_driver_manager import Error
    from adbc_driver_postgresql import dbapi
    from pyarrow import ArrowException

    url = source.database.get_secret_value() if source.database else ""
    patient = "" if "connect_timeout=" in url else f"{'&' if '?' in url else '?'}connect_timeout={CONNECT_SECONDS}"
    try:
        connection = dbapi.connect(url + patient, autocommit=True)
    except Error as error:
        raise DataError(f"cannot reach the database of {table.name}: {_why(error, url)}. Start it, or mend the "
                        "variable that holds its URL") from None
    with closing(connection), closing(connection.cursor()) as cursor:
        try:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute("SET DateStyle = 'ISO'")
            connection.adbc_connection.set_autocommit(False)
            yield cursor
        except (Error, ArrowException, OSError) as error:  # the latter two while rows are on their way
            raise DataError(f"cannot read {table.name} from its database: {_why(error, url)}. Mend the query or the "
                            "rights of its user") from None


def _why(error: Exception, url: str) -> str:
    """What the server said, or one of the phrases of its library that hold nothing of the URL."""
    text = str(error)
    said = re.search(r"(?:ERROR|FATAL): +([^\n]*)", text)
    reason = said.group(1) if said else next((phrase for phrase in _SAFE if phrase in text),
                                            "the connection failed; look at its URL")
    password = urlsplit(url).password or ""
    for secret in {url, password, unquote(password)} - {""}:
        reason = reason.replace(secret, "***")
    return reason.rstrip(".")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _from(source: TableSource) -> str:
    return f"FROM ({(source.query or '').strip().rstrip(';')}\n) AS q"


def _types(table: Table, source: TableSource, cursor: Any) -> dict[str, str]:
    """Their column -> the name of its type in PostgreSQL, of the columns that are used."""
    cursor.execute(f"SELECT * {_from(source)} LIMIT 0")
    types = {}
    for column in cursor.fetch_arrow_table().schema:
        types[column.name] = (column.metadata or {}).get(b"POSTGRESQL:type", str(column.type).encode()).decode()
    check_types(table, source, {name: _FAMILIES.get(kind, kind) for name, kind in types.items()}, where="its query")
    if source.watermark not in types:
        check_types(table, source.model_copy(update={"columns": {"watermark": source.watermark}}), types,
                    where="its query")
    if types[str(source.watermark)] not in _MOMENTS:
        raise DataError(f"cannot read {table.name}: its watermark {source.watermark!r} is "
                        f"{types[str(source.watermark)]}, and has to be a timestamp or a date. Name another column")
    return types


def _literal(moment: datetime, source: TableSource, types: Mapping[str, str]) -> str:
    kind = _MOMENTS[types[str(source.watermark)]]
    text = moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
    return f"{kind} '{text}{'+00' if kind == 'TIMESTAMPTZ' else ''}'"


def _where(source: TableSource, types: Mapping[str, str], since: datetime | None, as_of: datetime) -> str:
    column = f"q.{_quoted(str(source.watermark))}"
    window = f"{column} <= {_literal(as_of, source, types)}"
    if since is not None:
        # The bound belongs to it: rows of equal content and watermark are read all or none.
        window += f" AND {column} >= {_literal(since, source, types)}"
    return f"({window}) OR {column} IS NULL"


def _before(source: TableSource, cursor: Any, types: Mapping[str, str], moment: datetime) -> Before:
    column = f"q.{_quoted(str(source.watermark))}"
    cursor.execute(f"SELECT count(*), coalesce(sum({_row_hash(source)}::numeric), 0)::text {_from(source)} "
                   f"WHERE {column} < {_literal(moment, source, types)} AND isfinite({column})")
    rows, fingerprint = cursor.fetchone()
    return Before(int(rows), int(fingerprint))


def _row_hash(source: TableSource) -> str:
    """64 bits of what is read of a row; a sum of them does not depend on the order of the rows."""
    used = ", ".join(f"q.{_quoted(theirs)}" for theirs in [*source.columns.values(), str(source.watermark)])
    return f"hashtextextended(ROW({used})::text, 0)"


def _rows(source: TableSource, cursor: Any, types: Mapping[str, str], where: str) -> pl.DataFrame:
    """As text, so that a cell that is no value of ours costs its row; in an order that is not the server's."""
    def text(theirs: str) -> str:
        utc = " AT TIME ZONE 'UTC'" if types[theirs] == "timestamptz" else ""
        return f"(q.{_quoted(theirs)}{utc})::text"

    wanted = [f"{text(theirs)} AS {_quoted(ours)}" for ours, theirs in source.columns.items()]
    wanted.append(f"{text(str(source.watermark))} AS {_quoted(WATERMARK)}")
    wanted.append(f"{_row_hash(source)} AS {_quoted(HASH)}")
    cursor.execute(f"SELECT {', '.join(wanted)} {_from(source)} WHERE {where}")
    batches = [pl.DataFrame(batch) for batch in cursor.fetch_record_batch()]
    rows = pl.concat(batches) if batches else no_rows(source).with_columns(
        pl.lit(None, pl.String).alias(WATERMARK), pl.lit(None, pl.Int64).alias(HASH))
    moments = pl.coalesce(pl.col(WATERMARK).str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")
                          for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d"))
    return rows.with_columns(
        moments.cast(MOMENT).alias(WATERMARK), pl.lit(NAME).alias(FILE), pl.lit(None, pl.Int64).alias(LINE)
    ).select(*source.columns, WATERMARK, HASH, FILE, LINE).sort(WATERMARK, *source.columns)


def _totals(source: TableSource, cursor: Any, where: str, sums: list[str]) -> dict[str, Decimal | None]:
    wanted = ["count(*)::text AS rows"]
    for ours in sums:
        theirs = f"q.{_quoted(source.columns[ours])}"
        wanted.append(f"round((sum({theirs}::numeric) FILTER (WHERE {theirs}::text NOT IN ('NaN', 'Infinity', "
                      f"'-Infinity')))::numeric, 6)::text AS {_quoted(ours)}")
    cursor.execute(f"SELECT {', '.join(wanted)} {_from(source)} WHERE {where}")
    said = cursor.fetchone()
    return {name: None if value is None else Decimal(value) for name, value in zip(["rows", *sums], said, strict=True)}
