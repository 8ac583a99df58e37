"""Study stage. Reads labels, snapshots and the raw tables; writes the study's report into the reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import pandas as pd
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.serving.attribution import Attributor
from models.serving.reasons import Check, Explanation, check_reasons, explain_rows
from models.serving.scorer import predict
from models.study.groups import FitOn, Step, add_groups, groups_of
from models.study.history import History, Scorer, StudyConfig, draw, known_at, walk_forward
from models.study.retraining_policy import Study, judge_history, pairs_wanted, policies, windows
from models.training.contacts import row_weights
from models.training.estimators import ESTIMATORS, EstimatorName, fit_pipeline
from tasks.data.lake_sql import open_lake, run_sql, show_tables
from tasks.features.apply import apply_features, join_point_in_time
from tasks.features.snapshots import read_labels
from tasks.home import MEMORY_LIMIT, Home
from tasks.training.contacts import leave_out_contacted

TIMES: Final = 3  # a query is run so often; the fastest counts, for the others waited for something else
REASON_ROWS: Final = 2000
EXAMPLES: Final = 3

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Reasons:
    """Whether the reasons of an estimator hold when they are removed, and what some of them look like."""

    estimator: EstimatorName
    check: Check
    examples: tuple[tuple[float, Explanation], ...]  # churn probability and its reasons, likeliest to leave first
    seconds: float  # CPU, to explain `rows`
    rows: int


def collect_history(
    contract: Contract, charter: Charter, *, home: Home, engine: sa.Engine, cuts: Sequence[datetime], as_of: datetime,
    memory_limit: str = MEMORY_LIMIT,
) -> pd.DataFrame:
    """Mature labels of every cut beside the features known at it; rows a contact changed are left out.

    Raises:
        DataError: a label that is not mature, a snapshot that is missing, or too many contacts.
    """
    labels = read_labels(contract, problem=charter.problem, home=home, engine=engine, cuts=cuts, as_of=as_of,
                         memory_limit=memory_limit)
    apply_features(contract, home)
    rows, _ = leave_out_contacted(join_point_in_time(labels, contract, home), contract, charter, home=home,
                                  engine=engine, as_of=as_of, memory_limit=memory_limit)
    return rows.to_pandas()


def fit_fixed(name: EstimatorName, *, random_state: int) -> FitOn:
    """Fits an estimator with the parameters every search begins with; nothing is searched, nothing calibrated."""
    from threadpoolctl import threadpool_limits

    def fit(train: pd.DataFrame, contract: Contract) -> Scorer:
        with threadpool_limits(limits=1):
            pipeline = fit_pipeline(name, train, train[contract.label].to_numpy(dtype=float), contract,
                                    random_state=random_state, weight=row_weights(train))
        return lambda rows: predict(pipeline, rows, contract)

    return fit


def study_retraining(
    rows: pd.DataFrame, contract: Contract, charter: Charter, config: StudyConfig, *, as_of: datetime,
    progress: Progress,
) -> tuple[History, Study]:
    """Models of every date at every later cut, how they age, and which retraining policy would have earned most.

    Raises:
        DataError: too few cuts, or one of one class.
    """
    step, train_cuts = charter.problem.snapshot_every_months, charter.training.train_cuts
    fit = fit_fixed(config.estimator, random_state=config.random_state)
    history = walk_forward(rows, contract, charter.problem, lambda train: fit(train, contract), config=config,
                           windows=windows(config, step_months=step, train_cuts=train_cuts), as_of=as_of,
                           progress=progress)
    found = policies(config, step_months=step, span_months=history.months[-1], train_cuts=train_cuts)
    wanted = pairs_wanted(history, found, step_months=step, train_cuts=train_cuts)
    progress(f"study: {len(found)} policies, {len(wanted)} models and cuts in {config.resamples} resamples")
    draws = draw(history, wanted, charter.value, resamples=config.resamples, random_state=config.random_state)
    return history, judge_history(history, draws, found, config=config, train_cuts=train_cuts, step_months=step,
                                  cost_of_retraining=charter.training.cost_of_retraining)


def latest_split(rows: pd.DataFrame, charter: Charter) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The last cut, and the latest training cuts whose labels were mature by then."""
    cuts = sorted(rows["event_timestamp"].unique())
    known = cuts[: known_at(cuts, cuts[-1], charter.problem)][-charter.training.train_cuts:]
    return (rows[rows["event_timestamp"].isin(known)].reset_index(drop=True),
            rows[rows["event_timestamp"] == cuts[-1]].reset_index(drop=True))


