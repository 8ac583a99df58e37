"""Score: every customer by the champion, ranked by expected value."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.context import Context, open_context
from tasks.score import score_snapshot


@flow(name="score")
def score(as_of: datetime | None = None) -> Path:
    """Write who is worth a contact as of `as_of`; returns the Parquet file."""
    context = open_context(as_of)
    scores = score_customers(context)
    show_actions(scores)
    return scores


@task(name="score-customers", cache_policy=NO_CACHE)
def score_customers(context: Context) -> Path:
    """Probability, decision, reason, expected value and rank of everybody known."""
    return score_snapshot(charter=context.charter, home=context.home, engine=context.engine, as_of=context.as_of)


@task(name="show-actions", cache_policy=NO_CACHE)
def show_actions(scores: Path) -> None:
    """How many are contacted or left, and why, as a Prefect artifact."""
    counts = pl.read_parquet(scores).group_by("decision", "why").agg(
        pl.len().alias("customers"), pl.col("churn_probability").mean().round(3).alias("mean probability"),
        pl.col("within_budget").sum().alias("within budget"),
        pl.col("expected_value").sum().round(0).alias("expected value"),
    ).sort("decision", "why")
    create_table_artifact(key="scores", table=counts.to_dicts(), description=f"Decisions in {scores.name}")
