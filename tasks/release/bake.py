"""Bake stage. Reads what champion and previous release say of the same rows, labels and contacts; writes lake/bake.

    lake/bake/ROLLOUT.parquet   one row a customer: both scores, and once it is mature the label

A row that was taken stays, with its scores, so that retention may drop what it was taken from; a label that was
read stays, for the judge's bets on it are made. The same `as_of` again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.errors import describe
from models.gates.bake import PairedLoss, Standing, brier_difference, reach_of
from models.serving.payload import load_payload
from models.training.contacts import weigh_uncontacted
from tasks.data.lake import write_partition
from tasks.data.sources import POLARS_TYPES
from tasks.features.snapshots import read_labels
from tasks.home import MEMORY_LIMIT, Home
from tasks.monitoring.truth_rows import CUT, holdout_flags, join_outcomes
from tasks.release import package
from tasks.release.bake_rows import champion_rows, previous_probability
from tasks.release.bake_state import verdicts
from tasks.release.rollouts import RolloutRow
from tasks.state import read_decisions
from tasks.training.contacts import read_contacted

NO_ROWS = ("nothing to judge: neither the prediction log in the lake nor a batch has a row that the champion scored "
           "since its promotion")


@dataclass(frozen=True)
class Bake:
    """What the judge is asked about."""

    loss: PairedLoss
    standing: Standing


def bake_partition(home: Home, rollout_id: str) -> Path:
    return home.lake / "bake" / f"{rollout_id}.parquet"


def bake_picture(home: Home, rollout_id: str) -> Path:
    return home.serving / "rollouts" / f"{rollout_id}-bake.png"


def collect(
    rollout: RolloutRow, charter: Charter, *, home: Home, engine: sa.Engine, as_of: datetime,
    memory_limit: str = MEMORY_LIMIT,
) -> Bake:
    """Take the rows there are at `as_of`, have both releases score them, and read the labels that are mature.

    Whatever fails is the `fault` of what comes back: the judge holds.
    """
    since = promoted_at(engine, charter, rollout, home=home, as_of=as_of)
    try:
        rows = _update(rollout, charter, since, home=home, engine=engine, as_of=as_of, memory_limit=memory_limit)
        fault = None if len(rows) else NO_ROWS
    except Exception as error:  # whatever it is, the gate fails closed: it holds and says why
        rows, fault = _empty("entity"), f"not compared: {describe(error)}"
    recommended = any(row.decision.verdict == "roll back" for row in verdicts(engine, rollout))
    judged = rows.filter(pl.col("labelled_as_of") <= as_of)
    return Bake(
        paired_loss(judged),
        Standing(since=since, now=as_of, maturity=charter.problem.maturity, fault=fault, recommended=recommended,
                 **_completeness(rows, judged)),
    )


def promoted_at(engine: sa.Engine, charter: Charter, rollout: RolloutRow, *, home: Home, as_of: datetime) -> datetime:
    """When the champion was promoted, by the platform clock: from the ledger.

    A flow that was killed between promoting and writing it down leaves the first cut of the bake's own rows.
    """
    for row in read_decisions(engine, gate="release", subject=rollout.release_id):
        if row.as_of and row.decision.verdict == "release" and row.decision.evidence.get(
                "rollout_id") == rollout.rollout_id:
            return datetime.fromisoformat(row.as_of)
    if charter.problem.first_as_of is None and rollout.closed_at:
        return datetime.fromisoformat(rollout.closed_at)
    path = bake_partition(home, rollout.rollout_id)
    first = pl.read_parquet(path)[CUT].min() if path.exists() else None
    return first.astimezone(UTC) if isinstance(first, datetime) else as_of


def _update(
    rollout: RolloutRow, charter: Charter, since: datetime, *, home: Home, engine: sa.Engine, as_of: datetime,
    memory_limit: str,
) -> pl.DataFrame:
    """The rows of the bake, brought up to `as_of` and written; sorted by cut and entity."""
    champion = _contract(home, rollout.release_id)
    key, path = champion.entity_key, bake_partition(home, rollout.rollout_id)
    rows = pl.read_parquet(path) if path.exists() else _empty(key)
    new = champion_rows(
        home, champion, release_id=rollout.release_id, promoted=since,
        promoted_wall=datetime.fromisoformat(str(rollout.closed_at)),
        until=min(as_of, since + charter.problem.maturity),
    ).join(rows, on=key, how="anti")
    # A cut whose labels were read is closed: its bets are made.
    closed = rows.filter(pl.col("labelled_as_of").is_not_null())[CUT].unique()
    new = new.filter(~pl.col(CUT).is_in(closed.implode()))
    if len(new):
        previous = load_payload(package.bento_payload(home, str(rollout.champion_id)))
        scores = previous_probability(new, previous, champion, home=home, engine=engine, memory_limit=memory_limit)
        scored = new.select(key, CUT, "champion", pl.Series("previous", scores).fill_nan(None),
                            pl.col("features").is_not_null().alias("logged"))
        rows = pl.concat([rows, scored], how="diagonal").sort(CUT, key)
    mature = [cut for cut in rows.filter(pl.col("labelled_as_of").is_null())[CUT].unique().sort()
              if cut + charter.problem.maturity <= as_of]
    if mature:
        labels = read_labels(champion, problem=charter.problem, home=home, engine=engine, cuts=mature, as_of=as_of,
                             memory_limit=memory_limit)
        contacted = read_contacted(champion, charter, home=home, engine=engine, cuts=mature, as_of=as_of,
                                   memory_limit=memory_limit)
        rows = label_rows(rows, labels, contacted, champion, charter, cuts=mature, as_of=as_of)
    write_partition(rows, path)
    return rows


def label_rows(
    rows: pl.DataFrame, labels: pl.DataFrame, contacted: pl.DataFrame, contract: Contract, charter: Charter, *,
    cuts: list[datetime], as_of: datetime,
) -> pl.DataFrame:
    """The rows with the labels of `cuts`, what each counts, and how far each cut's losses could have been apart.

    A contacted customer counts nothing and those alike count for them, by the score that contacts follow: the
    champion's (`models.training.contacts`).
    """
    key = contract.entity_key
    done = [rows.filter(~pl.col(CUT).is_in(cuts))]
    for cut in cuts:
        here = join_outcomes(rows.filter(pl.col(CUT) == cut), labels, contacted, contract).with_columns(
            pl.col("outcome").alias("label"), pl.col("was_contacted").alias("contacted"),
            pl.lit(as_of, POLARS_TYPES["timestamp"]).alias("labelled_as_of"))
        both = (here["previous"].is_not_null() & here["label"].is_not_null()).to_numpy()
        pairs = here.filter(both)
        holdout = holdout_flags(pairs[key], charter).to_numpy()
        weights = weigh_uncontacted(pairs["contacted"].to_numpy(), holdout, pairs["champion"].to_numpy())
        counts = weights.weight * len(weights.weight) / max(len(pairs), 1)  # 1 on average, so that bets are on a mean
        weight = np.full(len(here), np.nan)
        weight[np.flatnonzero(both)[weights.kept]] = counts
        kept = pairs.filter(weights.kept)
        reach = reach_of(kept["champion"].to_numpy(), kept["previous"].to_numpy(), counts)
        done.append(here.with_columns(pl.Series("weight", weight).fill_nan(None), reach=pl.lit(reach),
                                      unrepresented=pl.lit(weights.unrepresented, pl.Int64)).select(rows.columns))
    return pl.concat(done).sort(CUT, key)


def paired_loss(judged: pl.DataFrame) -> PairedLoss:
    """The labelled rows that count, in their order."""
    kept = judged.filter(pl.col("weight").is_not_null())
    champion, previous, label, weight, reach = (
        kept[name].to_numpy() for name in ("champion", "previous", "label", "weight", "reach"))
    return PairedLoss(weight * brier_difference(champion, previous, label), np.asarray(reach, dtype=float))


def _completeness(rows: pl.DataFrame, judged: pl.DataFrame) -> Mapping[str, Any]:
    cuts = judged.unique(CUT)
    return {
        "scored": 1.0 if rows.is_empty() else float(rows["previous"].is_not_null().sum()) / len(rows),
        "unrepresented": 0.0 if judged.is_empty() else float(cuts["unrepresented"].sum()) / len(judged),
        "counts": {
            "taken": len(rows), "from_the_log": int(rows["logged"].sum()),
            "not_scored_by_both": int(rows["previous"].is_null().sum()), "not_mature": len(rows) - len(judged),
            "without_label": int(judged["label"].is_null().sum()),
            "contacted_left_out": int(judged["contacted"].sum()),
        },
    }


def _contract(home: Home, release_id: str) -> Contract:
    return Contract.from_json((package.bento_payload(home, release_id) / "contract.json").read_text(encoding="utf-8"))


def _empty(key: str) -> pl.DataFrame:
    moment = POLARS_TYPES["timestamp"]
    return pl.DataFrame(schema={
        key: pl.String, CUT: moment, "champion": pl.Float64, "previous": pl.Float64, "logged": pl.Boolean,
        "labelled_as_of": moment, "contacted": pl.Boolean, "label": pl.Float64, "weight": pl.Float64,
        "reach": pl.Float64, "unrepresented": pl.Int64,
    })
