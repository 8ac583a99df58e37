"""Card: the model card of a version, with the verdicts the ledger has on it now."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.settings import load_place, load_settings
from tasks.home import Home
from tasks.state import open_state
from tasks.training.model_card import live_version, run_of_version, write_run_card
from tasks.training.tracking import Run


@flow(name="card")
def card(version: int | None = None) -> Path:
    """Write the card of a model version (None: of what serves) into the reports and its run; returns the HTML file.

    Raises:
        PlatformError: nothing serves and no version is named, there is no such version, or its run left no record.
    """
    charter, home = load_place(load_settings())
    engine = open_state(home.state_url)
    wanted = str(version) if version is not None else live_version(engine)
    run = run_of_version(home, charter.name, wanted)
    path = write_card(home, engine, run, f"v{wanted}")
    create_markdown_artifact(f"[Model card of version {wanted}]({path.as_uri()}), also in MLflow's run {run.run_id}",
                             key="model-card", description=f"model card of version {wanted}")
    return path


@task(name="write-card", cache_policy=NO_CACHE)
def write_card(home: Home, engine: sa.Engine, run: Run, name: str) -> Path:
    """The card of a run, in the reports as `card-NAME` and in the run; returns the HTML file."""
    return write_run_card(run, engine, home.reports / f"card-{name}")[0]
