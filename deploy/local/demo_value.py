"""What retraining was worth: each month's list of whom to contact, and the first model's list of the same customers.

Reads scores, snapshots, releases and the world's planted truth; writes the first model's lists. Both policies have the
same rules, budget and hold-out; they differ in the model alone. A contact changes nothing in the world: what it would
have earned follows from who really left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.errors import DataError
from models.evaluation.ranks import auc, money
from models.serving.payload import load_payload
from tasks.data.lake import beside, stamp
from tasks.features.snapshots import build_snapshot
from tasks.home import MEMORY_LIMIT, Home
from tasks.release.package import bento_payload
from tasks.scoring.chunks import scored_chunks
from tasks.scoring.ranking import write_ranked
from tasks.scoring.score import scores_partition


@dataclass(frozen=True)
class Earned:
    """One list in one month, held against what really happened in it."""

    value: float  # money: churners found x share who stay x worth, less contacts x cost
    contacted: int
    found: int  # of them who really left
    auc: float  # of the scores of everybody who could leave that month


@dataclass(frozen=True)
class MonthValue:
    """One month by both policies."""

    as_of: datetime
    listed_as_of: datetime  # of an earlier month where this one's data was refused
    release_id: str  # that made the list
    retrained: Earned
    never: Earned

    @property
    def gain(self) -> float:
        return self.retrained.value - self.never.value


def value_of_month(
    home: Home, engine: sa.Engine, charter: Charter, *, as_of: datetime, listed_as_of: datetime, first_release: str,
    truth: pl.DataFrame,
) -> MonthValue:
    """Both policies in the month that begins at `as_of`.

    Args:
        listed_as_of: of the newest scores there are then.
        first_release: what would still serve without any retraining.
        truth: `cut`, entity key and `churned` of everybody who could leave.

    Raises:
        DataError: the truth does not reach that month.
    """
    happened = truth.filter(pl.col("cut") == as_of)
    if happened.is_empty():
        raise DataError(f"cannot say what {as_of:%Y-%m} was worth: the world's truth does not hold it")
    mine = scores_partition(home, listed_as_of)
    other = first_list(home, engine, charter, as_of=listed_as_of, release_id=first_release)
    release_id = str(pl.scan_parquet(mine, glob=False).select("release_id").first().collect().item())
    return MonthValue(as_of, listed_as_of, release_id, earned(pl.read_parquet(mine), happened, charter),
                      earned(pl.read_parquet(other), happened, charter))


def first_list(home: Home, engine: sa.Engine, charter: Charter, *, as_of: datetime, release_id: str) -> Path:
    """Everybody by the first release, as the score flow would have written it."""
    payload = load_payload(bento_payload(home, release_id))
    snapshot = build_snapshot(payload.contract, None, home=home, engine=engine, cut=as_of)
    path = home.root / "never-retrained" / f"as_of={stamp(as_of)}.parquet"
    with beside(path) as file:
        write_ranked(scored_chunks(snapshot, payload), file, contract=payload.contract, release_id=release_id,
                     as_of=as_of, contact_budget=charter.value.contact_budget, home=home, memory_limit=MEMORY_LIMIT)
    return path


def earned(scores: pl.DataFrame, happened: pl.DataFrame, charter: Charter) -> Earned:
    """A list against the truth. Who is contacted but could not leave any more costs, and is never found.

    Args:
        scores: entity key, `churn_probability` and `within_budget`.
        happened: entity key and `churned`, one row a customer.
    """
    key = next(name for name in happened.columns if name not in ("cut", "p", "churned"))
    rows = scores.join(happened.select(key, "churned"), on=key, how="left")
    contacted = rows.filter("within_budget")
    found = int(contacted["churned"].fill_null(False).sum())
    known = rows.filter(pl.col("churned").is_not_null())
    area = auc(known["churned"].to_numpy().astype(float), known["churn_probability"].to_numpy())
    return Earned(float(money(found, contacted.height, charter.value)), contacted.height, found, float(area))


def totals(months: list[MonthValue]) -> tuple[float, float]:
    """Money over all months: as it was, and had nothing been retrained."""
    return (float(np.sum([one.retrained.value for one in months])), float(np.sum([one.never.value for one in months])))
