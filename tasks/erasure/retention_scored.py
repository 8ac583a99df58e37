"""Retention of what was scored. Says of predictions, batch scores and truth which files nothing needs any more.

Each function yields every file and why it can go; `?` and why that cannot be told; empty where it is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from tasks.data.lake import parse_stamp
from tasks.home import Home
from tasks.monitoring.predictions import SERVED
from tasks.monitoring.truth import truth_folder
from tasks.monitoring.truth_rows import NOT_ELIGIBLE
from tasks.release.rollouts import open_rollout
from tasks.tables import ROLLOUTS


def old_predictions(
    home: Home, engine: sa.Engine, *, now: datetime, maturity: timedelta, followed: Collection[datetime]
) -> Iterator[tuple[Path, str]]:
    """A prediction is needed until truth has it with its label, and while a champion that answered it is not baked.

    Args:
        followed: cuts whose predictions were joined to their labels, for good.
    """
    with engine.connect() as connection:
        unbaked = connection.execute(sa.select(sa.func.max(ROLLOUTS.c.closed_at)).where(
            ROLLOUTS.c.state == "champion")).scalar()
    since = datetime.fromisoformat(unbaked) if unbaked else None
    for path in sorted((home.lake / "predictions").glob("*/*")):
        date = parse_stamp(path.parent.name.removeprefix("date="))
        if date is None or path.suffix != ".parquet" or not path.name.startswith("part-"):
            yield path, "?its name is no part of a date's predictions"
        elif date + timedelta(days=1) + maturity > now or (since and date + timedelta(days=1) > since):
            yield path, ""
        elif (cuts := _cuts_served(path)) is None:
            yield path, "?it cannot be read"
        elif not cuts <= set(followed):
            yield path, ""
        else:
            yield path, "it was joined to its labels, and no champion is still compared on it"


def _cuts_served(path: Path) -> set[datetime] | None:
    """The cuts whose features were served in a part of the predictions; None where it cannot be read."""
    try:
        rows = pl.scan_parquet(path, glob=False, hive_partitioning=False).filter(
            pl.col("role").is_in(SERVED), pl.col("entity").is_not_null(), pl.col("features_as_of").is_not_null(),
            pl.col("why") != NOT_ELIGIBLE)
        return set(rows.select(pl.col("features_as_of").unique()).collect()["features_as_of"])
    except (pl.exceptions.PolarsError, OSError):
        return None


def truth_files(home: Home) -> Iterator[tuple[Path, str]]:
    """Every cohort stays: a handful of columns, and all that says how well who served was."""
    for path in sorted(truth_folder(home).glob("*")):
        known = path.name.startswith("cut=") and path.suffix in (".parquet", ".json")
        cohort = known and parse_stamp(path.stem.removeprefix("cut="))
        yield path, "" if cohort else "?its name is no cohort's"


def old_batch_scores(home: Home, engine: sa.Engine) -> Iterator[tuple[Path, str]]:
    """What a release on trial says of a snapshot is needed by its judge, and by nobody afterwards."""
    rollout = open_rollout(engine)
    judged = rollout.release_id.replace(":", "-") if rollout else None
    for path in sorted((home.lake / "batch-scores").glob("*/*")):
        yield path, "" if path.parent.name == judged else "no rollout is judged by it"
