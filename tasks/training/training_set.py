"""Training-set stage. Reads labels and snapshots; writes one file a run, and says what exactly it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.cuts import CutPlan
from models.training.fit import split_rows
from tasks.data.lake import snapshot_partition, stamp, write_partition
from tasks.features.apply import apply_features, join_point_in_time
from tasks.features.snapshots import read_labels
from tasks.home import MEMORY_LIMIT, Home
from tasks.training.contacts import contact_evidence, leave_out_contacted


@dataclass(frozen=True)
class TrainingSet:
    """A file of mature labels beside the features known at their cuts."""

    path: Path
    plan: CutPlan
    content: str  # hash of its rows
    snapshots: Mapping[str, str]  # cut -> hash of the rows of the snapshot it was joined from
    contacts: Mapping[str, float | int]  # what was left out because it was contacted; empty where nothing was

    @property
    def name(self) -> str:
        """By which MLflow's run, retention and erasure know it."""
        return self.path.name

    def split(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """`(train, test)` rows, by the plan."""
        return split_rows(pl.read_parquet(self.path).to_pandas(), self.plan)


def build_set(
    contract: Contract, charter: Charter, plan: CutPlan, *, home: Home, engine: sa.Engine, as_of: datetime,
    run_id: str, memory_limit: str = MEMORY_LIMIT,
) -> TrainingSet:
    """Mature labels joined with the features known at their cuts, without customers whom a contact has changed.

    Args:
        run_id: names the file, so that two trainings at once write two.

    Raises:
        DataError: a label that is not mature, a snapshot that cannot be read, no labels.
    """
    cuts = [*plan.train, *plan.test]
    labels = read_labels(contract, problem=charter.problem, home=home, engine=engine, cuts=cuts, as_of=as_of,
                         memory_limit=memory_limit)
    apply_features(contract, home)
    rows, contacts = leave_out_contacted(join_point_in_time(labels, contract, home), contract, charter, home=home,
                                         engine=engine, as_of=as_of, memory_limit=memory_limit)
    name = f"as_of={stamp(as_of)},cuts={stamp(plan.train[0])}..{stamp(plan.test[-1])},run={run_id[:12]}.parquet"
    path = home.lake / "training" / contract.fingerprint / name
    write_partition(rows, path)
    snapshots = {stamp(cut): content_hash(pl.read_parquet(snapshot_partition(home, contract.fingerprint, cut)))
                 for cut in cuts}
    return TrainingSet(path, plan, content_hash(rows), snapshots, contact_evidence(contacts))


def content_hash(rows: pl.DataFrame) -> str:
    """Twelve hex digits over names, values and their order: what Parquet's bytes are by another library's version."""
    digest = hashlib.sha256()
    for column in rows.get_columns():
        digest.update(f"{column.name}:{len(column)}\n".encode())
        if column.dtype == pl.String:
            known = column.is_not_null()
            digest.update(known.to_numpy().tobytes())
            digest.update("\0".join(column.filter(known)).encode())
            continue
        values = column.to_physical() if column.dtype.is_temporal() else column
        digest.update(np.ascontiguousarray(values.cast(pl.Float64).to_numpy()).tobytes())
    return digest.hexdigest()[:12]
