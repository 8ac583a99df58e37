"""Packaging stage. Reads a release payload; writes a Bento, and the virtual environment it is served from.

A release is served by its own interpreter with its own pins, so a later upgrade of the project leaves
older releases as they were evaluated. Environments are named by the hash of their pins and shared.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from models.errors import ReleaseError
from tasks.home import Home

NAME: Final = "churn"
# Of models/: what models/serving stands on.
CODE: Final = ("__init__", "charter", "contract", "errors", "limits", "team")
BENTOFILE: Final = {
    "service": "models.serving.service:Churn",
    "include": ["models/*.py", "models/serving/*.py", "release/*"],
    "python": {"requirements_txt": "./requirements.txt", "lock_packages": False},  # locking again would take the newest
}
# Feast's type checks are compiled into its classes at import, unless Python runs optimised: 1.5 s instead of 5.
OPTIMISED: Final = {"PYTHONOPTIMIZE": "1"}
QUIET: Final = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1"}
# What a release imports before it is ready. Importing compiles just that; the whole environment takes 30 CPU s.
WARM_UP: Final = (
    "import _bentoml_impl.server.serving, _bentoml_impl.worker.service, bentoml_cli.cli, bentoml_cli.serve, orjson, "
    "pandas, prometheus_client, pyarrow.parquet, skops.io, sklearn.compose, sklearn.ensemble, sklearn.impute, "
    "sklearn.linear_model, sklearn.pipeline, sklearn.preprocessing, uvicorn.protocols.http.httptools_impl\n"
    "from feast import FeatureStore, RepoConfig\n"
    "import feast.infra.online_stores.sqlite, feast.infra.online_stores.redis, feast.infra.offline_stores.remote, "
    "psycopg, sqlalchemy.dialects.postgresql.psycopg"
)


def serving_code(repo: Path) -> list[Path]:
    """The files of ours that go into a Bento: the service and what it imports, and no gate."""
    return [*(repo / "models" / f"{name}.py" for name in CODE), *sorted((repo / "models" / "serving").glob("*.py"))]


def export_pins(repo: Path) -> str:
    """The serving group of `uv.lock` with every transitive pin, one line a package, sorted.

    Raises:
        ReleaseError: the lock is missing or has no serving group.
    """
    pins = _uv("export", "--frozen", "--only-group", "serving", "--no-hashes", "--no-emit-project", "--no-header",
               "--no-annotate", "--project", str(repo), doing="export the serving pins")
    return "".join(f"{line}\n" for line in sorted(line.strip() for line in pins.splitlines()) if line)


def pins_hash(pins: str) -> str:
    """Twelve hex digits over the pins, whatever their order."""
    lines = sorted(line.strip() for line in pins.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def ensure_venv(home: Home, pins: str) -> Path:
    """The environment of these pins; built beside and renamed, so one that exists is whole.

    Raises:
        ReleaseError: a pin cannot be installed, or the environment cannot import what a release needs.
    """
    venv = home.venvs / f"{pins_hash(pins)}-py{sys.version_info.major}.{sys.version_info.minor}"
    if (venv / "bin" / "python").exists():
        return venv
    with _locked(home.venvs):
        if (venv / "bin" / "python").exists():  # somebody else built it while we waited
            return venv
        beside = home.venvs / f"{venv.name}.building"
        for leftover in (beside, venv):  # of a build that was killed, or whose Python is gone
            shutil.rmtree(leftover, ignore_errors=True)
        _uv("venv", "--relocatable", "--no-project", "--python", sys.executable, str(beside),
            doing="make an environment for the release")
        requirements = beside / "requirements.txt"
        requirements.write_text(pins, encoding="utf-8")
        python = beside / "bin" / "python"
        install = ("pip", "install", "--no-deps", "--python", str(python), "--requirement", str(requirements))
        try:  # what the cache holds needs no network
            _uv(*install, "--offline", doing="install the serving pins from the cache")
        except ReleaseError:
            _uv(*install, doing="install the serving pins")
        _run([str(python), "-c", WARM_UP], environment={**_clean_environment(), **OPTIMISED, **QUIET},
             doing="import the serving libraries")
        beside.rename(venv)
    return venv


def build_bento(payload: Path, *, home: Home, repo: Path) -> str:
    """Build the Bento of a payload with the code of today; the same payload and code give the same tag.

    Args:
        payload: the folder training wrote, with `requirements.txt`.
        repo: where our `models/` lies.

    Returns:
        Its tag, `churn:v<model version>-<hash>`.

    Raises:
        ReleaseError: the payload lacks a file, or BentoML refuses.
    """
    missing = [name for name in ("release.json", "requirements.txt") if not (payload / name).is_file()]
    if missing:
        raise ReleaseError(f"cannot package {payload}: it has no {missing[0]}. Train again")
    version = _version(payload, repo)
    if _bento(home, version).is_dir():
        return f"{NAME}:{version}"
    venv = ensure_venv(home, (payload / "requirements.txt").read_text(encoding="utf-8"))
    with _locked(home.bentoml), tempfile.TemporaryDirectory(dir=home.bentoml, prefix="stage-") as folder:
        if _bento(home, version).is_dir():
            return f"{NAME}:{version}"
        stage = Path(folder).resolve()
        for path in serving_code(repo):
            beside = stage / path.relative_to(repo)
            beside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, beside)
        shutil.copytree(payload, stage / "release")
        shutil.copyfile(payload / "requirements.txt", stage / "requirements.txt")
        (stage / "bentofile.yaml").write_text(json.dumps(BENTOFILE), encoding="utf-8")  # JSON is YAML
        # By the release's own BentoML: another would add a second pin, its own, to the requirements.
        environment = _clean_environment()
        environment |= {**OPTIMISED, **QUIET, "BENTOML_HOME": str(stage / "store"),
                        "PATH": f"{environment.get('PATH', '')}:{Path(_uv_binary()).parent}"}  # it asks for uv's path
        _run([str(venv / "bin" / "python"), "-m", "bentoml", "build", "--version", version, str(stage)],
             environment=environment, directory=stage, doing=f"build the Bento {NAME}:{version}")
        _bento(home, version).parent.mkdir(parents=True, exist_ok=True)
        # BentoML copies file by file into its store; renamed from a store beside it, a Bento is there whole or not.
        (stage / "store" / "bentos" / NAME / version).rename(_bento(home, version))
    return f"{NAME}:{version}"


def bento_payload(home: Home, tag: str) -> Path:
    """The payload inside a stored Bento.

    Raises:
        ReleaseError: there is no such Bento.
    """
    folder = _bento(home, tag.removeprefix(f"{NAME}:")) / "src" / "release"
    if not folder.is_dir():
        raise ReleaseError(f"cannot find the Bento {tag!r} in {home.bentoml}. Package the release again")
    return folder


def bento_venv(home: Home, tag: str) -> Path:
    """The environment a stored Bento is served from; built again where it is gone.

    Raises:
        ReleaseError: see `ensure_venv` and `bento_payload`.
    """
    return ensure_venv(home, (bento_payload(home, tag) / "requirements.txt").read_text(encoding="utf-8"))


def serve_command(home: Home, tag: str, venv: Path, *, port: int, host: str = "127.0.0.1") -> tuple[list[str],
                                                                                               dict[str, str]]:
    """Command and whole environment that serve a Bento; the repo is on no path of it.

    The key file `run/customer-key` and the clock file `run/clock` belong to the platform; a release
    whose key file is missing refuses to start. A Bento from before there was a prefork is served as it was then.
    """
    root = home.root.resolve()
    code = _bento(home, tag.removeprefix(f"{NAME}:")).resolve() / "src"
    listen = ["--host", host, "--port", str(port)]
    earlier = (code / "models" / "service.py").is_file()
    command = ([str(venv / "bin" / "bentoml"), "serve", tag, *listen] if earlier else
               [str(venv / "bin" / "python"), "-m", "models.serving.prefork", *listen])
    environment = {
        **OPTIMISED, **QUIET,
        "CHURN_CLOCK_FILE": str(root / "run" / "clock"),
        "CHURN_CUSTOMER_KEY_FILE": str(root / "run" / "customer-key"),
        **store_variables(home),
        "CHURN_METRICS_DIR": str(root / "run" / "metrics" / tag.replace(":", "-")),
        "CHURN_PREDICTION_LOG": str(root / "serving" / "predictions.jsonl"),
        "CHURN_RELEASE_ID": tag,
        "OMP_NUM_THREADS": "1",  # two threads on two busy cores: p99 of a row is 1.7 s instead of 14 ms
        "PATH": f"{venv / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        **({"BENTOML_HOME": str(root / home.bentoml.relative_to(home.root))} if earlier else
           {"PYTHONPATH": str(code),  # the code of the Bento alone
            "PYTHONSAFEPATH": "1"}),  # not what lies where it is started
    }
    return command, environment


def store_variables(home: Home) -> dict[str, str]:
    """Where a release finds its features and the hashes of API keys; credentials travel by the environment alone."""
    return {"CHURN_FEAST_ONLINE": home.feast_online_place, "CHURN_FEAST_PROJECT": home.feast_project,
            "CHURN_FEAST_REGISTRY": home.feast_registry,
            "CHURN_API_KEYS": str(home.api_keys or "")}


def _version(payload: Path, repo: Path) -> str:
    """Model version and a hash of all that goes into the Bento; lower case, as BentoML wants it."""
    digest = hashlib.sha256()
    files = [path for path in sorted(payload.rglob("*")) if path.is_file()]
    for path in [*files, *serving_code(repo)]:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    version = json.loads((payload / "release.json").read_text(encoding="utf-8")).get("model_version", "")
    return f"v{version}-{digest.hexdigest()[:8]}".lower()


def _bento(home: Home, version: str) -> Path:
    return home.bentoml / "bentos" / NAME / version


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time in a folder; the lock goes with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _clean_environment() -> dict[str, str]:
    """Ours without what would lead another interpreter to our libraries or keep it from writing bytecode."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith("PYTHON") and name not in ("VIRTUAL_ENV", "BENTOML_HOME", "BENTOML_CONFIG")}


def _uv_binary() -> str:
    from uv import find_uv_bin

    return find_uv_bin()


def _uv(*arguments: str, doing: str) -> str:
    return _run([_uv_binary(), "--quiet", "--no-progress", "--color", "never", *arguments], doing=doing,
                environment={**_clean_environment(), "UV_PYTHON_DOWNLOADS": "never"})


def _run(command: Sequence[str], *, environment: Mapping[str, str], doing: str, directory: Path | None = None) -> str:
    done = subprocess.run(command, env=dict(environment), cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ReleaseError(f"cannot {doing}: {said[-1] if said else 'no output'} (exit code {done.returncode})")
    return done.stdout