def study_groups(
    train: pd.DataFrame, test: pd.DataFrame, contract: Contract, charter: Charter, config: StudyConfig, *,
    home: Home, engine: sa.Engine, progress: Progress, memory_limit: str = MEMORY_LIMIT,
) -> tuple[Step, ...]:
    """What each feature group adds on the last cut, and what it costs to compute.

    Raises:
        DataError: rows of one class, or SQL that cannot be run.
    """
    steps = add_groups(train, test, contract, charter.value,
                       fit_fixed(config.estimator, random_state=config.random_state), confidence=config.confidence,
                       resamples=config.resamples, random_state=config.random_state, progress=progress)
    cut = test["event_timestamp"].iloc[0]
    seconds = time_groups(contract, [step.group for step in steps], home=home, engine=engine, cut=cut,
                          memory_limit=memory_limit)
    return tuple(replace(step, sql_seconds=seconds[step.group]) for step in steps)


def time_groups(
    contract: Contract, order: Sequence[str], *, home: Home, engine: sa.Engine, cut: datetime,
    memory_limit: str = MEMORY_LIMIT,
) -> Mapping[str, float]:
    """CPU seconds of the snapshot's SQL that each group adds to those before it.

    DuckDB computes only the columns that are asked for, so the snapshot is asked for some of them.

    Raises:
        DataError: the SQL cannot be run.
    """
    groups, found, asked = groups_of(contract), {}, [contract.entity_key, contract.eligible]
    text = contract.sql["snapshot.sql"].rstrip().rstrip(";")
    with open_lake(contract, home=home, engine=engine, known_by=cut, memory_limit=memory_limit) as lake:
        show_tables(lake, contract, known_by=cut, happened_before=cut)

        def seconds() -> float:
            columns = ", ".join(f'"{name}"' for name in asked)
            spent = []
            for _ in range(TIMES):
                begun = time.process_time()
                run_sql(lake, f"SELECT {columns} FROM (\n{text}\n)", name="snapshot.sql",
                        values={"cut": cut, **contract.parameters})
                spent.append(time.process_time() - begun)
            return min(spent)

        seconds()  # reads the files into the cache
        before = seconds()
        for group in order:
            asked += groups[group]
            after = seconds()
            found[group] = max(after - before, 0.0)
            before = max(after, before)
    return found


def study_reasons(
    train: pd.DataFrame, test: pd.DataFrame, contract: Contract, *, random_state: int, top: int
) -> tuple[Reasons, ...]:
    """The stated reasons of a sample of the last cut, each removed in turn, for both estimators."""
    from threadpoolctl import threadpool_limits

    sample = test.sample(min(len(test), REASON_ROWS), random_state=random_state).reset_index(drop=True)
    found = []
    with threadpool_limits(limits=1):
        for name in ESTIMATORS:
            pipeline = fit_pipeline(name, train, train[contract.label].to_numpy(dtype=float), contract,
                                    random_state=random_state, weight=row_weights(train))
            attributor = Attributor.of(pipeline, contract, train)
            begun = time.process_time()
            explained = explain_rows(attributor, sample, top=top)
            seconds = time.process_time() - begun
            probability = predict(pipeline, sample, contract)
            ranks = probability.argsort(kind="stable")[::-1]
            shown = [int(ranks[number * (len(ranks) - 1) // (EXAMPLES - 1)]) for number in range(EXAMPLES)]
            found.append(Reasons(name, check_reasons(attributor, sample, top=top),
                                 tuple((float(probability[row]), explained[row]) for row in shown), seconds,
                                 len(sample)))
    return tuple(found)


def write_report(home: Home, as_of: datetime, page: str) -> Path:
    """The report of a day, for its owner's eyes: it names what single customers did."""
    home.reports.mkdir(parents=True, exist_ok=True)
    path = home.reports / f"study-{as_of:%Y-%m-%d}.html"
    beside = path.with_name(f".{path.name}.tmp")
    beside.touch(mode=0o600)
    beside.write_text(page, encoding="utf-8")
    beside.rename(path)
    return path
