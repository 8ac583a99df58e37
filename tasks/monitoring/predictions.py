"""The shipped predictions as a frame. Reads `lake/predictions`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final

import polars as pl

from tasks.home import Home
from tasks.monitoring.roles import Role
from tasks.monitoring.ship_log import SCHEMA, predictions_folder

SERVED: Final[tuple[Role, ...]] = ("served",)
KEY: Final = ("request_id", "row", "release_id", "attempt")


def read_predictions(
    home: Home, *, since: datetime | None = None, until: datetime | None = None,
    roles: Collection[Role] = SERVED,
) -> pl.DataFrame:
    """Predictions at `since <= at < until`, each once, in the order of `at`.

    Returns:
        The columns of `tasks.monitoring.ship_log.SCHEMA`; `features` is a JSON object, as the model saw it.
    """
    return scan_predictions(home, since=since, until=until, roles=roles).sort("at", *KEY).collect()


def scan_predictions(
    home: Home, *, since: datetime | None = None, until: datetime | None = None,
    roles: Collection[Role] = SERVED,
) -> pl.LazyFrame:
    """The same, in no order and not read yet: who selects columns reads no others."""
    files = [path for path in sorted(predictions_folder(home).glob("date=*/part-*.parquet"))
             if (since is None or path.parent.name >= f"date={since.astimezone(UTC):%Y-%m-%d}")
             and (until is None or path.parent.name <= f"date={until.astimezone(UTC):%Y-%m-%d}")]
    if not files:
        return pl.LazyFrame(schema=SCHEMA)
    rows = pl.scan_parquet(files, glob=False, hive_partitioning=False)
    if since is not None:
        rows = rows.filter(pl.col("at") >= since)
    if until is not None:
        rows = rows.filter(pl.col("at") < until)
    # A line that was shipped twice is the same, but where Envoy's was missing the first time.
    once = rows.sort(pl.col("role") == "unrouted", maintain_order=True).unique(KEY, keep="first", maintain_order=True)
    return once.filter(pl.col("role").is_in(list(roles)))
