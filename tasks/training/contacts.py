"""Contacts stage. Reads the raw table of contacts; takes contacted rows out of a training set, weighs the others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.errors import DataError
from models.serving.scorer import in_holdout
from models.training.contacts import MOST_UNREPRESENTED, WEIGHT, ContactWeights, contact_chance, weigh_uncontacted
from tasks.features.snapshots import read_targets
from tasks.home import MEMORY_LIMIT, Home

CONTACTED = "contacted_in_window"


def read_contacted(
    contract: Contract, charter: Charter, *, home: Home, engine: sa.Engine, cuts: Sequence[datetime], as_of: datetime,
    memory_limit: str = MEMORY_LIMIT,
) -> pl.DataFrame:
    """Who was contacted in [cut, cut + horizon), as known at `as_of`: one row an entity and cut; sorted by both.

    Raises:
        DataError: a cut whose label is not mature at `as_of`.
    """
    table = None if contract.contacts is None else contract.table(contract.contacts)
    entity, event = (table.column("entity_key"), table.column("event_time")) if table else (None, None)
    if table is None or table.name in contract.absent or entity is None or event is None:
        return pl.DataFrame(schema={contract.entity_key: pl.String, "event_timestamp": pl.Datetime("us", "UTC")})
    sql = (f'SELECT DISTINCT "{entity.name}" AS "{contract.entity_key}" FROM "{table.name}" '
           f'WHERE "{event.name}" >= $cut AND "{event.name}" < $window_end')
    return read_targets(contract, sql, name=f"the table {table.name}", problem=charter.problem, home=home,
                        engine=engine, cuts=cuts, as_of=as_of, memory_limit=memory_limit)


def leave_out_contacted(
    rows: pl.DataFrame, contract: Contract, charter: Charter, *, home: Home, engine: sa.Engine, as_of: datetime,
    memory_limit: str = MEMORY_LIMIT,
) -> tuple[pl.DataFrame, dict[str, ContactWeights]]:
    """A training set without the rows whose label a contact changed, and with what each of the others counts.

    Where nobody was contacted the rows come back as they are, without a column of weights.

    Args:
        rows: entity key, `event_timestamp`, label, features; sorted by cut and entity.

    Returns:
        The rows, and for each cut what was left out.

    Raises:
        DataError: too many were contacted of whom none like them was left alone, so that no row stands for them.
    """
    cuts = rows["event_timestamp"].unique().sort().to_list()
    contacted = read_contacted(contract, charter, home=home, engine=engine, cuts=cuts, as_of=as_of,
                               memory_limit=memory_limit)
    keys = [contract.entity_key, "event_timestamp"]
    marked = rows.join(contacted.with_columns(pl.lit(True).alias(CONTACTED)), on=keys, how="left",
                       maintain_order="left").with_columns(pl.col(CONTACTED).fill_null(False))
    if not marked[CONTACTED].any():
        return rows, {}
    holdout = np.array([in_holdout(entity, salt=charter.name, share=charter.value.holdout_share)
                        for entity in marked[contract.entity_key]])
    flags = marked[CONTACTED].to_numpy()
    kept, found = [], {}
    for cut in cuts:
        here = (marked["event_timestamp"] == cut).to_numpy()
        # By this cut alone: another model may have chosen at another cut, and a training cut knows no later one.
        chance = contact_chance(marked.filter(here).to_pandas(), flags[here], holdout[here], contract)
        weights = weigh_uncontacted(flags[here], holdout[here], chance)
        _refuse_unrepresented(weights, int(here.sum()), cut, charter)
        kept.append(rows.filter(here).filter(weights.kept).with_columns(pl.Series(WEIGHT, weights.weight)))
        found[f"{cut:%Y-%m-%d}"] = weights
    return pl.concat(kept), found


def contact_evidence(found: dict[str, ContactWeights]) -> dict[str, float | int]:
    """What was left out of a training set, summed over its cuts, for tags and evidence; empty where nothing was."""
    if not found:
        return {}
    return {
        "contacted_left_out": sum(one.left_out for one in found.values()),
        "holdout_contacted": sum(one.holdout_contacted for one in found.values()),
        "contacted_unrepresented": sum(one.unrepresented for one in found.values()),
        "largest_contact_weight": max(float(one.weight.max()) for one in found.values()),
    }


def _refuse_unrepresented(weights: ContactWeights, rows: int, cut: datetime, charter: Charter) -> None:
    if weights.unrepresented <= MOST_UNREPRESENTED * rows:
        return
    raise DataError(
        f"cannot learn from the cut {cut:%Y-%m-%d}: {weights.left_out:,} of {rows:,} customers were contacted, and for "
        f"{weights.unrepresented:,} of them nobody like them was left alone, at most {MOST_UNREPRESENTED:.0%} may be. "
        f"Leave the hold-out alone (value.holdout_share is {charter.value.holdout_share:g}), or train on other cuts"
    )
