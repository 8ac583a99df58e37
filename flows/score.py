"""Score: every customer by the champion, ranked by expected value."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.context import Context, open_context
from tasks.monitoring.heartbeats import beat
from tasks.scoring.score import NO_CHAMPION_YET, awaits_first_champion, score_snapshot
from tasks.scoring.scores_table import write_scores


@flow(name="score")
def score(as_of: datetime | None = None) -> Path | None:
    """Write who is worth a contact as of `as_of`; returns the Parquet file, None before the first champion."""
    context = open_context(as_of)
    if awaits_first_champion(context.home, context.engine):
        get_run_logger().info("%s: nothing is scored", NO_CHAMPION_YET)
        return None
    scores = score_customers(context)
    if context.settings.scores_url is not None:
        write_table(context, scores)
    show_actions(scores)
    beat(context.engine, "score", as_of=context.as_of)
    return scores


@task(name="score-customers", cache_policy=NO_CACHE)
def score_customers(context: Context) -> Path:
    """Probability, decision, reason, expected value and rank of everybody known."""
    return score_snapshot(charter=context.charter, home=context.home, engine=context.engine, as_of=context.as_of,
                          memory_limit=context.settings.memory_limit, progress=_telling("scored"))


@task(name="write-table", cache_policy=NO_CACHE)
def write_table(context: Context, scores: Path) -> int:
    """The same rows in the database of `CHURN_SCORES_URL`, all of them or none; returns how many."""
    return write_scores(scores, as_of=context.as_of, home=context.home, progress=_telling("in the table"))


@task(name="show-actions", cache_policy=NO_CACHE)
def show_actions(scores: Path) -> None:
    """How many are contacted or left, and why, as a Prefect artifact."""
    counts = count_actions(scores)
    create_table_artifact(key="scores", table=counts.to_dicts(), description=f"Decisions in {scores.name}")


def count_actions(scores: Path) -> pl.DataFrame:
    """One row a decision and reason: customers, mean probability, within budget, expected value."""
    return pl.scan_parquet(scores, glob=False).group_by("decision", "why").agg(
        pl.len().alias("customers"), pl.col("churn_probability").mean().round(3).alias("mean probability"),
        pl.col("within_budget").sum().alias("within budget"),
        pl.col("expected_value").sum().round(0).alias("expected value"),
    ).sort("decision", "why").collect()


def _telling(what: str) -> Callable[[int, int], None]:
    """A line in the run's log after each chunk."""
    logger = get_run_logger()
    return lambda done, total: logger.info("%s of %s customers are %s", f"{done:,}", f"{total:,}", what)
