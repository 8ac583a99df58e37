"""Opens a store of ours: SQLite in WAL mode, or PostgreSQL. Makes what is missing, and keeps two homes apart.

What one statement must decide between two callers is decided by a unique index, never by "insert unless there is
one": under PostgreSQL's READ COMMITTED two such inserts do not see each other.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from models.errors import ConfigError, PlatformError, describe
from models.serving.features_online import shown
from tasks.home import Home

SECONDS: Final = 5  # a server that does not answer for so long is away
SETTING_UP: Final = 4_811_502  # PostgreSQL's advisory lock: one process at a time makes tables
HOMES: Final = sa.Table("homes", sa.MetaData(), sa.Column("only", sa.Integer, primary_key=True),
                        sa.Column("number", sa.String, nullable=False), sa.Column("root", sa.String, nullable=False),
                        sa.Column("charter", sa.String, nullable=False))


def state_place(given: str) -> str:
    """The URL of a PostgreSQL database as SQLAlchemy wants it: by psycopg.

    Raises:
        ConfigError: no PostgreSQL, or no database named; its password is not shown.
    """
    scheme, _, rest = given.partition("://")
    # Without a database PostgreSQL takes the one that is named like the user.
    if scheme in ("postgresql", "postgres", "postgresql+psycopg") and rest.split("?")[0].partition("/")[2]:
        return f"postgresql+psycopg://{rest}"
    raise ConfigError(f"cannot use the state store {shown(given)}: not postgresql://user@host:port/database. Mend "
                      "CHURN_STATE_URL, or leave it unset for SQLite in the home")


def open_store(url: str, metadata: sa.MetaData) -> sa.Engine:
    """The store at `url` with all tables, columns and indexes of `metadata`; an older one gets what it lacks.

    Raises:
        PlatformError: it cannot be read; an unreadable ledger is never taken for an empty one.
    """
    sqlite = url.startswith("sqlite")
    engine = sa.create_engine(url) if sqlite else sa.create_engine(
        url, pool_pre_ping=True, connect_args={"connect_timeout": SECONDS})
    try:
        if sqlite:
            sa.event.listen(engine, "connect", _wait_for_others)
            _make_sqlite(engine, Path(url.removeprefix("sqlite:///")), metadata)
        else:
            with engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(SETTING_UP)))
                _make(connection, metadata)
    except (sa.exc.DatabaseError, OSError) as error:
        place = engine.url.database if sqlite else shown(url)
        way_on = ("Restore the file from a backup, or set CHURN_HOME to another folder" if sqlite else
                  "Start the server, or mend CHURN_STATE_URL")
        raise PlatformError(f"cannot use our state at {place}: {cause_of(error)}. {way_on}") from error
    return engine


def cause_of(error: Exception) -> str:
    """Why our state could not be read or written, in the database's words: what we keep there is no customer's."""
    said = str(error.orig).strip() if isinstance(error, sa.exc.DatabaseError) else describe(error)
    return said.partition("\n")[0]


def _make_sqlite(engine: sa.Engine, path: Path, metadata: sa.MetaData) -> None:
    """One process at a time: who goes over to WAL is refused, whatever its patience, while others make tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # the file keeps it
        with engine.begin() as connection:
            _make(connection, metadata)


def _make(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Tables, then the columns and indexes that a store of an older version lacks."""
    metadata.create_all(connection)
    held = sa.inspect(connection)
    for table in metadata.sorted_tables:
        there = {column["name"] for column in held.get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                kind = column.type.compile(connection.dialect)
                quote = connection.dialect.identifier_preparer.quote
                connection.exec_driver_sql(
                    f"ALTER TABLE {quote(table.name)} ADD COLUMN {quote(column.name)} {kind}"
                    + ("" if column.nullable else " NOT NULL"))  # refused where rows are: then it must be nullable
        for index in table.indexes:
            connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))


def _wait_for_others(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA busy_timeout=10000")


def claim_state(home: Home, engine: sa.Engine) -> None:
    """Write whose a shared store is, where nobody's mark stands yet: two homes in one would mix their releases.

    Raises:
        PlatformError: another home's mark stands there.
    """
    with engine.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(SETTING_UP)))
        HOMES.create(connection, checkfirst=True)
        found = connection.execute(sa.select(HOMES)).mappings().first()
        if found is None:
            connection.execute(HOMES.insert().values(only=1, number=home.number(), root=str(home.root.resolve()),
                                                     charter=home.name))
        elif found["number"] != home.number():
            raise PlatformError(
                f"cannot use the state store {shown(home.state_url)}: it belongs to the home {found['root']} (charter "
                f"{found['charter']!r}). Name another database in CHURN_STATE_URL; if that home is gone, there: "
                "DROP TABLE homes")
