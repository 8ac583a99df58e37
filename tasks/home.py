"""Where a charter's state lies. Reads nothing; names every path once, so no stage makes up its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """`CHURN_HOME`: all state of one charter, and nothing outside it."""

    root: Path

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
    def feast_registry(self) -> str:
        return f"sqlite:///{self.feast.resolve()}/registry.db"

    @property
    def feast_online(self) -> Path:
        return self.feast / "online.db"

    @property
    def state_url(self) -> str:
        """Our state on a laptop: SQLite in WAL mode."""
        return f"sqlite:///{self.root.resolve()}/state.db"
