"""Model card stage. Reads what a run left and what the ledger says; writes the card into a folder and into the run.

So the card of a version can be written again at any time, with the verdicts that have come since.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from models.card.document import to_html, to_markdown
from models.card.model_card import ModelCard, card_document
from models.errors import PlatformError
from tasks.home import Home
from tasks.release import releases, rollouts
from tasks.training.card_sources import read_card
from tasks.training.tracking import LONGEST, Run, mlflow_client, store_errors

FOLDER: Final = "card"  # of the run's artifacts
HTML: Final = "model-card.html"
MARKDOWN: Final = "model-card.md"
LINK: Final = "[Model card]"


def write_model_card(folder: Path, card: ModelCard) -> tuple[Path, Path]:
    """The card as one HTML and one Markdown file, which only their owner may read; returns both."""
    folder.mkdir(parents=True, exist_ok=True)
    document = card_document(card)
    paths = folder / HTML, folder / MARKDOWN
    for path, text in zip(paths, (to_html(document), to_markdown(document)), strict=True):
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        beside.rename(path)
    return paths


def write_run_card(run: Run, engine: sa.Engine, folder: Path) -> tuple[Path, Path]:
    """Write the card of a run into a folder and into the run's artifacts, and link its version to it.

    Raises:
        PlatformError: there is no such run, or it left no record.
    """
    card = read_card(run, engine)
    paths = write_model_card(folder, card)
    for path in paths:
        with store_errors(run.home):
            run.client.log_artifact(run.run_id, str(path), FOLDER)
    if card.version is not None:
        link_version(run, card.charter.name, card.version)
    return paths


def run_of_version(home: Home, name: str, version: str) -> Run:
    """The run a registered version came from.

    Raises:
        PlatformError: there is no such version, or the store is gone or cannot be read.
    """
    if not (home.mlflow / "mlflow.db").exists():  # an empty one would be made, and be taken for the real one
        raise PlatformError(f"cannot write the model card of version {version} of {name}: {home.root} holds no MLflow "
                            "store. Restore it from a backup, or set CHURN_HOME")
    client = mlflow_client(home)
    with store_errors(home):
        found = {one.version: one.run_id for one in client.search_model_versions(f"name = '{name}'")}
        run_id = {str(known): run_id for known, run_id in found.items()}.get(version)
        if run_id is None:
            known = ", ".join(str(one) for one in sorted(map(int, found))) or "none"
            raise PlatformError(f"cannot write the model card of version {version} of {name}: there is none; known: "
                                f"{known}. Train one, or name a known one")
        return Run(client, home, client.get_run(run_id).info.experiment_id, run_id)


def link_version(run: Run, name: str, version: str) -> None:
    """Let a version's description end with a link to its card, once."""
    place = f"runs:/{run.run_id}/{FOLDER}/{HTML}"
    with store_errors(run.home):
        found = run.client.get_model_version(name, version)
        run.client.set_model_version_tag(name, version, "model_card", place)
        if LINK not in (found.description or ""):
            link = f"\n\n{LINK}(#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{FOLDER}/{HTML})"
            run.client.update_model_version(name, version, f"{(found.description or '')[: LONGEST - len(link)]}{link}")


def live_version(engine: sa.Engine) -> str:
    """The model version that serves.

    Raises:
        PlatformError: none does.
    """
    serving = rollouts.champion(engine)
    if serving is None:
        raise PlatformError("cannot write a model card: nothing is live. Name a version: make card VERSION=1")
    return releases.read_release(engine, serving.release_id).model_version
