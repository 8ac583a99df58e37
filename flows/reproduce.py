"""Reproduce: data and model of a run again, from its record. Registers nothing and changes nothing."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.context import Context, open_context
from flows.progress import trial_line
from flows.settings import REPO
from flows.summary import say
from tasks.training.provenance import Difference, compare, provenance
from tasks.training.record import Record, read_record
from tasks.training.reproduce import (
    Reproduction,
    compare_data,
    compare_problem,
    compare_rows,
    rebuild_data,
    rebuild_model,
)
from tasks.training.training_set import TrainingSet


@flow(name="reproduce")
def reproduce(run_id: str) -> Reproduction:
    """Rebuild data and model of MLflow's run `run_id`, and say whether its figures come out to nine digits."""
    context = open_context()
    record = read_record(context.home, run_id)
    differences = look_around(context, record)
    with TemporaryDirectory(prefix="reproduce-") as folder:
        made = build_data_again(context, record, Path(folder))
        differences += compare_rows(record, made)
        metrics = fit_again(record, made)
    return Reproduction(record, metrics, tuple(differences))


def look_around(context: Context, record: Record) -> list[Difference]:
    """What is not as it was: code, libraries, data, charter, contract."""
    found = [*compare(record.provenance, provenance(REPO)), *compare_data(record, context.home, context.engine),
             *compare_problem(record, context.contract, context.charter)]
    say(f"run {record.run_id} of {record.as_of:%Y-%m-%d}: {len(found) or 'no'} differences in code, libraries, data, "
        "charter or contract")
    return found


@task(name="build-data-again", cache_policy=NO_CACHE)
def build_data_again(context: Context, record: Record, folder: Path) -> TrainingSet:
    """Snapshots and training set, from the raw partitions the record names."""
    made = rebuild_data(record, context.home, context.engine, folder, memory_limit=context.settings.memory_limit)
    say(f"training set {made.content}, recorded {record.content}")
    return made


@task(name="fit-again", cache_policy=NO_CACHE)
def fit_again(record: Record, made: TrainingSet) -> dict[str, float]:
    """Search, fit and evaluation, with the recorded settings and seeds."""
    return rebuild_model(record, made, on_trial=trial_line(record.config.trials))
