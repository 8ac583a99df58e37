"""Ingest: from the sources to the lake; bad rows go to the quarantine with their reasons."""

from __future__ import annotations

import base64
from datetime import datetime

from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from feature_repo.contract import RAW_TABLES
from flows.context import Context, open_context
from models.decision import Decision
from models.errors import DataError
from tasks.clock import move_clock
from tasks.data.ingest import Load, ingest_sources
from tasks.data.quality import BatchRefused, read_scorecards
from tasks.data.quality_plot import draw_quality
from tasks.monitoring.heartbeats import beat
from tasks.monitoring.outbox import send_events
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
    show_quality(context, load.as_of)
    beat(context.engine, "ingest", as_of=load.as_of)
    return load


def needs_sample_world(context: Context) -> bool:
    """No sources named, and the default ones read the home's own landing folder, which is empty."""
    paths = [source.path for source in context.sources.tables.values()]
    own = all(path is not None and path.startswith(str(context.home.landing)) for path in paths)
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
        evidence = error.card.evidence if isinstance(error, BatchRefused) else {}
        refused = Decision("data", "refuse", str(error), evidence)
        record_decision(context.engine, refused, as_of=context.as_of, flow_run_id=flow_run.id)
        send_events(context.engine, charter_name=context.charter.name)
        raise
    accepted = Decision("data", "accept", load.total.line.replace(" in ", " rows in ", 1),
                        {"dataset_version": load.dataset_version})
    record_decision(context.engine, accepted, as_of=context.as_of, subject=load.dataset_version,
                    flow_run_id=flow_run.id)
    return load


@task(name="show-counts", cache_policy=NO_CACHE)
def show_counts(load: Load) -> None:
    """The rows of each table as a Prefect artifact."""
    create_table_artifact(
        key="ingest",
        table=[{"table": name, "in": count.rows_in, "kept": count.kept, "quarantined": count.quarantined,
                "re-delivered": count.redelivered, "forgotten": count.forgotten,
                "not arrived yet": count.waiting, "files read": count.files_read,
                "files unchanged": count.files_skipped} for name, count in load.counts.items()],
        description=f"Rows as of {load.as_of:%Y-%m-%d}; in = kept + quarantined + re-delivered + forgotten. "
                    f"Dataset {load.dataset_version}",
    )


@task(name="show-quality", cache_policy=NO_CACHE)
def show_quality(context: Context, as_of: datetime) -> None:
    """The scorecard as a Prefect artifact, and all of them over time as a picture in the reports."""
    cards = read_scorecards(context.engine)
    card = next((card for card in cards if card.as_of == as_of), None)
    if card is None:  # loaded before there were scorecards
        return
    create_markdown_artifact(key="quality", markdown=card.markdown, description=card.line)
    picture = draw_quality(context.home, cards)
    if picture is not None:
        data = base64.b64encode(picture.read_bytes()).decode()
        create_image_artifact(key="quality-over-time", image_url=f"data:image/png;base64,{data}",
                              description="Scores by load; overall is the weakest")
