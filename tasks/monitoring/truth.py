"""Truth stage. Reads what was served and scored, labels and contacts once they are mature; writes `lake/truth`.

    lake/truth/cut=STAMP.parquet   one row a customer of the cohort: what was said of them, later what they did
    lake/truth/cut=STAMP.json      how well, once that is known (tasks/monitoring/truth_cohorts.py)

While nothing of a cohort is labelled, customers are added, and an answer that a client got takes the place of the
batch row. From the first label on no prediction is added or changed; a label that was read stays. A cohort whose
labels suffice is closed: its rows get their weights, and nothing of it changes any more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.errors import DataError, describe
from models.evaluation.cohort import Cohort
from models.gates.performance import Floors, judge_labels, judge_performance
from models.gates.signals import Signal
from models.training.contacts import MOST_UNREPRESENTED, weigh_uncontacted
from tasks.data.lake import parse_stamp, stamp, write_partition
from tasks.features.snapshots import read_labels
from tasks.home import MEMORY_LIMIT, Home
from tasks.locks import hold
from tasks.monitoring.due import due_cuts
from tasks.monitoring.truth_rows import (
    BATCH,
    CUT,
    MOMENT,
    SERVED,
    batch_rows,
    holdout_flags,
    join_outcomes,
    served_rows,
)
from tasks.release.releases import read_releases
from tasks.training.contacts import read_contacted

LOCK: Final = "truth"
LOGGER: Final = logging.getLogger(__name__)
COLUMNS: Final[dict[str, Any]] = {  # after the entity key, which is a String
    CUT: MOMENT, "release_id": pl.String, "model_version": pl.String, "probability": pl.Float64, "action": pl.String,
    "why": pl.String, "source": pl.String, "label": pl.Float64, "contacted": pl.Boolean, "holdout": pl.Boolean,
    "weight": pl.Float64, "labelled_as_of": MOMENT,
}


@dataclass(frozen=True)
class TruthReport:
    """What is known of the predictions that were made, and what to think of it."""

    cohorts: tuple[Cohort, ...]  # newest last
    labels: Signal
    performance: Signal


def truth_folder(home: Home) -> Path:
    return home.lake / "truth"


def truth_partition(home: Home, cut: datetime) -> Path:
    return truth_folder(home) / f"cut={stamp(cut)}.parquet"


def truth_cuts(home: Home) -> list[datetime]:
    """The cohorts there are, by their cuts; oldest first."""
    names = (path.name.removeprefix("cut=").removesuffix(".parquet")
             for path in truth_folder(home).glob("cut=*.parquet"))
    return sorted(cut for name in names if (cut := parse_stamp(name)) is not None)


def closed_cuts(home: Home) -> frozenset[datetime]:
    """Cohorts that nothing is added to any more: what they were taken from may go.

    Raises:
        DataError: a file of them cannot be read.
    """
    return frozenset(cut for cut in truth_cuts(home) if _has(home, cut, "weight"))


def read_cohort(home: Home, cut: datetime, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of one cohort, sorted by entity; the columns are the entity key and `COLUMNS`, or those named.

    `label` is null until it is known. `weight`, what a row counts among the uncontacted of its cohort, is null
    where it counts for nothing: contacted, without a label, or of a cohort that is not closed.

    Raises:
        DataError: the file cannot be read.
    """
    path = truth_partition(home, cut)
    try:
        return pl.read_parquet(path, columns=None if columns is None else list(columns), glob=False,
                               hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"cannot read the truth of {cut:%Y-%m-%d} ({path.name}): {type(error).__name__}. Bring it back "
                        "from a backup, or move it away: it is taken anew from what is left of the predictions"
                        ) from None


def follow_truth(
    home: Home, engine: sa.Engine, charter: Charter, contract: Contract, *, as_of: datetime,
    memory_limit: str = MEMORY_LIMIT,
) -> TruthReport:
    """Bring `lake/truth` up to `as_of`, and judge the labels and, by them, the model.

    The same `as_of` over the same data writes the same bytes; killed at any moment and run again, it ends the same.
    Whatever fails is a signal that is broken, and says why.
    """
    from tasks.monitoring.truth_cohorts import describe_cohorts

    faults: dict[str, str] = {}
    cohorts: tuple[Cohort, ...] = ()
    lost: frozenset[datetime] = frozenset()
    try:
        with hold(home, LOCK):
            _take_predictions(home, engine, charter, contract, as_of)
            try:
                _read_outcomes(home, engine, charter, contract, as_of, memory_limit)
            except Exception as error:  # what is known already is still judged
                LOGGER.exception("the labels could not be read")
                faults["labels"] = f"the labels could not be read: {describe(error)}"
            cohorts = describe_cohorts(home, engine, charter, contract, as_of=as_of, memory_limit=memory_limit)
            lost = due_cuts(engine, charter, as_of=as_of).difference(truth_cuts(home))
    except Exception as error:  # the gate fails closed
        LOGGER.exception("truth could not be followed")
        faults |= {name: f"truth could not be followed: {describe(error)}" for name in ("labels", "performance")}
    labels = (Signal("labels", "broken", faults["labels"]) if "labels" in faults
              else judge_labels(cohorts, charter.monitoring, as_of=as_of, lost=tuple(lost)))
    performance = (Signal("performance", "broken", faults["performance"]) if "performance" in faults
                   else judge_performance(cohorts, Floors.of(charter.monitoring, charter.promotion),
                                          protected=charter.requirements.protected, as_of=as_of, lost=tuple(lost)))
    return TruthReport(cohorts, labels, performance)


