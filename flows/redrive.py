"""Re-drive: quarantined rows through today's checks again, after the source or the rule is mended."""

from __future__ import annotations

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from feature_repo.contract import RAW_TABLES
from flows.context import Context, open_context
from models.decision import Decision
from tasks.data.redrive import Redrive, redrive_quarantine
from tasks.state import record_decision


@flow(name="redrive")
def redrive(dry_run: bool = False) -> Redrive:
    """What passes leaves the quarantine and shows from the next `as_of` on; the rest stays with its new reasons."""
    context = open_context()
    done = redrive_quarantined_rows(context, dry_run)
    show_redrive(done)
    return done


@task(name="redrive-quarantine", cache_policy=NO_CACHE)
def redrive_quarantined_rows(context: Context, dry_run: bool) -> Redrive:
    """Check again and swap the partitions; a verdict in the ledger says what became of the rows."""
    done = redrive_quarantine(
        context.sources, context.contract, RAW_TABLES, charter=context.charter, home=context.home,
        engine=context.engine, dry_run=dry_run,
    )
    if not dry_run:
        decision = Decision("data", "accept", done.line, {"dataset_version": done.dataset_version})
        record_decision(context.engine, decision, as_of=done.as_of, subject=done.dataset_version,
                        flow_run_id=flow_run.id)
    return done


@task(name="show-redrive", cache_policy=NO_CACHE)
def show_redrive(done: Redrive) -> None:
    """The rows of each table as a Prefect artifact."""
    create_table_artifact(
        key="redrive",
        table=[{"table": name, "in quarantine": one.waiting, "passed": one.passed, "still bad": one.bad,
                "re-delivered": one.redelivered,
                "most often": "; ".join(f"{reason} ({count:,})" for reason, count in one.reasons[:3])}
               for name, one in done.tables.items()],
        description=done.line,
    )
