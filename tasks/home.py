"""Where a charter's state lies. Reads nothing; names every path once, so no stage makes up its own."""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models.errors import ConfigError
from models.serving.features_online import PRIVATE_PROJECT, registry_path, shown

# What DuckDB may hold while it computes; what exceeds it goes to disk. Flows take it from the settings.
MEMORY_LIMIT: Final = "4GB"


def check_memory_limit(text: str) -> None:
    """Raises ConfigError for what is no amount of memory; DuckDB takes a negative one for none at all."""
    amount = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[KMGT]i?B\s*", text, re.IGNORECASE)
    if amount is None or float(amount[1]) == 0:
        raise ConfigError(f"cannot use CHURN_MEMORY_LIMIT={text!r}: not an amount above zero with a unit. Write it as "
                          f"{MEMORY_LIMIT} or 500MB, or leave it unset")


def sqlalchemy_scores_url(url: str) -> str:
    """Where scores are written as a table, as SQLAlchemy wants it: PostgreSQL by psycopg, which Feast brings.

    Raises:
        ConfigError: neither a PostgreSQL nor an SQLite file by its whole path; its password is not shown.
    """
    scheme, _, rest = url.partition("://")
    if scheme in ("postgresql", "postgres", "postgresql+psycopg") and rest.split("?")[0].partition("/")[2]:
        return f"postgresql+psycopg://{rest}"
    if scheme == "sqlite" and re.match(r"//[^/]", rest):  # a flow run starts in another folder
        return url
    raise ConfigError(f"cannot use CHURN_SCORES_URL={shown(url)}: not postgresql://user@host:port/database, or "
                      "sqlite:////folder/file with its whole path. Mend it, or leave it unset for Parquet alone")


@dataclass(frozen=True)
class Home:
    """`CHURN_HOME`: all state of one charter, and nothing outside it."""

    root: Path
    name: str = PRIVATE_PROJECT  # the charter's
    online_store: str | None = field(default=None, repr=False)  # URL of a Redis; None: SQLite in the home
    feature_registry: str | None = field(default=None, repr=False)  # URL of a PostgreSQL; None: SQLite in the home
    state_store: str | None = field(default=None, repr=False)  # URL of a PostgreSQL; None: SQLite in the home
    api_keys: Path | None = None  # file with the hashes of API keys; None: the API is open
    scores_url: str | None = field(default=None, repr=False)  # URL of a database; None: scores are Parquet alone

    @property
    def landing(self) -> Path:
        """Write-once source files of the sample world."""
        return self.root / "landing"

    @property
    def lake(self) -> Path:
        """Parquet: raw tables, quarantine, snapshots, training sets, scores."""
        return self.root / "lake"

    @property
    def serving(self) -> Path:
        """What serving writes: prediction log, Envoy's access log, reports of the monitor."""
        return self.root / "serving"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def run(self) -> Path:
        """Locks, secrets, process configuration, logs: belongs to the running platform."""
        return self.root / "run"

    @property
    def prefect(self) -> Path:
        """`PREFECT_HOME`."""
        return self.root / "prefect"

    @property
    def bentoml(self) -> Path:
        """`BENTOML_HOME`."""
        return self.root / "bentoml"

    @property
    def venvs(self) -> Path:
        """One virtual environment per set of serving pins, named by their hash."""
        return self.root / "venvs"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.mlflow.resolve()}/mlflow.db"

    @property
    def feast(self) -> Path:
        return self.root / "feast"

    @property
    def feast_project(self) -> str:
        """Feast's project: the charter's name in a store that others may share.

        In a home's own stores it stays what it was before there were others: a release that serves reads by it.
        """
        return self.name if self.online_store or self.feature_registry else PRIVATE_PROJECT

    @property
    def feast_registry(self) -> str:
        """SQLAlchemy URL of Feast's registry."""
        if self.feature_registry:
            return registry_path(self.feature_registry)
        return f"sqlite:///{self.feast.resolve()}/registry.db"

    @property
    def feast_online(self) -> Path:
        """The online store's file, where it is SQLite."""
        return self.feast / "online.db"

    @property
    def feast_online_place(self) -> str:
        """The online store: URL of a Redis, or the file."""
        return self.online_store or str(self.feast_online.resolve())

    @property
    def online_record(self) -> Path:
        """Every online store that features of this home were ever put in: an erasure has to find them."""
        return self.root / "feast-online"

    @property
    def scores_record(self) -> Path:
        """Every database that scores of this home were ever written to: an erasure has to find them."""
        return self.root / "scores-tables"

    @property
    def state_url(self) -> str:
        """SQLAlchemy URL of our state: a PostgreSQL, or on a laptop SQLite in WAL mode."""
        return self.state_store or f"sqlite:///{self.root.resolve()}/state.db"

    def number(self) -> str:
        """What tells this home from every other, made at first use: a path may stand for other files elsewhere."""
        file = self.feast / "home-number"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_name(f".home-number.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
            beside.write_text(uuid.uuid4().hex + "\n", encoding="ascii")
            try:
                os.link(beside, file)  # of two who make it at once one wins
            except FileExistsError:
                pass
            finally:
                beside.unlink()
        return file.read_text(encoding="ascii").strip()
