"""Value stage. Reads snapshots by a feature service of its own; writes an MLflow run in an experiment of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pandas as pd
import polars as pl
import sqlalchemy as sa

from feature_repo.value import Project
from models.charter import Charter, Problem
from models.contract import Contract
from models.cuts import CutPlan
from models.decision import Decision
from models.errors import ConfigError, DataError
from models.training.fit import split_rows
from models.training.regression import fit_regression, judge_regression
from tasks.features.apply import ONE_JOIN, apply_features, open_store, quiet, reachable
from tasks.features.snapshots import read_targets
from tasks.home import MEMORY_LIMIT, Home
from tasks.state import record_decision
from tasks.training.tracking import training_run


def narrow(contract: Contract, project: Project) -> Contract:
    """The contract of what a project reads.

    Raises:
        ConfigError: the contract in effect lacks the project's features.
    """
    reads = project.features(contract)
    if not reads:
        raise ConfigError(f"cannot train {project.name}: the contract in effect has no {project.baseline!r}. Name "
                          "features it has in feature_repo/value.py")
    kept = tuple(column for column in contract.snapshot if column.role not in ("numeric", "categorical")
                 or column.name in reads)
    return replace(contract, snapshot=kept)


def project_rows(
    project: Project, contract: Contract, problem: Problem, *, home: Home, engine: sa.Engine, cuts: Sequence[datetime],
    as_of: datetime, memory_limit: str = MEMORY_LIMIT,
) -> pd.DataFrame:
    """The target beside the features of the project's service as known at each cut, for who was eligible then.

    Raises:
        DataError: a target is not mature at `as_of`, or Feast answers with other rows than it was asked for.
    """
    targets = read_targets(contract, project.text(), name=project.sql, problem=problem, home=home, engine=engine,
                           cuts=cuts, as_of=as_of, memory_limit=memory_limit)
    apply_features(contract, home)
    asked = targets.with_row_index("_row").to_pandas()
    with ONE_JOIN, quiet(), reachable(home):
        store = open_store(home)
        service = store.get_feature_service(project.service_name(contract))
        joined = store.get_historical_features(
            entity_df=asked, features=service, filter_by_created_timestamp=True).to_arrow()
    rows = pl.DataFrame(joined).sort("_row")
    if len(rows) != len(targets):
        raise DataError(f"cannot join features: Feast answered {len(rows):,} rows to {len(targets):,} targets")
    return rows.filter(pl.col(contract.eligible).fill_null(False)).drop("_row").to_pandas()


def train_project(
    project: Project, rows: pd.DataFrame, plan: CutPlan, contract: Contract, *, charter: Charter, home: Home,
    engine: sa.Engine, as_of: datetime, random_state: int = 7,
) -> Decision:
    """Fit on the earlier cuts, compare with "as before" on the last one, log and record.

    Raises:
        DataError: fewer training rows than the charter's `least_rows`.
    """
    train, test = split_rows(rows, plan)
    least = charter.training.least_rows
    if len(train) < least or test.empty:
        raise DataError(f"cannot train {project.name} as of {as_of:%Y-%m-%d}: {len(train):,} mature training rows, "
                        f"needed are {least:,}. Use a later AS_OF")
    reads = narrow(contract, project)
    with training_run(home, charter, name=f"train {as_of:%Y-%m-%d}", project=project.name) as run:
        model = fit_regression(train, test, reads, target=project.target, baseline=project.baseline,
                               random_state=random_state)
        verdict = judge_regression(model, baseline=project.baseline)
        run.log(
            params={"features": len(reads.features), "horizon_days": project.horizon_days, "rows.train": len(train),
                    "rows.test": len(test), "random_state": random_state},
            metrics={name: float(value) for name, value in verdict.evidence.items() if value is not None},
            tags={"as_of": as_of.isoformat(), "feature_service": project.service_name(contract),
                  "verdict": verdict.verdict},
        )
    verdict = replace(verdict, evidence={**verdict.evidence, "run_id": run.run_id})
    record_decision(engine, verdict, as_of=as_of, subject=run.run_id)
    return verdict
