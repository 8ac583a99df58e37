"""Bake: after a promotion, was it right? Judged on labels as they mature; recommends, and leaves acting to a person."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.context import Context, open_context
from flows.releasing import release_place
from models.decision import Decision
from models.errors import PipelineError
from models.gates.bake import judge_bake
from tasks.release import rollouts
from tasks.release.bake import Bake, bake_picture, collect
from tasks.release.bake_plot import draw_bake
from tasks.release.bake_state import baking, end_bake
from tasks.release.processes import supervisor_running
from tasks.release.rollouts import RolloutRow
from tasks.state import record_decision


@flow(name="bake")
def bake(as_of: datetime | None = None) -> Decision:
    """Compare the champion with the release before it on the labels that are mature at `as_of`.

    Baked, the release before is no longer kept warm. Seen to predict worse, `make status` says so until a person
    rolls back.
    """
    context = open_context(as_of)
    rollout = baking(context.engine)
    if rollout is None:
        return Decision("bake", "hold", "nothing bakes: no champion, none before it, or it is baked already")
    rows = score_both(context, rollout)
    decision = judge(context, rollout, rows)
    show(context, rollout, rows, decision)
    if decision.verdict == "baked":
        end(context, rollout, decision.reason)
    return decision


@task(name="score-both", cache_policy=NO_CACHE, persist_result=False)
def score_both(context: Context, rollout: RolloutRow) -> Bake:
    """The champion's rows since its promotion, by both releases, and the labels that are mature."""
    return collect(rollout, context.charter, home=context.home, engine=context.engine, as_of=context.as_of,
                   memory_limit=context.settings.memory_limit)


@task(name="judge-bake", cache_policy=NO_CACHE, persist_result=False)
def judge(context: Context, rollout: RolloutRow, rows: Bake) -> Decision:
    """The verdict, in the ledger and the log."""
    decision = judge_bake(rows.loss, context.charter.bake, rows.standing)
    decision = replace(decision, evidence={**decision.evidence, "rollout_id": rollout.rollout_id,
                                           "previous_id": rollout.champion_id})
    record_decision(context.engine, decision, as_of=context.as_of, subject=rollout.release_id,
                    flow_run_id=flow_run.id)
    get_run_logger().info("bake: %s: %s", decision.verdict, decision.reason)
    return decision


@task(name="show-bake", cache_policy=NO_CACHE, persist_result=False)
def show(context: Context, rollout: RolloutRow, rows: Bake, decision: Decision) -> None:
    """The picture, and the verdict with its numbers as a Prefect artifact."""
    picture = draw_bake(rows.loss, decision, bake_picture(context.home, rollout.rollout_id),
                        alpha=context.charter.bake.alpha, champion=rollout.release_id,
                        previous=str(rollout.champion_id))
    lines = [f"**{decision.verdict}**: {decision.reason}", "", "| evidence | value |", "|---|---|",
             *(f"| {name} | {value} |" for name, value in decision.evidence.items()), "", picture.as_uri()]
    create_markdown_artifact("\n".join(lines), key="bake", description=(
        f"bake of {rollout.release_id} at {context.as_of:%Y-%m-%d}: {decision.verdict}"))


@task(name="end-bake", cache_policy=NO_CACHE, persist_result=False)
def end(context: Context, rollout: RolloutRow, reason: str) -> None:
    """champion -> baked; where the platform runs, the release before is stopped now rather than by the next release."""
    if not supervisor_running(context.home):
        rollouts.bake(context.engine, rollout, reason)
        return
    try:
        end_bake(release_place()[1], rollout, reason)
    except PipelineError as error:
        get_run_logger().error("%s is baked; stopping what came before it failed: %s", rollout.release_id, error)
