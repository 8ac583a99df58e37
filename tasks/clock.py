"""The platform clock. Reads and moves the durable date everything but Envoy and the ledger's `at` lives by.

Wall time for live sources; where the charter has `first_as_of`, a simulated date that starts there and
is moved only by a run with an explicit `as_of`: in data of 1998, by wall time, everyone has churned.
"""

from __future__ import annotations

import os
from datetime import UTC, date, datetime

import sqlalchemy as sa

from models.charter import Charter
from models.errors import ConfigError
from tasks.home import Home
from tasks.state import last_load, read_clock, set_clock


def platform_now(engine: sa.Engine, charter: Charter) -> datetime:
    """Now, by the platform clock, in UTC."""
    if charter.problem.first_as_of is None:
        return datetime.now(UTC)
    return read_clock(engine) or charter.problem.first_as_of


def data_now(engine: sa.Engine, charter: Charter) -> datetime:
    """The `as_of` of the last load: what every flow but ingest means by now.

    By wall time each flow would else look at a moment of its own, later than anything that was loaded.
    """
    return last_load(engine) or platform_now(engine, charter)


def move_clock(engine: sa.Engine, charter: Charter, home: Home, as_of: datetime) -> None:
    """Set a simulated clock to `as_of`, and write the file by which releases know it."""
    if charter.problem.first_as_of is not None:
        set_clock(engine, as_of)
    publish_clock(engine, charter, home)


def publish_clock(engine: sa.Engine, charter: Charter, home: Home) -> None:
    """Write `run/clock` for the serving processes: a simulated date, or `wall`."""
    home.run.mkdir(parents=True, exist_ok=True)
    simulated = charter.problem.first_as_of is not None
    beside = home.run / f"clock.{os.getpid()}.tmp"
    beside.write_text(platform_now(engine, charter).isoformat() if simulated else "wall", encoding="utf-8")
    beside.rename(home.run / "clock")


def parse_as_of(text: str) -> datetime:
    """`AS_OF` as a moment in UTC; a date means its midnight.

    Raises:
        ConfigError: not a date.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"cannot read AS_OF={text!r}: not a date. Write it as {date(2025, 2, 1)}") from None
    return as_utc(moment)


def as_utc(moment: datetime) -> datetime:
    """A naive moment is taken as UTC, an aware one converted."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
