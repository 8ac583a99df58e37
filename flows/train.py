"""Train: mature labels, features as they were known, two candidates, one verdict."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pandas as pd
import polars as pl
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.context import Context, open_context
from flows.features import plan_training, take_snapshots
from flows.settings import REPO
from models.cuts import CutPlan, first_sufficient
from models.decision import Decision
from models.promotion import judge_against_champion, judge_first
from models.training import Candidate, TrainingConfig, check_enough, fit_candidate, split_rows
from tasks.features import apply_features, join_point_in_time
from tasks.lake import stamp, write_partition
from tasks.manifest import current_version
from tasks.package import export_pins
from tasks.score import champion_probability
from tasks.snapshots import first_event, read_labels
from tasks.state import record_decision
from tasks.train import log_candidate, log_plots, register_version, training_run, write_payload

DEFAULT_CONFIG = TrainingConfig()


@flow(name="train")
def train(as_of: datetime | None = None, config: TrainingConfig = DEFAULT_CONFIG) -> Decision:
    """Train on what was known at `as_of`; register the model if it earns more than the champion.

    Returns the promotion gate's verdict; its evidence names the run and, if promoted, the model version.
    """
    context = open_context(as_of)
    plan = plan_training(context, config)
    take_snapshots(context, (*plan.train, *plan.test))
    training_set = build_training_set(context, plan)
    return train_and_judge(context, plan, training_set, config)


@task(name="build-training-set", cache_policy=NO_CACHE)
def build_training_set(context: Context, plan: CutPlan) -> Path:
    """Mature labels joined with the features known at their cuts; one file a training."""
    labels = read_labels(context.contract, problem=context.charter.problem, home=context.home, engine=context.engine,
                         cuts=[*plan.train, *plan.test], as_of=context.as_of,
                         memory_limit=context.settings.memory_limit)
    apply_features(context.contract, context.home)
    rows = join_point_in_time(labels, context.contract, context.home)
    name = f"as_of={stamp(context.as_of)},cuts={stamp(plan.train[0])}..{stamp(plan.test[-1])}.parquet"
    path = context.home.lake / "training" / context.contract.fingerprint / name
    write_partition(rows, path)
    return path


@task(name="train-candidate", cache_policy=NO_CACHE)  # no retries: registering twice would make two versions
def train_and_judge(context: Context, plan: CutPlan, training_set: Path, config: TrainingConfig) -> Decision:
    """Fit, evaluate once on the held-out cut, compare, and register what wins; all of it one MLflow run."""
    rows = pl.read_parquet(training_set).to_pandas()
    train_rows, test_rows = split_rows(rows, plan)
    refuse_too_little(context, train_rows, test_rows)
    with training_run(context.home, context.charter, as_of=context.as_of) as run_id:
        candidate = fit_candidate(train_rows, test_rows, context.contract, context.charter, config)
        dataset = current_version(context.engine)
        log_candidate(
            candidate, config=config, charter=context.charter, contract=context.contract,
            tags={"as_of": context.as_of.isoformat(), "dataset_version": dataset, "training_set": training_set.name},
            rows={"train": len(train_rows), "test": len(test_rows)},
        )
        log_plots(candidate, test_rows, context.contract)
        decision = compare(context, candidate, test_rows, config)
        monthly = candidate.metrics.value / context.charter.problem.snapshot_every_months
        version = None
        if decision.verdict == "promote":
            version = register_version(candidate, context.home, context.charter, decision)
            write_payload(
                candidate, contract=context.contract, charter=context.charter, train=train_rows, test=test_rows,
                pins=export_pins(REPO),
                facts={"model_version": version, "run_id": run_id, "as_of": context.as_of.isoformat(),
                       "dataset_version": dataset, "monthly_value": monthly},
            )
        decision = Decision(decision.gate, decision.verdict, decision.reason, {
            **decision.evidence, "run_id": run_id, "model_version": version, "estimator": candidate.estimator,
            "features": len(context.contract.features), "baseline_column": candidate.baseline.column,
            "baseline_auc": candidate.baseline_auc, "monthly_value": monthly, "dataset_version": dataset,
            "train_cuts": ", ".join(stamp(cut) for cut in plan.train),
            "test_cuts": ", ".join(stamp(cut) for cut in plan.test),
        })
    record_decision(context.engine, decision, as_of=context.as_of, subject=version or run_id)
    create_markdown_artifact(
        f"**{decision.verdict}**: {decision.reason}\n\n```json\n{json.dumps(dict(decision.evidence), indent=1)}\n```",
        key="promotion", description=f"promotion as of {context.as_of:%Y-%m-%d}: {decision.verdict}",
    )
    return decision


def refuse_too_little(context: Context, train_rows: pd.DataFrame, test_rows: pd.DataFrame) -> None:
    """Stop before a model is fitted on too few mature labels."""
    first = first_event(context.contract, home=context.home, engine=context.engine, as_of=context.as_of)
    problem = context.charter.problem
    later = max(first_sufficient(problem, first_event=first),
                context.as_of + problem.horizon)
    check_enough(train_rows, test_rows, context.contract, context.charter, as_of=context.as_of, next_as_of=later)


def compare(context: Context, candidate: Candidate, test: pd.DataFrame, config: TrainingConfig) -> Decision:
    """The gate: against the champion on the same rows, or where there is none against the best single column."""
    contract, charter = context.contract, context.charter
    y, entities = test[contract.label].to_numpy(), test[contract.entity_key].to_numpy()
    champion = champion_probability(test, contract, home=context.home, engine=context.engine)
    if champion is None:
        return judge_first(
            y, candidate.probability, candidate.baseline.score(test), entities, metrics=candidate.metrics,
            baseline_column=candidate.baseline.column, limits=charter.promotion, random_state=config.random_state,
        )
    return judge_against_champion(
        y, candidate.probability, champion, entities, metrics=candidate.metrics, limits=charter.promotion,
        value=charter.value, random_state=config.random_state,
    )
