"""Scores as a table. Reads a partition of scores; writes its rows to a SQL database, for who reads no Parquet.

One table a charter, one row an `as_of` and entity. An `as_of` is replaced in one transaction: a reader sees the scores
before, those of today, or none; never half of them. To PostgreSQL by COPY, to SQLite by `executemany`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow.parquet as pq
import sqlalchemy as sa

from models.errors import ConfigError, PlatformError
from models.serving.features_online import shown
from models.serving.scorer import CHUNK_ROWS
from tasks.home import Home, sqlalchemy_scores_url

CONNECT_SECONDS: Final = 10
COLUMNS: Final = ("as_of", "entity", "churn_probability", "decision", "why", "expected_value", "rank", "within_budget",
                  "release_id")


def write_scores(
    scores: Path, *, as_of: datetime, home: Home, chunk_rows: int = CHUNK_ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Put the rows of a partition in place of those of the same `as_of`; returns how many.

    Killed, it leaves the table as it was; run again it ends in the same state.

    Raises:
        PlatformError: the database cannot be reached, or refuses.
    """
    url = home.scores_url
    if url is None:
        raise ConfigError("cannot write the scores to a table: CHURN_SCORES_URL is unset")
    _remember(home, url)
    with pq.ParquetFile(scores) as file, _transaction(url, "write the scores to") as connection:
        table = scores_table(home)
        key = next((name for name in file.schema_arrow.names if name not in COLUMNS), "entity")  # the contract's name
        total, done = int(file.metadata.num_rows), 0
        table.create(connection, checkfirst=True)
        if connection.dialect.name == "postgresql":  # two writers would each delete what they see and meet at the key
            connection.exec_driver_sql(f"LOCK TABLE {_quoted(connection, table)} IN SHARE ROW EXCLUSIVE MODE")
        connection.execute(table.delete().where(table.c.as_of == as_of))
        for batch in file.iter_batches(chunk_rows):
            rows = pl.DataFrame(batch).rename({key: "entity"}).select(COLUMNS)
            _insert(connection, table, rows)
            done += len(rows)
            if progress is not None:
                progress(done, total)
    return total


def delete_person(home: Home, entity: str, *, apply: bool) -> int:
    """Rows of an entity, whatever their `as_of`; deleted where it applies. Without a table there are none.

    Raises:
        PlatformError: the database does not answer, or scores were written to another one than the settings name.
    """
    now = shown(home.scores_url) if home.scores_url else None
    for place in used_tables(home):
        if place != now:
            raise PlatformError(f"cannot forget: scores were written to {place}, and CHURN_SCORES_URL "
                                f"{f'says {now}' if now else 'is unset'}. Set it to that database, or remove its line "
                                f"from {home.scores_record} once its table is gone")
    if home.scores_url is None or now not in used_tables(home):
        return 0
    with _transaction(home.scores_url, "forget in") as connection:
        table = scores_table(home)
        if not sa.inspect(connection).has_table(table.name):
            return 0
        whose = sa.func.trim(table.c.entity) == entity
        found = int(connection.execute(sa.select(sa.func.count()).select_from(table).where(whose)).scalar_one())
        if found and apply:
            connection.execute(table.delete().where(whose))
    return found


def scores_table(home: Home) -> sa.Table:
    """`<charter's name>_scores`; `as_of` is UTC (SQLite keeps no zone)."""
    return sa.Table(
        f"{home.name}_scores", sa.MetaData(),
        sa.Column("as_of", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("entity", sa.Text, primary_key=True),
        sa.Column("churn_probability", sa.Double, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("expected_value", sa.Double, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("within_budget", sa.Boolean, nullable=False),
        sa.Column("release_id", sa.Text, nullable=False),
    )


def used_tables(home: Home) -> list[str]:
    """Every database scores of this home were written to, without credentials: an erasure has to find them."""
    return home.scores_record.read_text(encoding="utf-8").splitlines() if home.scores_record.exists() else []


def _remember(home: Home, url: str) -> None:
    """Before the first row, so that a killed run is known of, too."""
    if shown(url) not in used_tables(home):
        with home.scores_record.open("a", encoding="utf-8") as record:
            record.write(f"{shown(url)}\n")


def _insert(connection: sa.Connection, table: sa.Table, rows: pl.DataFrame) -> None:
    if connection.dialect.name != "postgresql":
        connection.execute(table.insert(), rows.to_dicts())
        return
    names = ", ".join(connection.dialect.identifier_preparer.quote(name) for name in COLUMNS)
    cursor: Any = connection.connection.cursor()  # psycopg's own, which knows COPY
    with cursor.copy(f"COPY {_quoted(connection, table)} ({names}) FROM STDIN (FORMAT csv)") as copy:
        copy.write(rows.write_csv(include_header=False, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ").encode())


def _quoted(connection: sa.Connection, table: sa.Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


@contextmanager
def _transaction(url: str, doing: str) -> Iterator[sa.Connection]:
    """One transaction; whatever fails in it is one line without credentials.

    Raises:
        PlatformError: the database cannot be reached, or refuses.
    """
    address = sa.make_url(sqlalchemy_scores_url(url))
    sqlite = address.get_backend_name() == "sqlite"
    engine = sa.create_engine(address, poolclass=sa.NullPool, connect_args={"timeout": 60} if sqlite else
                              {"connect_timeout": CONNECT_SECONDS})
    if sqlite:  # its driver would begin with the first row written, after a reading that may be stale by then

        @sa.event.listens_for(engine, "connect")
        def _plain(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA secure_delete = ON")  # a person who is erased leaves no bytes

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        with engine.begin() as connection:
            yield connection
    except sa.exc.SQLAlchemyError as error:
        raise PlatformError(_fault(url, doing, getattr(error, "orig", None) or error)) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "psycopg":  # COPY goes by its own cursor
            raise
        raise PlatformError(_fault(url, doing, error)) from None
    finally:
        engine.dispose()


def _fault(url: str, doing: str, error: BaseException) -> str:
    """What the database said, in one line: never a row (`DETAIL` holds one), nor the URL's user and password."""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    password = sa.make_url(sqlalchemy_scores_url(url)).password
    for secret in (url, str(password) if password else ""):
        said = said.replace(secret, "***") if secret else said
    return (f"cannot {doing} {shown(url)}: {said.rstrip('.')}. Start it or mend CHURN_SCORES_URL, then run the same "
            "command again")