def _take_predictions(home: Home, engine: sa.Engine, charter: Charter, contract: Contract, as_of: datetime) -> None:
    """Add who was scored since, each customer once a cohort, to the cohorts of which no label was read."""
    key = contract.entity_key
    known = truth_cuts(home)
    frozen = [cut for cut in known if _has(home, cut, "labelled_as_of")]
    wanted = (pl.col(CUT) <= as_of) & ~pl.col(CUT).is_in(pl.Series(frozen, dtype=MOMENT).implode())
    # What was taken stays, but an answer somebody got goes before the batch; of several answers the first counts.
    new = pl.concat([served_rows(home, key).filter(wanted), batch_rows(home, key, skip=frozen).filter(wanted)])
    found = new.select(pl.exclude("features")).collect().sort(
        pl.col("source") == BATCH, "at", CUT, key, "release_id", nulls_last=True, maintain_order=True)
    versions = {one.release_id: one.model_version for one in read_releases(engine)}
    for (cut,), rows in sorted(found.partition_by(CUT, as_dict=True).items()):
        if not isinstance(cut, datetime):
            continue
        old = read_cohort(home, cut) if cut in known else _empty(key)
        fresh = rows.with_columns(
            pl.col("model_version").fill_null(pl.col("release_id").replace_strict(
                versions, default=None, return_dtype=pl.String)),
            holdout_flags(rows[key], charter),
        ).select(key, CUT, "release_id", "model_version", "probability", "action", "why", "source", "holdout")
        merged = pl.concat([old, fresh], how="diagonal").sort(
            pl.col("source") != SERVED, maintain_order=True).unique(key, keep="first", maintain_order=True).sort(key)
        if not merged.equals(old):
            write_partition(merged.select(key, *COLUMNS), truth_partition(home, cut))


def _read_outcomes(
    home: Home, engine: sa.Engine, charter: Charter, contract: Contract, as_of: datetime, memory_limit: str
) -> None:
    """The labels and contacts of cohorts that are mature and not closed."""
    opened = {cut: read_cohort(home, cut) for cut in truth_cuts(home)
              if cut + charter.problem.maturity <= as_of and not _has(home, cut, "weight")}
    if not opened:
        return
    cuts = list(opened)
    labels = read_labels(contract, problem=charter.problem, home=home, engine=engine, cuts=cuts, as_of=as_of,
                         memory_limit=memory_limit)
    contacted = read_contacted(contract, charter, home=home, engine=engine, cuts=cuts, as_of=as_of,
                               memory_limit=memory_limit)
    for cut, rows in opened.items():
        known = label_cohort(rows, labels, contacted, contract, charter, as_of=as_of)
        if not known.equals(rows):
            write_partition(known, truth_partition(home, cut))


def label_cohort(
    rows: pl.DataFrame, labels: pl.DataFrame, contacted: pl.DataFrame, contract: Contract, charter: Charter, *,
    as_of: datetime,
) -> pl.DataFrame:
    """The rows of one mature cohort with the labels there are and, where they suffice, what each row counts.

    Contacted customers count nothing, and those alike for them, by the score they were decided on
    (`models.training.contacts`). Where for too many of them nobody was left alone, none counts.
    """
    joined = join_outcomes(rows, labels, contacted, contract)
    newly = pl.col("label").is_null() & pl.col("outcome").is_not_null()
    known = joined.with_columns(
        pl.coalesce("label", "outcome").alias("label"), pl.col("was_contacted").alias("contacted"),
        pl.when(newly).then(pl.lit(as_of, MOMENT)).otherwise("labelled_as_of").alias("labelled_as_of"),
    ).select(rows.columns)
    has_label = known["label"].is_not_null().to_numpy()
    if not len(known) or has_label.mean() < charter.monitoring.least_label_coverage:
        return known
    weights = weigh_uncontacted(*(known.filter(has_label)[name].to_numpy()
                                  for name in ("contacted", "holdout", "probability")))
    if weights.unrepresented > MOST_UNREPRESENTED * has_label.sum():
        return known
    weight = np.full(len(known), np.nan)
    weight[np.flatnonzero(has_label)[weights.kept]] = weights.weight
    return known.with_columns(pl.Series("weight", weight).fill_nan(None))


def cohorts_until(
    home: Home, as_of: datetime, *, columns: Sequence[str] | None = None, newest_first: bool = True
) -> Iterator[tuple[datetime, pl.DataFrame]]:
    """Each cohort whose cut is not after `as_of`, with its rows: one at a time, for all of them may not fit."""
    for cut in sorted(truth_cuts(home), reverse=newest_first):
        if cut <= as_of:
            yield cut, read_cohort(home, cut, columns=columns)


def _has(home: Home, cut: datetime, column: str) -> bool:
    """Whether any row of a cohort has a value: of `weight`, whether it is closed."""
    return bool(read_cohort(home, cut, columns=[column])[column].is_not_null().any())


def _empty(entity_key: str) -> pl.DataFrame:
    return pl.DataFrame(schema={entity_key: pl.String, **COLUMNS})
