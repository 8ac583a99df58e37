"""What each part of the platform is started with: command, environment, secrets. Writes the secrets' files."""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

from deploy.local.ask import PrefectApi
from deploy.local.automations import HEARTBEAT_SECONDS
from flows.settings import REPO, Settings
from tasks.home import Home

POOL = "local"
SERVER = "prefect-server"
LATER = ("nice", "-n", "5")  # on two cores, what the first flow does not need should not slow it
PATIENCE = 180  # seconds; a first start on a loaded machine, with migrations, took 27
# What a flow run may see of the shell that called `make run`. Not all of it: each run would restart the
# worker for a new SHLVL, and a worker should not hold secrets it has no use for.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "SSL_CERT_FILE", "SSL_CERT_DIR",
             "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "OMP_NUM_THREADS")
PASSED_ON_PREFIXES = ("CHURN_", "AWS_", "UV_", "PIP_")
SAID_ONCE = "CHURN_MATURITY"  # a program goes by the home's note: what is said later counts for it too


def reachable(host: str) -> str:
    """The address a client uses for what listens on `host`."""
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host


def prefect_url(settings: Settings) -> str:
    """Prefect's UI; its API is below `/api`."""
    return f"http://{reachable(settings.host)}:{settings.prefect_port}"


def mlflow_url(settings: Settings) -> str:
    """MLflow's UI."""
    return f"http://{reachable(settings.host)}:{settings.mlflow_port}"


def api_url(settings: Settings) -> str:
    """The API, behind Envoy."""
    return f"http://{reachable(settings.host)}:{settings.api_port}"


def auth_file(home: Home) -> Path:
    """The file that holds what Prefect's UI asks for."""
    return home.run / "prefect-auth"


def prefect_api(settings: Settings, home: Home) -> PrefectApi:
    """The Prefect server of this home.

    Raises:
        FileNotFoundError: it was never started.
    """
    return PrefectApi(f"{prefect_url(settings)}/api", auth_file(home).read_text(encoding="utf-8").strip())


def make_secrets(home: Home) -> None:
    """Prefect's auth string and the key of the customers' HMAC; those that are there stay."""
    home.run.mkdir(parents=True, exist_ok=True)
    _keep_secret(auth_file(home), f"churn:{secrets.token_urlsafe(24)}")
    _keep_secret(home.run / "customer-key", secrets.token_hex(32))


def _keep_secret(path: Path, value: str) -> None:
    if path.exists() and path.stat().st_size:
        path.chmod(0o600)
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(value + "\n")
    beside.rename(path)


def client_environment(settings: Settings, home: Home) -> dict[str, str]:
    """What a flow, in a worker or in this process, needs to find the platform and to leave $HOME alone."""
    api = prefect_api(settings, home)
    root = home.root.absolute()
    bypass = ",".join(dict.fromkeys([*filter(None, os.environ.get("NO_PROXY", "").split(",")),
                                     "127.0.0.1", "localhost", reachable(settings.host)]))
    return {
        "PREFECT_API_URL": api.url,
        "PREFECT_API_AUTH_STRING": api.auth_string,
        "PREFECT_HOME": str(home.prefect.absolute()),
        "PREFECT_PROFILES_PATH": str(home.prefect.absolute() / "profiles.toml"),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default is pickle
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_TRACKING_URI": home.mlflow_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "BENTOML_HOME": str(home.bentoml.absolute()),
        "BENTOML_DO_NOT_TRACK": "true",
        "FEAST_USAGE": "false",
        "MPLCONFIGDIR": str(root / "run" / "matplotlib"),
        "NO_PROXY": bypass,
        "no_proxy": bypass,
    }


