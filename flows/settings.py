"""Where things live: the environment, read once at the start of a flow or command.

Every variable starts with `CHURN_`; the README's settings table is generated from these fields by a test.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.charter import Charter, load_charter
from models.errors import ConfigError
from models.serving.features_online import redis_config, registry_path
from tasks.home import MEMORY_LIMIT, Home, check_memory_limit, sqlalchemy_scores_url
from tasks.maturity import NEW, note_level
from tasks.state import open_state, read_decisions
from tasks.state_store import claim_state, state_place

REPO = Path(__file__).resolve().parent.parent
SECRET = ("CHURN_NOTIFY",)  # may hold a password: not shown where it cannot be used


class Settings(BaseSettings):
    """Places and ports. What changes the problem is the charter, what changes the model a flow's config."""

    model_config = SettingsConfigDict(env_prefix="CHURN_", frozen=True, extra="ignore")

    charter: Path = Field(REPO / "charter.yaml", description="the charter: what is predicted, its worth, its limits")
    sources: Path | None = Field(None, description="the sources file; unset: the sample world is written and read")
    home: Path | None = Field(None, description="holds all state; unset: data/NAME, the charter's name")
    online_store: str | None = Field(None, repr=False, description="online features: redis://host:port/db; unset: "
                                     "SQLite in the home")
    feature_registry: str | None = Field(None, repr=False, description="Feast's registry: postgresql://host/database; "
                                         "unset: SQLite in the home")
    state_url: str | None = Field(None, repr=False, description="our state: postgresql://host/database; unset: SQLite "
                                  "in the home")
    api_keys: Path | None = Field(None, description="file with the hashes of API keys (`make api-key` adds to it); "
                                  "unset: the API asks for none")
    scores_url: str | None = Field(None, repr=False, description="scores also as a SQL table, NAME_scores: "
                                   "postgresql://host/database or sqlite:////file; unset: Parquet alone")
    host: str = Field("127.0.0.1", description="address everything listens on")
    api_port: int = Field(8080, gt=0, lt=65536, description="port of the API (Envoy)")
    prefect_port: int = Field(4200, gt=0, lt=65536, description="port of the Prefect server and UI")
    mlflow_port: int = Field(5000, gt=0, lt=65536, description="port of the MLflow UI")
    evidently_port: int = Field(8300, gt=0, lt=65536, description="port of Evidently's UI, on loopback, while `make "
                                "drift-ui` runs")
    release_workers: int = Field(2, gt=0, le=32, description="worker processes of each release; with one, a worker "
                                 "that dies is missed for a moment")
    release_port: int = Field(8101, gt=0, lt=65526, description="first of ten loopback ports for releases")
    metrics_port: int | None = Field(None, gt=0, lt=65536, description="loopback port of the metrics for Prometheus; "
                                     "unset: ten above `CHURN_RELEASE_PORT`")
    rate_limit: int = Field(1000, ge=0, le=100_000, description="requests a second that one client may send (an API "
                            "key, else an address; ten keys an address); more are answered 429; 0: no limit")
    memory_limit: str = Field(MEMORY_LIMIT, description="what DuckDB may hold while it computes; the rest goes to disk")
    maturity: int | None = Field(None, ge=1, le=3, description="1: nothing is scheduled or triggered; 2: a release "
                                 "waits for a person; 3: all of it runs by itself; unset: as last set here, 3 in a new "
                                 "home")
    notify: str | None = Field(None, repr=False, pattern=r"^\w[\w+.-]*://", description="where alarms and events are "
                               "told: an address in Apprise's form, or file:///folder/name; unset: nowhere")
    env_file: Path = Field(REPO / ".env", description="file from which a plain shell finds the platform")

    @property
    def exporter_port(self) -> int:
        """Port of the metrics: beside those of the releases, where none is set."""
        return self.metrics_port or self.release_port + 10

    @property
    def sample(self) -> bool:
        """No sources named: the sample world is the source."""
        return self.sources is None


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigError: a variable has a value that cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        fault = error.errors()[0]
        name = f"CHURN_{'_'.join(str(part) for part in fault['loc'])}".upper()
        value = "..." if name in SECRET else repr(fault["input"])
        raise ConfigError(f"cannot use {name}={value}: {fault['msg']}") from None


def load_place(settings: Settings) -> tuple[Charter, Home]:
    """The charter and its home.

    Raises:
        ConfigError: the charter, a store or the memory limit cannot be used, or the home belongs to another charter.
        PlatformError: the state store cannot be reached, or belongs to another home.
    """
    charter = load_charter(settings.charter)
    if settings.online_store is not None:
        redis_config(settings.online_store, seconds=1)
    if settings.feature_registry is not None:
        registry_path(settings.feature_registry)
    if settings.scores_url is not None:
        sqlalchemy_scores_url(settings.scores_url)
    check_memory_limit(settings.memory_limit)
    home = Home((settings.home or REPO / "data" / charter.name).absolute(), charter.name, settings.online_store,
                settings.feature_registry, state_place(settings.state_url) if settings.state_url else None,
                scores_url=settings.scores_url)
    new = claim_home(home, charter.name)
    home = replace(home, api_keys=_keep_api_keys(home, settings.api_keys))
    if home.state_store:
        claim_state(home, open_state(home.state_url))
    if new and not _has_ledger(home):
        note_level(home, settings.maturity or NEW)
    return charter, home


def _has_ledger(home: Home) -> bool:
    """Whether any verdict was written: then what lost its marks is no new home."""
    if not home.state_store and not (home.root / "state.db").exists():
        return False
    return bool(read_decisions(open_state(home.state_url), limit=1))


def _keep_api_keys(home: Home, given: Path | None) -> Path | None:
    """The file of API keys that is named now, or was last: a shell that names none must not open the API.

    A rollback typed there starts releases; one that is started without keys asks for none.
    """
    note = home.run / "api-keys"
    if given is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        beside = note.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(f"{given.absolute()}\n", encoding="utf-8")
        beside.rename(note)
    return Path(note.read_text(encoding="utf-8").strip()) if note.exists() else None


def claim_home(home: Home, name: str) -> bool:
    """Make the home, and write or check whose it is; returns whether nobody's mark stood there.

    Raises:
        ConfigError: it cannot be written, or another charter's name stands in it.
    """
    marker = home.root / "charter-name"
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        new = not marker.exists()
        if new:
            beside = marker.with_suffix(f".{os.getpid()}.tmp")
            beside.write_text(name + "\n", encoding="utf-8")
            beside.rename(marker)
        found = marker.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot write CHURN_HOME={home.root}: {error.strerror}. Set CHURN_HOME to a folder you "
                          "may write") from None
    if found != name:
        raise ConfigError(f"cannot use CHURN_HOME={home.root}: it holds the charter {found!r}, not {name!r}. "
                          "Set CHURN_HOME to another folder")
    return new
