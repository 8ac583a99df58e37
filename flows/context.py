"""What a flow starts from: settings, charter, home, state, sources and the contract they leave in effect."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from feature_repo.contract import CONTRACT, FOLDER
from flows.settings import REPO, Settings, load_place, load_settings
from models.charter import Charter
from models.contract import Contract
from tasks.clock import as_utc, data_now, platform_now
from tasks.data.sources import Sources, load_sources
from tasks.home import Home
from tasks.state import open_state


@dataclass(frozen=True)
class Context:
    """Read once, at the start of a flow, and handed down."""

    settings: Settings
    charter: Charter
    home: Home
    engine: sa.Engine
    sources: Sources
    contract: Contract  # effective: what the sources leave of it
    as_of: datetime

    @property
    def root(self) -> Path:
        """Where relative source paths start."""
        return REPO


def open_context(as_of: datetime | None = None, *, ingesting: bool = False) -> Context:
    """Read the environment; `as_of` None means the last load, and when `ingesting` the platform clock.

    Raises:
        ConfigError: settings, charter or sources cannot be used.
    """
    settings = load_settings()
    charter, home = load_place(settings)
    engine = open_state(home.state_url)
    path = settings.sources or FOLDER / "sources.yaml"
    sources = load_sources(path, CONTRACT, variables={**os.environ, "CHURN_HOME": str(home.root)})
    now = platform_now if ingesting else data_now
    moment = as_utc(as_of) if as_of else now(engine, charter)
    contract = CONTRACT.effective(sources.tables, eligible_within_days=charter.problem.eligible_within_days)
    return Context(settings, charter, home, engine, sources, contract, moment)
