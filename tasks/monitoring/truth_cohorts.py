"""Cohorts measured. Reads `lake/truth` and the snapshots of its cuts; writes what a closed cohort came to beside it.

A cohort is measured once, when it is closed: later its snapshot may be gone. It is measured again where its rows
changed (a person was erased) or the charter counts money otherwise.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.errors import describe
from models.evaluation.cohort import Cohort, Measured, Part, measure_part
from models.evaluation.segments import segment_levels
from models.training.contacts import MOST_UNREPRESENTED
from tasks.data.lake import beside, hash_file
from tasks.features.snapshots import build_snapshot
from tasks.home import Home
from tasks.monitoring.truth import cohorts_until, truth_partition

MOST_MATURE: Final = 24  # newest cohorts reported
MOST_ROWS: Final = 50_000  # of a cohort, for scores and intervals: of more, every so-manieth customer
EDITION: Final = 1  # raise it with every change of what is measured


def describe_cohorts(
    home: Home, engine: sa.Engine, charter: Charter, contract: Contract, *, as_of: datetime, memory_limit: str
) -> tuple[Cohort, ...]:
    """Every cohort that is waited for, and the newest mature ones with what they came to; newest last."""
    found: list[Cohort] = []
    mature = 0
    for cut, rows in cohorts_until(home, as_of):
        mature += cut + charter.problem.maturity <= as_of
        if mature > MOST_MATURE:
            break
        found.append(_describe(cut, rows, home, engine, charter, contract, as_of, memory_limit))
    return tuple(reversed(found))


def _describe(
    cut: datetime, rows: pl.DataFrame, home: Home, engine: sa.Engine, charter: Charter, contract: Contract,
    as_of: datetime, memory_limit: str,
) -> Cohort:
    cohort = Cohort(
        cut=cut, mature_at=cut + charter.problem.maturity, rows=len(rows),
        served=int((rows["source"] == "served").sum()),
        releases=tuple(rows["release_id"].drop_nulls().unique().sort()),
    )
    if cohort.mature_at > as_of:
        return cohort
    labelled = rows.filter(pl.col("label").is_not_null())
    cohort = replace(cohort, labelled=len(labelled), churners=int(labelled["label"].sum()),
                     contacted=int(rows["contacted"].fill_null(False).sum()))
    if rows["weight"].is_not_null().any():
        return replace(cohort, measured=_measured(cut, labelled, home, engine, charter, contract, memory_limit))
    if cohort.coverage < charter.monitoring.least_label_coverage:
        return replace(cohort, fault=f"{cohort.coverage:.1%} of {cohort.rows:,} customers have a label, at least "
                                     f"{charter.monitoring.least_label_coverage:.0%} are asked")
    return replace(cohort, fault=f"{cohort.contacted:,} of {cohort.rows:,} customers were contacted, and for more than "
                                 f"{MOST_UNREPRESENTED:.0%} of all nobody like them was left alone")


def _measured(
    cut: datetime, labelled: pl.DataFrame, home: Home, engine: sa.Engine, charter: Charter, contract: Contract,
    memory_limit: str,
) -> Measured:
    """As written when the cohort was closed, where that still holds."""
    parquet = truth_partition(home, cut)
    path, key = parquet.with_suffix(".json"), _key(parquet, charter)
    known = _read(path)
    if known is not None and known.get("key") == key:
        return Measured.from_dict(known["measured"])
    measured = measure_cohort(cut, labelled, home, engine, charter, contract, memory_limit=memory_limit)
    with beside(path) as file:
        file.write_text(json.dumps({"key": key, "measured": measured.to_dict()}, sort_keys=True), encoding="utf-8")
    return measured


def _key(parquet: Path, charter: Charter) -> str:
    said = json.dumps([EDITION, hash_file(parquet), charter.value.model_dump(mode="json"),
                       list(charter.requirements.protected)])
    return hashlib.sha256(said.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """What lies there; None where nothing does, or nothing that can be read: it is measured again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def measure_cohort(
    cut: datetime, labelled: pl.DataFrame, home: Home, engine: sa.Engine, charter: Charter, contract: Contract, *,
    memory_limit: str,
) -> Measured:
    """Scores of a closed cohort: of all who count, by segment, by release, of the hold-out; the contacted apart.

    Args:
        labelled: its rows with a label.
    """
    key = contract.entity_key
    counted = _sample(labelled.filter(pl.col("weight").is_not_null()))
    try:
        segments, why_none = _segments(cut, counted, home, engine, charter, contract, memory_limit), None
    except Exception as error:  # without its snapshot a cohort is still judged as a whole
        segments, why_none = {}, f"no segments: {describe(error)}"

    def part(name: str, rows: pl.DataFrame, levels: dict[str, np.ndarray]) -> Part:
        y, probability, weight = (rows[column].to_numpy() for column in ("label", "probability", "weight"))
        return measure_part(name, y, probability, rows[key].to_numpy(), weight, value=charter.value, segments=levels)

    holdout = counted.filter(pl.col("holdout"))
    contacted = labelled.filter(pl.col("contacted"))
    return Measured(
        part("all", counted, segments),
        tuple(part(str(release), counted.filter(pl.col("release_id") == release), {})
              for release in counted["release_id"].unique().sort()),
        part("hold-out", holdout, {}) if len(holdout) else None,
        _rates("contacted", contacted) if len(contacted) else None,
        why_none,
    )


def _rates(name: str, rows: pl.DataFrame) -> Part:
    """Rates alone: a contact changed the outcome, so it says nothing of the prediction."""
    churned, probability = rows.select(pl.col("label").mean(), pl.col("probability").mean()).row(0)
    return Part(name, len(rows), float(churned), float(probability))


def _segments(
    cut: datetime, counted: pl.DataFrame, home: Home, engine: sa.Engine, charter: Charter, contract: Contract,
    memory_limit: str,
) -> dict[str, np.ndarray]:
    """Level of each row, by the contract's segment columns and the charter's protected ones; each of shape (n,)."""
    protected = charter.requirements.protected
    cutting = replace(contract, snapshot=tuple(
        replace(one, segment=True) if one.name in protected else one for one in contract.snapshot))
    names = [one.name for one in cutting.features if one.segment]
    key = contract.entity_key
    path = build_snapshot(contract, None, home=home, engine=engine, cut=cut, memory_limit=memory_limit)
    features = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(
        pl.col(key).cast(pl.String), *names).collect()
    rows = counted.select(key).join(features, on=key, how="left", maintain_order="left")
    return segment_levels(rows.to_pandas(), cutting)


def _sample(rows: pl.DataFrame) -> pl.DataFrame:
    """At most `MOST_ROWS`, evenly from all, in the order of the entities."""
    if len(rows) <= MOST_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int)]
