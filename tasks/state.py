"""Our state: one transactional store. Reads and writes the ledger, the clock, loads, releases, rollouts.

SQLite in WAL mode; every change of a rollout is a compare-and-set, so two callers cannot both win.
"""

from __future__ import annotations

import fcntl
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from models.decision import Decision
from models.errors import PlatformError

METADATA = sa.MetaData()

DECISIONS = sa.Table(
    "decisions", METADATA,
    sa.Column("decision_id", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),  # wall time, ISO 8601 UTC
    sa.Column("as_of", sa.String),  # platform clock, ISO 8601 UTC
    sa.Column("gate", sa.String, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("evidence", sa.String, nullable=False),  # JSON
    sa.Column("subject", sa.String),  # model version, release or batch the verdict is about
    sa.Column("flow_run_id", sa.String),
)
LOADS = sa.Table(  # one row a committed ingest: the watermark is the latest as_of
    "loads", METADATA,
    sa.Column("as_of", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("counts", sa.String, nullable=False),  # JSON: table -> rows in, kept, quarantined, redelivered
    sa.Column("dataset_version", sa.String, nullable=False),
)
PARTITIONS = sa.Table(  # the manifest: the committed files of raw and quarantine
    "partitions", METADATA,
    sa.Column("path", sa.String, primary_key=True),  # relative to the lake
    sa.Column("table_name", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),  # raw, quarantine
    sa.Column("as_of", sa.String, nullable=False),  # of the load it belongs to
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
)
SOURCE_FILES = sa.Table(  # which source files a table has taken in, so that an unchanged one is not read again
    "source_files", METADATA,
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("path", sa.String, primary_key=True),
    sa.Column("as_of", sa.String, nullable=False),  # of the load that read it last
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),  # false: some of its rows had not arrived by that load
    sa.Column("mapping", sa.String, nullable=False),  # JSON, ours: theirs
    sa.Column("totals", sa.String, nullable=False),  # JSON, what its control file said of it
)
WATERMARKS = sa.Table(  # how far a database source has been read
    "watermarks", METADATA,
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("as_of", sa.String, nullable=False),
    sa.Column("watermark", sa.String, nullable=False),  # ISO 8601 UTC: all that had landed up to it was taken in
    sa.Column("since", sa.String, nullable=False),  # ISO 8601 UTC: the next load reads from here, the overlap before it
    sa.Column("rows_before", sa.BigInteger, nullable=False),  # of the source with a watermark before `since`
    sa.Column("fingerprint", sa.String, nullable=False),  # of those rows, an integer: the sum of their hashes
    sa.Column("mapping", sa.String, nullable=False),  # JSON, ours: theirs
    sa.Column("reading", sa.String, nullable=False),  # JSON: host, database, query; another one is read from the start
)
SOURCE_TYPES = sa.Table(  # in which types a typed source (Parquet, a database) has delivered
    "source_types", METADATA,
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("reading", sa.String, nullable=False),  # JSON: path or database, query and columns; another one is new
    sa.Column("types", sa.String, nullable=False),  # JSON: their column -> families, such as ["decimal"]
)
QUALITY = sa.Table(  # the scorecard: one row a load, table and dimension of data quality
    "quality", METADATA,
    sa.Column("as_of", sa.String, primary_key=True),
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("dimension", sa.String, primary_key=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("failing", sa.Integer, nullable=False),
    sa.Column("score", sa.Float),  # null: no new rows to judge
    sa.Column("detail", sa.String, nullable=False),  # JSON: rows failing per check, measures and their limits
)
FORGOTTEN = sa.Table(  # who was erased, as a salted hash: their rows do not come back from a source
    "forgotten", METADATA,
    sa.Column("entity_hash", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
)
CLOCK = sa.Table("clock", METADATA, sa.Column("name", sa.String, primary_key=True), sa.Column("as_of", sa.String))
RELEASES = sa.Table(
    "releases", METADATA,
    sa.Column("release_id", sa.String, primary_key=True),  # the Bento's tag
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("as_of", sa.String, nullable=False),
    sa.Column("auc", sa.Float, nullable=False),
    sa.Column("monthly_value", sa.Float, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("port", sa.Integer),  # loopback port while its process is wanted, else null
)
ROLLOUTS = sa.Table(
    "rollouts", METADATA,
    sa.Column("rollout_id", sa.String, primary_key=True),
    sa.Column("release_id", sa.String, nullable=False),
    sa.Column("champion_id", sa.String),  # the release that was champion when it was opened
    sa.Column("strategy", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # packaged, smoke-tested, canary, champion, rolled back
    sa.Column("stage", sa.Integer, nullable=False),  # index into the charter's stages
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("opened_at", sa.String, nullable=False),
    sa.Column("stage_since", sa.String, nullable=False),
    sa.Column("closed_at", sa.String),
    sa.Column("reason", sa.String),
    sa.Column("evidence", sa.String, nullable=False),  # JSON: e-values of the stages behind it
)
USED_DECISIONS = sa.Table(
    "used_decisions", METADATA,
    sa.Column("decision_id", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("flow_run_id", sa.String),
)


@lru_cache(maxsize=8)
def open_state(url: str) -> sa.Engine:
    """The store at `url`, made if it is new.

    Raises:
        PlatformError: it cannot be read; an unreadable ledger is never taken for an empty one.
    """
    engine = sa.create_engine(url)
    try:
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _wait_for_others)
            _make_sqlite(engine, Path(url.removeprefix("sqlite:///")))
        else:
            METADATA.create_all(engine)
    except (sa.exc.DatabaseError, OSError) as error:
        cause = str(error.orig) if isinstance(error, sa.exc.DatabaseError) else str(error)
        raise PlatformError(f"cannot use our state at {engine.url.database}: {cause.splitlines()[0]}. "
                            "Restore the file from a backup, or set CHURN_HOME to another folder") from error
    return engine


def _make_sqlite(engine: sa.Engine, path: Path) -> None:
    """One process at a time: who goes over to WAL is refused, whatever its patience, while others make tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # the file keeps it
        METADATA.create_all(engine)


def _wait_for_others(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA busy_timeout=10000")


def now() -> str:
    """Wall time as the store writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class LedgerRow:
    """A recorded decision."""

    decision_id: str
    at: str
    as_of: str | None
    decision: Decision
    subject: str | None
    flow_run_id: str | None


def record_decision(
    engine: sa.Engine,
    decision: Decision,
    *,
    as_of: datetime | None,
    subject: str | None = None,
    flow_run_id: str | None = None,
) -> str:
    """Write a verdict to the ledger; returns its `decision_id`."""
    decision_id = uuid.uuid4().hex
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert().values(
            decision_id=decision_id, at=now(), as_of=as_of.isoformat() if as_of else None, gate=decision.gate,
            verdict=decision.verdict, reason=decision.reason, evidence=json.dumps(dict(decision.evidence)),
            subject=subject, flow_run_id=flow_run_id,
        ))
    return decision_id


def read_decisions(
    engine: sa.Engine, *, gate: str | None = None, subject: str | None = None, limit: int = 100
) -> list[LedgerRow]:
    """The ledger, newest first."""
    query = sa.select(DECISIONS).order_by(DECISIONS.c.at.desc()).limit(limit)
    if gate:
        query = query.where(DECISIONS.c.gate == gate)
    if subject:
        query = query.where(DECISIONS.c.subject == subject)
    with engine.connect() as connection:
        return [_ledger_row(row) for row in connection.execute(query).mappings()]


def read_decision(engine: sa.Engine, decision_id: str) -> LedgerRow | None:
    """One decision, or None."""
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(DECISIONS).where(DECISIONS.c.decision_id == decision_id)
        ).mappings().first()
    return _ledger_row(row) if row else None


def _ledger_row(row: Mapping[Any, Any]) -> LedgerRow:
    decision = Decision(row["gate"], row["verdict"], row["reason"], json.loads(row["evidence"]))
    return LedgerRow(row["decision_id"], row["at"], row["as_of"], decision, row["subject"], row["flow_run_id"])


def use_decision(engine: sa.Engine, decision_id: str, *, flow_run_id: str | None) -> bool:
    """Mark a decision as acted on; False when somebody was first."""
    try:
        with engine.begin() as connection:
            connection.execute(
                USED_DECISIONS.insert().values(decision_id=decision_id, at=now(), flow_run_id=flow_run_id)
            )
    except sa.exc.IntegrityError:
        return False
    return True


def last_load(engine: sa.Engine) -> datetime | None:
    """`as_of` of the last committed ingest: the watermark."""
    with engine.connect() as connection:
        latest = connection.execute(sa.select(sa.func.max(LOADS.c.as_of))).scalar()
    return datetime.fromisoformat(latest) if latest else None


def read_clock(engine: sa.Engine) -> datetime | None:
    """The simulated date, or None where the clock was never set."""
    with engine.connect() as connection:
        value = connection.execute(sa.select(CLOCK.c.as_of).where(CLOCK.c.name == "platform")).scalar()
    return datetime.fromisoformat(value) if value else None


def set_clock(engine: sa.Engine, as_of: datetime) -> None:
    """Move the simulated date."""
    with engine.begin() as connection:
        connection.execute(CLOCK.delete().where(CLOCK.c.name == "platform"))
        connection.execute(CLOCK.insert().values(name="platform", as_of=as_of.isoformat()))
