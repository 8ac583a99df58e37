"""Features: snapshots of the cuts that are needed, registered and put online in Feast."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import Snapshot
from flows.context import Context, open_context
from models.contract import Contract
from models.cuts import CutPlan, plan_cuts
from models.training.fit import TrainingConfig
from tasks.features.apply import apply_features
from tasks.features.materialize import materialize_snapshot
from tasks.features.parity import Parity, check_parity
from tasks.features.snapshots import build_snapshot, build_snapshots, first_event
from tasks.monitoring.heartbeats import beat
from tasks.scoring.score import serving_contracts


@flow(name="features")
def features(as_of: datetime | None = None) -> int:
    """Snapshot `as_of` for the contract in effect and for what serves, and put it online; returns its rows."""
    context = open_context(as_of)
    rows = 0
    for contract in [*serving_contracts(context.home, context.engine, besides=context.contract), context.contract]:
        take_snapshot(context, contract, context.as_of)
        rows = put_online(context, contract)
        beat(context.engine, "online", as_of=context.as_of)
        compare_online(context, contract)
    for step in ("parity", "features"):
        beat(context.engine, step, as_of=context.as_of)
    return rows


@task(name="take-snapshot", task_run_name="snapshot {cut:%Y-%m-%d}", cache_policy=NO_CACHE)
def take_snapshot(context: Context, contract: Contract, cut: datetime) -> Path:
    """The features of every customer at a cut; one that exists is left alone."""
    own = contract.fingerprint == context.contract.fingerprint
    return build_snapshot(
        contract, Snapshot if own else None, home=context.home,
        engine=context.engine, cut=cut, memory_limit=context.settings.memory_limit,
    )


@task(name="take-snapshots", cache_policy=NO_CACHE)
def take_snapshots(context: Context, cuts: Sequence[datetime]) -> list[Path]:
    """The same at several cuts, by the contract in effect, from one reading of the lake."""
    return build_snapshots(context.contract, Snapshot, home=context.home, engine=context.engine, cuts=cuts,
                           memory_limit=context.settings.memory_limit)


@task(name="put-online", cache_policy=NO_CACHE)
def put_online(context: Context, contract: Contract) -> int:
    """Apply the Feast objects and materialize the snapshot of `as_of`; returns its rows."""
    apply_features(contract, context.home)
    return materialize_snapshot(contract, context.home, context.as_of)


@task(name="compare-online", cache_policy=NO_CACHE)
def compare_online(context: Context, contract: Contract) -> Parity:
    """A sample of customers, online and offline, value by value; a difference fails the run."""
    return check_parity(contract, context.home, context.as_of)


def plan_training(context: Context, config: TrainingConfig) -> CutPlan:
    """Which cuts train and which one tests, as of now."""
    needs = context.charter.training
    first = first_event(context.contract, home=context.home, engine=context.engine, as_of=context.as_of)
    return plan_cuts(
        context.charter.problem, train_cuts=config.train_cuts or needs.train_cuts,
        first_event=first, as_of=context.as_of, not_before=config.not_before,
    )
