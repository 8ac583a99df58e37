"""The order of events; one file a flow. Importing it settles what libraries read when they are first imported.

Prefect fixes its home, and MLflow asks for telemetry, at import. So a plain `from flows.lifecycle import
lifecycle` needs these before; a value that is set stays, and so does what `make run` wrote to `.env`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def _settle_environment() -> None:
    temporary = Path(tempfile.gettempdir()) / f"churn-prefect-{os.getuid()}"
    temporary.mkdir(mode=0o700, exist_ok=True)
    for name, value in {
        "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the default of 20 is too short on a busy machine
        "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "BENTOML_DO_NOT_TRACK": "true", "MPLCONFIGDIR": str(temporary / "matplotlib"),
    }.items():
        os.environ.setdefault(name, value)
    dotenv = Path(".env")
    written = dotenv.read_text(encoding="utf-8") if dotenv.is_file() else ""
    if "PREFECT_API_URL" not in written:  # no platform: the temporary server must not live in $HOME
        os.environ.setdefault("PREFECT_HOME", str(temporary))


_settle_environment()