def place_environment(settings: Settings, home: Home) -> dict[str, str]:
    """The settings as variables but for the maturity level, paths absolute: a flow run starts in another folder."""
    values: dict[str, str] = {}
    for name, value in settings.model_dump().items():
        if value is not None:
            values[f"CHURN_{name}".upper()] = str(value.absolute() if isinstance(value, Path) else value)
    values.pop(SAID_ONCE, None)
    values["CHURN_HOME"] = str(home.root.absolute())
    if home.api_keys:  # of this shell or of one before
        values["CHURN_API_KEYS"] = str(home.api_keys)
    return values


def program_environment(settings: Settings, home: Home) -> dict[str, str]:
    """What every part gets."""
    return {**_passed_on(settings), **client_environment(settings, home), **place_environment(settings, home),
            "PYTHONUNBUFFERED": "1"}


def _passed_on(settings: Settings) -> dict[str, str]:
    """The part of our own environment a worker needs: credentials the sources file refers to as `${NAME}` too."""
    sources = settings.sources or REPO / "feature_repo" / "sources.yaml"
    referred = set(re.findall(r"\$\{(\w+)", sources.read_text(encoding="utf-8"))) if sources.is_file() else set()
    return {name: value for name, value in os.environ.items()
            if name != SAID_ONCE and (name in PASSED_ON or name in referred or name.startswith(PASSED_ON_PREFIXES))}


def server_command(settings: Settings) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", settings.host,
            "--port", str(settings.prefect_port)]


def server_environment(settings: Settings, home: Home) -> dict[str, str]:
    """Prefect's API believes any web page otherwise: it takes cross-origin requests from everywhere and asks nobody."""
    environment = program_environment(settings, home)
    port = settings.prefect_port
    origins = dict.fromkeys([prefect_url(settings), f"http://127.0.0.1:{port}", f"http://localhost:{port}"])
    return {**environment,
            "PREFECT_SERVER_API_AUTH_STRING": environment["PREFECT_API_AUTH_STRING"],
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false"}


def worker_command() -> list[str]:
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process",
            "--name", "local-worker"]


def worker_environment(settings: Settings, home: Home) -> dict[str, str]:
    """Flow runs inherit this: the same charter, home and ports as `make run` had."""
    return {**program_environment(settings, home), "PREFECT_WORKER_QUERY_SECONDS": "2", "PYTHONPATH": str(REPO),
            "CHURN_REPO": str(REPO)}  # prefect.yaml names the repo by it


def watchdog_command(settings: Settings, home: Home) -> list[str]:
    return [sys.executable, "-m", "tasks.release.watchdog", "--home", str(home.root.absolute()),
            "--charter", str(settings.charter.absolute()), "--first-port", str(settings.release_port),
            "--api", api_url(settings)]


def watchdog_environment(settings: Settings, home: Home) -> dict[str, str]:
    """Where the shared stores are: it starts what should run, and a release reads just these; no MLflow.

    Of Prefect it has the address only, to say what it did: it does not need an answer.
    """
    client = client_environment(settings, home) if auth_file(home).exists() else {}
    return {**_passed_on(settings), **place_environment(settings, home), "PYTHONPATH": str(REPO),
            **{name: value for name, value in client.items() if name.startswith(("PREFECT_", "DO_NOT_"))},
            "PYTHONUNBUFFERED": "1", "BENTOML_HOME": str(home.bentoml.absolute())}


def exporter_command(settings: Settings, home: Home) -> list[str]:
    return [sys.executable, "-m", "tasks.monitoring.exporter", "--home", str(home.root.absolute()),
            "--charter", str(settings.charter.absolute()), "--port", str(settings.exporter_port)]


def metrics_url(settings: Settings) -> str:
    """What Prometheus scrapes; loopback, whatever the host."""
    return f"http://127.0.0.1:{settings.exporter_port}/metrics"


def mlflow_command(settings: Settings, home: Home) -> list[str]:
    return [sys.executable, "-m", "mlflow", "server", "--host", settings.host, "--port", str(settings.mlflow_port),
            "--workers", "1", "--backend-store-uri", home.mlflow_uri,
            "--default-artifact-root", str((home.mlflow / "artifacts").absolute())]
