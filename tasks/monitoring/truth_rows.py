"""Who was scored, and what became of them. Reads the shipped predictions, batch scores and the contract's hold-out.

A row is a customer and a cut, the date of the features that were scored. What was served goes before what the batch
said, for it is what somebody acted on.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

import polars as pl

from models.charter import Charter
from models.contract import Contract
from models.errors import DataError
from models.serving.scorer import in_holdout
from tasks.data.lake import stamp
from tasks.data.sources import POLARS_TYPES
from tasks.home import Home
from tasks.monitoring.predictions import scan_predictions

CUT: Final = "event_timestamp"
NOT_ELIGIBLE: Final = "not_eligible"  # left before the cut: a release's view of them decides nothing
SERVED, BATCH = "served", "batch"
MOMENT: Final = POLARS_TYPES["timestamp"]
_COLUMNS: Final[dict[str, Any]] = {
    CUT: MOMENT, "release_id": pl.String, "model_version": pl.String, "probability": pl.Float64, "action": pl.String,
    "why": pl.String, "source": pl.String, "features": pl.String, "at": MOMENT,
}


def served_rows(home: Home, entity_key: str, *, since: datetime | None = None) -> pl.LazyFrame:
    """Every answer a client got about a customer whose features came from the store; not in order.

    Args:
        since: wall time; earlier answers are not read.

    Returns:
        Entity key (String), cut, release, model version, probability, action, why, `source`, `features` (JSON), `at`.
    """
    rows = scan_predictions(home, since=since).filter(
        pl.col("entity").is_not_null() & pl.col("features_as_of").is_not_null() & (pl.col("why") != NOT_ELIGIBLE))
    return rows.select(
        pl.col("entity").cast(pl.String).alias(entity_key), pl.col("features_as_of").cast(MOMENT).alias(CUT),
        "release_id", "model_version", "probability", "action", "why", pl.lit(SERVED).alias("source"), "features",
        pl.col("at").cast(MOMENT))


def batch_rows(home: Home, entity_key: str, *, skip: Collection[datetime] = ()) -> pl.LazyFrame:
    """Every row of `lake/scores`, with the columns of `served_rows`; `features` and `at` are null.

    Args:
        skip: dates whose scores are not read.
    """
    left_out = {f"as_of={stamp(moment)}.parquet" for moment in skip}
    found = [
        pl.scan_parquet(path, glob=False, hive_partitioning=False)
        .filter(pl.col("why").cast(pl.String) != NOT_ELIGIBLE)
        .select(pl.col(entity_key).cast(pl.String), pl.col("as_of").cast(MOMENT).alias(CUT),
                pl.col("release_id").cast(pl.String), pl.lit(None, pl.String).alias("model_version"),
                pl.col("churn_probability").alias("probability"), pl.col("decision").cast(pl.String).alias("action"),
                pl.col("why").cast(pl.String), pl.lit(BATCH).alias("source"),
                pl.lit(None, pl.String).alias("features"), pl.lit(None, MOMENT).alias("at"))
        for path in sorted((home.lake / "scores").glob("as_of=*.parquet")) if path.name not in left_out
    ]
    return pl.concat([pl.LazyFrame(schema={entity_key: pl.String, **_COLUMNS}), *found])


def join_outcomes(
    rows: pl.DataFrame, labels: pl.DataFrame, contacted: pl.DataFrame, contract: Contract
) -> pl.DataFrame:
    """The rows, in their order, with `outcome` (f64, null where there is no label) and `was_contacted` (bool).

    Args:
        rows: entity key as String and cut; `labels` and `contacted` of the same cuts
            (`tasks.features.snapshots.read_labels`, `tasks.training.contacts.read_contacted`).
    """
    keys = [contract.entity_key, CUT]
    entity = pl.col(contract.entity_key).cast(pl.String)
    known = labels.select(entity, CUT, pl.col(contract.label).cast(pl.Float64).alias("outcome"))
    marks = contacted.select(entity, CUT, pl.lit(True).alias("was_contacted"))
    return rows.join(known, on=keys, how="left", maintain_order="left").join(
        marks, on=keys, how="left", maintain_order="left").with_columns(pl.col("was_contacted").fill_null(False))


def holdout_flags(entities: pl.Series, charter: Charter) -> pl.Series:
    """Who is never contacted, bool, shape (n,)."""
    return pl.Series("holdout", [in_holdout(one, salt=charter.name, share=charter.value.holdout_share)
                                 for one in entities], dtype=pl.Boolean)


def rows_of_release(cut: datetime, rows: pl.DataFrame, key: str, release_id: str) -> pl.DataFrame:
    """The release's rows of one cohort, sorted by customer.

    Raises:
        DataError: a customer stands twice in it, a row is of another cut, or a probability, label or weight is none.
    """
    mine = rows.filter(pl.col("release_id") == release_id).sort(key)
    if (mine[CUT] != cut).any():
        raise DataError(f"lake/truth has rows of another cut in the file of {cut:%Y-%m-%d}. Restore it, or move it "
                        "away: it is taken anew")
    if mine[key].is_duplicated().any():
        raise DataError("lake/truth has a customer twice in a cohort. Restore it, or move it away: it is taken anew")
    counted = mine.filter(pl.col("weight").is_not_null())
    for name, fine in (
        ("probability", pl.col("probability").is_between(0, 1)), ("label", pl.col("label").is_in([0.0, 1.0])),
        ("weight", pl.col("weight").is_finite() & (pl.col("weight") > 0)), ("contacted", ~pl.col("contacted")),
        ("labelled_as_of", pl.col("labelled_as_of").is_not_null()),
    ):
        bad = int(counted.select((~fine.fill_null(False)).sum()).item() or 0)
        if bad:
            raise DataError(f"lake/truth has {bad:,} counted rows of {release_id} whose {name} cannot be. Restore it, "
                            "or move it away: it is taken anew")
    return mine
