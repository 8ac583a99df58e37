"""Ingest: from the sources to the lake; bad rows go to the quarantine with their reasons."""

from __future__ import annotations

from datetime import datetime

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import RAW_TABLES
from flows.context import Context, open_context
from models.decision import Decision
from models.errors import DataError
from tasks.clock import move_clock
from tasks.ingest import Load, ingest_sources
from tasks.state import record_decision


@flow(name="ingest")
def ingest(as_of: datetime | None = None) -> Load:
    """Load what arrived by `as_of` and is not in the lake yet; the same `as_of` again changes nothing."""
    context = open_context(as_of, ingesting=True)
    if needs_sample_world(context):
        write_sample_world(context)
    load = load_sources_into_lake(context)
    move_clock(context.engine, context.charter, context.home, context.as_of)
    show_counts(load)
    return load


def needs_sample_world(context: Context) -> bool:
    """No sources named, and the default ones read the home's own landing folder, which is empty."""
    paths = [source.path for source in context.sources.tables.values()]
    own = all(path.startswith(str(context.home.landing)) for path in paths)
    return context.settings.sources is None and own and not context.home.landing.exists()


@task(name="write-sample-world", cache_policy=NO_CACHE)
def write_sample_world(context: Context) -> None:
    """A seeded shop with planted truth, so that a first run has something to read."""
    from examples.shop.generate import write_world

    write_world(context.home.landing)


@task(name="load-sources", cache_policy=NO_CACHE)
def load_sources_into_lake(context: Context) -> Load:
    """Read, validate and commit; a refused batch is a verdict in the ledger, and an error."""
    try:
        load = ingest_sources(
            context.sources, context.contract, RAW_TABLES, charter=context.charter, home=context.home,
            engine=context.engine, root=context.root, as_of=context.as_of,
        )
    except DataError as error:
        refused = Decision("data", "refuse", str(error))
        record_decision(context.engine, refused, as_of=context.as_of)
        raise
    total = load.total
    accepted = Decision("data", "accept", f"{total.rows_in:,} rows in = {total.kept:,} kept + {total.quarantined:,} "
                        f"quarantined + {total.redelivered:,} re-delivered", {"dataset_version": load.dataset_version})
    record_decision(context.engine, accepted, as_of=context.as_of, subject=load.dataset_version)
    return load


@task(name="show-counts", cache_policy=NO_CACHE)
def show_counts(load: Load) -> None:
    """The rows of each table as a Prefect artifact."""
    create_table_artifact(
        key="ingest",
        table=[{"table": name, "in": count.rows_in, "kept": count.kept, "quarantined": count.quarantined,
                "re-delivered": count.redelivered} for name, count in load.counts.items()],
        description=f"Rows as of {load.as_of:%Y-%m-%d}; in = kept + quarantined + re-delivered. "
                    f"Dataset {load.dataset_version}",
    )
