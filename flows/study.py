"""Study of history: how a model ages, how often to retrain, which feature groups pay, whether reasons hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pandas as pd
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.context import Context, open_context
from flows.features import take_snapshots
from flows.summary import say
from models.card.document import markdown_block, to_html
from models.decision import Decision
from models.study.groups import Step
from models.study.history import History, StudyConfig, first_origin, study_cuts
from models.study.retraining_policy import Study
from tasks.features.snapshots import first_event
from tasks.state import record_decision
from tasks.training.study import (
    Reasons,
    collect_history,
    latest_split,
    study_groups,
    study_reasons,
    study_retraining,
    write_report,
)
from tasks.training.study_report import study_document, table_of_groups, table_of_policies

DEFAULT_CONFIG = StudyConfig()


@flow(name="study")
def study(as_of: datetime | None = None, config: StudyConfig = DEFAULT_CONFIG) -> Decision:
    """Measure on the history known at `as_of` how often to retrain, what feature groups add, whether reasons hold.

    Returns the recommendation as recorded in the ledger; its evidence names the report.
    """
    context = open_context(as_of)
    cuts = plan_study(context, config)
    take_snapshots(context, cuts)
    rows = collect_rows(context, cuts)
    history, found = age_and_retrain(context, rows, config)
    steps = add_feature_groups(context, rows, config)
    reasons = try_reasons(context, rows, config)
    return report(context, config, rows, history, found, steps, reasons)


def plan_study(context: Context, config: StudyConfig) -> list[datetime]:
    """Every cut with a mature label; refused before anything is computed where that is too few."""
    first = first_event(context.contract, home=context.home, engine=context.engine, as_of=context.as_of)
    cuts = study_cuts(context.charter.problem, first_event=first, as_of=context.as_of)
    first_origin(cuts, context.charter.problem, config, as_of=context.as_of)
    return cuts


@task(name="collect-history", cache_policy=NO_CACHE)
def collect_rows(context: Context, cuts: Sequence[datetime]) -> pd.DataFrame:
    """Labels and features of every cut."""
    progress(f"study: {len(cuts)} cuts from {cuts[0]:%Y-%m-%d} to {cuts[-1]:%Y-%m-%d}")
    return collect_history(context.contract, context.charter, home=context.home, engine=context.engine, cuts=cuts,
                           as_of=context.as_of, memory_limit=context.settings.memory_limit)


@task(name="age-and-retrain", cache_policy=NO_CACHE)
def age_and_retrain(context: Context, rows: pd.DataFrame, config: StudyConfig) -> tuple[History, Study]:
    """Models of every date at every later cut, and what each retraining policy would have earned."""
    return study_retraining(rows, context.contract, context.charter, config, as_of=context.as_of, progress=progress)


@task(name="add-feature-groups", cache_policy=NO_CACHE)
def add_feature_groups(context: Context, rows: pd.DataFrame, config: StudyConfig) -> tuple[Step, ...]:
    """What each feature group adds, in the order in which it adds most, and what it costs."""
    train, test = latest_split(rows, context.charter)
    return study_groups(train, test, context.contract, context.charter, config, home=context.home,
                        engine=context.engine, progress=progress, memory_limit=context.settings.memory_limit)


@task(name="try-reasons", cache_policy=NO_CACHE)
def try_reasons(context: Context, rows: pd.DataFrame, config: StudyConfig) -> tuple[Reasons, ...]:
    """Whether the reasons given with a score hold when they are removed."""
    progress("study: reasons of both estimators")
    train, test = latest_split(rows, context.charter)
    return study_reasons(train, test, context.contract, random_state=config.random_state,
                         top=context.charter.requirements.explanations or 3)


@task(name="report-study", cache_policy=NO_CACHE)
def report(
    context: Context, config: StudyConfig, rows: pd.DataFrame, history: History, found: Study, steps: Sequence[Step],
    reasons: Sequence[Reasons],
) -> Decision:
    """Write the report, record the recommendation, and show both in Prefect."""
    page = study_document(history, found, steps, reasons, charter=context.charter, config=config, rows=len(rows),
                          as_of=f"{context.as_of:%Y-%m-%d}")
    path = write_report(context.home, context.as_of, to_html(page))
    decision = Decision(found.decision.gate, found.decision.verdict, found.decision.reason, {
        **found.decision.evidence, "report": path.name,
        **{f"reasons_held_{one.estimator}": one.check.share for one in reasons},
    })
    record_decision(context.engine, decision, as_of=context.as_of, subject=f"study {context.as_of:%Y-%m-%d}")
    create_markdown_artifact(
        "\n\n".join([f"**{decision.verdict}**: {decision.reason}", markdown_block(table_of_policies(found)),
                     markdown_block(table_of_groups(steps)), f"Report: {path}"]),
        key="study", description=f"study as of {context.as_of:%Y-%m-%d}: {decision.verdict}",
    )
    progress(f"study: {path}")
    return decision


def progress(line: str) -> None:
    """Into the log, and on stderr."""
    get_run_logger().info(line)
    say(line)
