"""Where things live: the environment, read once at the start of a flow or command.

Every variable starts with `CHURN_`; the README's settings table is generated from these fields by a test.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.charter import Charter, load_charter
from models.errors import ConfigError
from models.features_online import redis_config, registry_path
from tasks.home import MEMORY_LIMIT, Home, check_memory_limit

REPO = Path(__file__).resolve().parent.parent


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
    host: str = Field("127.0.0.1", description="address everything listens on")
    api_port: int = Field(8080, gt=0, lt=65536, description="port of the API (Envoy)")
    prefect_port: int = Field(4200, gt=0, lt=65536, description="port of the Prefect server and UI")
    mlflow_port: int = Field(5000, gt=0, lt=65536, description="port of the MLflow UI")
    release_port: int = Field(8101, gt=0, lt=65526, description="first of ten loopback ports for releases")
    memory_limit: str = Field(MEMORY_LIMIT, description="what DuckDB may hold while it computes; the rest goes to disk")
    env_file: Path = Field(REPO / ".env", description="file from which a plain shell finds the platform")

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
        raise ConfigError(f"cannot use {name}={fault['input']!r}: {fault['msg']}") from None


def load_place(settings: Settings) -> tuple[Charter, Home]:
    """The charter and its home.

    Raises:
        ConfigError: the charter, a store or the memory limit cannot be used, or the home belongs to another charter.
    """
    charter = load_charter(settings.charter)
    if settings.online_store is not None:
        redis_config(settings.online_store, seconds=1)
    if settings.feature_registry is not None:
        registry_path(settings.feature_registry)
    check_memory_limit(settings.memory_limit)
    home = Home((settings.home or REPO / "data" / charter.name).absolute(), charter.name, settings.online_store,
                settings.feature_registry)
    claim_home(home, charter.name)
    return charter, home


def claim_home(home: Home, name: str) -> None:
    """Make the home, and write or check whose it is.

    Raises:
        ConfigError: it cannot be written, or another charter's name stands in it.
    """
    marker = home.root / "charter-name"
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        if not marker.exists():
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
