"""Go or no-go: recorded in the ledger at the end of design and of development, and asked before a first release.

The end of deployment is recorded where it happens, in `tasks/release/endings.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.context import Context
from models.card.key_metrics import key_metrics
from models.card.views import views_markdown
from models.cuts import CutPlan
from models.decision import Decision
from models.errors import DataError
from models.evaluation.bootstrap import Interval
from models.gates import go
from tasks.release import rollouts
from tasks.state import record_decision


@contextmanager
def data_for_a_design(context: Context) -> Iterator[None]:
    """Around planning: where there are not even cuts to plan with, that is the design's no-go, recorded and raised."""
    try:
        yield
    except DataError as error:
        _record(context, Decision("go", "no go", f"design: {error}", {"stage": "design"}), subject=None)
        raise


def judge_design(context: Context, plan: CutPlan, training_set: Path) -> Decision:
    """Is there enough mature data for the charter's claim? Recorded with the training set as its subject.

    It stops nothing: too little data stops the training itself, a claim that cannot be shown is shown as such.
    """
    label = context.contract.label
    counts = pl.scan_parquet(training_set).group_by(test=pl.col("event_timestamp").is_in(list(plan.test))).agg(
        rows=pl.len(), churners=pl.col(label).sum()).collect()
    found = {row["test"]: (int(row["rows"]), int(row["churners"])) for row in counts.to_dicts()}
    train, test = found.get(False, (0, 0)), found.get(True, (0, 0))
    decision = go.judge_design(context.charter, go.MatureData(
        train_rows=train[0], train_churners=train[1], test_rows=test[0], test_churners=test[1],
        train_cuts=len(plan.train), test_cuts=len(plan.test)))
    return _record(context, decision, subject=training_set.name)


def judge_development(
    context: Context, promotion: Decision, scores: Mapping[str, Interval], *, subject: str | None
) -> Decision:
    """Does the model reach what each role asks? Recorded, with the three views of the model as an artifact.

    Args:
        scores: of the candidate's evaluation, by name; what is missing counts as not reached.
        subject: the model version, or the run of one that was not registered.
    """
    metrics = key_metrics(scores, context.charter)
    decision = go.judge_development(promotion, metrics, live=rollouts.champion(context.engine) is not None)
    create_markdown_artifact(
        f"**{decision.verdict}**: {decision.reason}\n\n{views_markdown(metrics, context.charter)}", key="three-views",
        description=f"three views of model {subject} as of {context.as_of:%Y-%m-%d}: {decision.verdict}")
    return _record(context, decision, subject=subject)


def _record(context: Context, decision: Decision, *, subject: str | None) -> Decision:
    record_decision(context.engine, decision, as_of=context.as_of, subject=subject, flow_run_id=flow_run.id)
    return decision
