"""Value: a second project on the same feature view; what a customer will spend, tested on a later cut."""

from __future__ import annotations

from datetime import datetime

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from feature_repo.value import VALUE
from flows.context import Context, open_context
from flows.features import take_snapshots
from models.charter import Problem
from models.cuts import CutPlan, plan_cuts
from models.decision import Decision
from tasks.features.snapshots import first_event
from tasks.training.value import narrow, project_rows, train_project


@flow(name="value")
def value(as_of: datetime | None = None) -> Decision:
    """Train on what was known at `as_of` and compare with "they spend as before"; returns the verdict."""
    context = open_context(as_of)
    narrow(context.contract, VALUE)  # refuses a domain without these features before anything is computed
    problem = context.charter.problem.model_copy(update={"horizon_days": VALUE.horizon_days})
    plan = plan_value(context, problem)
    take_snapshots(context, (*plan.train, *plan.test))
    return train_value(context, problem, plan)


def plan_value(context: Context, problem: Problem) -> CutPlan:
    """Cuts like those of churn, apart by this project's horizon."""
    first = first_event(context.contract, home=context.home, engine=context.engine, as_of=context.as_of)
    return plan_cuts(problem, train_cuts=context.charter.training.train_cuts, first_event=first, as_of=context.as_of)


@task(name="train-value", cache_policy=NO_CACHE)
def train_value(context: Context, problem: Problem, plan: CutPlan) -> Decision:
    """Join, fit, judge, log."""
    rows = project_rows(VALUE, context.contract, problem, home=context.home, engine=context.engine,
                        cuts=[*plan.train, *plan.test], as_of=context.as_of,
                        memory_limit=context.settings.memory_limit)
    return train_project(VALUE, rows, plan, context.contract, charter=context.charter, home=context.home,
                         engine=context.engine, as_of=context.as_of)
