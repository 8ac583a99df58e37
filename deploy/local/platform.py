"""The local platform: start it, wait until it answers, stop it. Reads and writes `home.run` and the `.env` file.

Flows need the Prefect server, Envoy and MLflow's tables; these are waited for. The worker, the
deployments and MLflow's UI come up behind the flow's back: `Platform.wait` says when they are there.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from deploy.local.ask import answers
from deploy.local.automations import end_what_was_killed, make_automations
from deploy.local.env_file import clear_env, write_env
from deploy.local.parts import (
    LATER,
    PATIENCE,
    SERVER,
    api_url,
    auth_file,
    client_environment,
    exporter_command,
    make_secrets,
    metrics_url,
    mlflow_command,
    mlflow_url,
    place_environment,
    prefect_api,
    prefect_url,
    program_environment,
    server_command,
    server_environment,
    watchdog_command,
    watchdog_environment,
    worker_command,
    worker_environment,
)
from deploy.local.ports import check_ports
from deploy.local.prefect_setup import (
    deploy_flows,
    follow_open_rollout,
    keep_notify_block,
    make_pool,
    make_retrain_slot,
    use_server_here,
    worker_online,
)
from deploy.local.supported import this_platform
from flows.maturity import watched
from flows.settings import REPO, Settings
from models.charter import Charter
from models.errors import PlatformError
from tasks.home import Home
from tasks.maturity import keep_level
from tasks.release.processes import (
    last_log_line,
    log_file,
    owned_pids,
    programs,
    start_program,
    start_supervisor,
    stop_program,
    stop_supervisor,
    supervisor_running,
)

WORKER, MLFLOW, ENVOY, WATCHDOG, EXPORTER = "worker", "mlflow-ui", "envoy", "watchdog", "exporter"
PARTS = (SERVER, WORKER, MLFLOW, ENVOY, WATCHDOG, EXPORTER)
Say = Callable[[str], None]


def _silent(_line: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Platform:
    """A platform whose needed parts answer; the rest may still be on its way."""

    rest: Future[None]

    def wait(self) -> None:
        """Wait for the worker, the deployments and MLflow's UI.

        Raises:
            PlatformError: one of them did not come up.
        """
        self.rest.result()


def start_platform(
    settings: Settings, charter: Charter, home: Home, *, say: Say = _silent,
    meanwhile: Callable[[], object] = lambda: None,
) -> Platform:
    """Start what is missing, side by side; what runs already with the same settings is left alone.

    Afterwards flows of this process use the server: its address and secret stand in `os.environ`.

    Args:
        settings: host, ports and where `.env` lies.
        charter: whose platform it is; for the progress lines.
        home: holds all its state.
        say: takes a line of progress.
        meanwhile: called in a thread while the parts come up, once MLflow's tables are there; nothing waits for it.

    Raises:
        PlatformError: the machine cannot be used, a port is taken, or a part did not come up.
    """
    begin = time.monotonic()

    def tell(what: str) -> None:
        say(f"  {time.monotonic() - begin:5.1f} s  {what}")

    reason = this_platform()
    if reason:
        raise PlatformError(f"cannot run on {reason}")
    check_ports(settings, ours=owned_pids(home))
    for folder in (home.run, home.prefect, home.mlflow, home.bentoml, home.serving):
        folder.mkdir(parents=True, exist_ok=True)
    make_secrets(home)
    level = keep_level(home, settings.maturity)
    fresh = not supervisor_running(home)  # then whatever Prefect takes for running is not: it was stopped or killed
    start_supervisor(home)
    tell(f"supervisor runs, for {charter.name!r} in {home.root}")
    if level.fault:
        tell(level.fault)
    start_program(home, SERVER, server_command(settings), environment=server_environment(settings, home),
                  directory=home.root)
    _start_envoy(settings, home)
    os.environ.update(client_environment(settings, home))
    os.environ.update(place_environment(settings, home))
    tables: Future[None] = Future()
    _behind(lambda: _fill(tables, lambda: make_mlflow_tables(home)), meanwhile)
    wait_ready(home, {SERVER: lambda: answers(f"{prefect_url(settings)}/api/health"),
                      ENVOY: lambda: answers(api_url(settings))}, tell=tell)
    use_server_here()
    make_pool(settings, home)
    if fresh:
        runs, slots = end_what_was_killed(prefect_api(settings, home))
        if runs or slots:
            tell(f"ended {runs} runs and freed {slots} slots of a platform that was killed")
    tables.result()
    client = client_environment(settings, home)
    write_env(settings.env_file, {name: client[name] for name in
                                  ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME")})
    return Platform(_behind(lambda: _start_rest(settings, home, level.number, tell)))


def _start_envoy(settings: Settings, home: Home) -> None:
    from tasks.release.routing import envoy_command, write_bootstrap

    write_bootstrap(home, host=settings.host, api_port=settings.api_port, rate_limit=settings.rate_limit)
    start_program(home, ENVOY, envoy_command(home), environment={}, directory=home.root)


def _start_rest(settings: Settings, home: Home, level: int, tell: Say) -> None:
    """What the first flow does not need. The watchdog first: customers may be with a canary already."""
    start_program(home, WATCHDOG, watchdog_command(settings, home), environment=watchdog_environment(settings, home),
                  directory=home.root)
    start_program(home, WORKER, worker_command(), environment=worker_environment(settings, home), directory=REPO,
                  stop_seconds=4)
    make_retrain_slot(settings, home)
    deploy_flows(settings, home, level=level)
    make_automations(prefect_api(settings, home), watch_monitor=watched(level))
    keep_notify_block(settings)
    follow_open_rollout()
    tell(f"flows are deployed, maturity {level}")
    start_program(home, MLFLOW, [*LATER, *mlflow_command(settings, home)], directory=home.root,
                  environment=program_environment(settings, home))
    start_program(home, EXPORTER, [*LATER, *exporter_command(settings, home)], directory=home.root,
                  environment=watchdog_environment(settings, home))
    wait_ready(home, {WORKER: lambda: worker_online(settings, home),
                      MLFLOW: lambda: answers(f"{mlflow_url(settings)}/health"),
                      EXPORTER: lambda: answers(metrics_url(settings).replace("/metrics", "/targets"))}, tell=tell)


def wait_ready(
    home: Home, parts: Mapping[str, Callable[[], bool]], *, tell: Say = _silent, seconds: float = PATIENCE,
) -> None:
    """Wait until every part answers; each is asked in turn, four times a second.

    Raises:
        PlatformError: one gave up, or did not answer in time; names its log file and the last line of it.
    """
    deadline = time.monotonic() + seconds
    waiting = dict(parts)
    while waiting:
        for name, ready in list(waiting.items()):
            with contextlib.suppress(OSError):
                if ready():
                    del waiting[name]
                    tell(f"{name} answers")
        if not waiting:
            return
        states = programs(home)
        for name in waiting:
            state = states[name].state if name in states else "missing"
            if state in ("FATAL", "missing") or time.monotonic() > deadline:
                why = "it kept failing" if state == "FATAL" else f"{state.lower()}, no answer for {seconds:.0f} s"
                said = last_log_line(home, name, error=True) or "none"
                raise PlatformError(f"cannot start {name}: {why}; its last line: {said} (see {log_file(home, name)})")
        time.sleep(0.25)


def make_mlflow_tables(home: Home) -> None:
    """Create or migrate MLflow's tables once, before anybody else opens them: two who race on a fresh file fail.

    Raises:
        PlatformError: the file cannot be used.
    """
    done, version = home.mlflow / "tables", importlib.metadata.version("mlflow")
    if done.exists() and done.read_text(encoding="utf-8") == version:
        return  # saves importing MLflow, five seconds
    home.mlflow.mkdir(parents=True, exist_ok=True)
    try:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        artifacts = str((home.mlflow / "artifacts").absolute())
        SqlAlchemyStore(home.mlflow_uri, artifacts)
    except Exception as error:  # MLflow, Alembic and SQLAlchemy each have a tree of their own
        lines = str(error).strip().splitlines()
        raise PlatformError(f"cannot prepare MLflow's tables in {home.mlflow}: {lines[0] if lines else error!r}. "
                            f"After an upgrade: mlflow db upgrade {home.mlflow_uri}") from error
    done.write_text(version, encoding="utf-8")


def _behind(*calls: Callable[[], object]) -> Future[None]:
    """Run calls one after the other in a thread that Ctrl-C does not wait for."""
    done: Future[None] = Future()

    def run() -> None:
        for call in calls:
            call()

    threading.Thread(target=_fill, args=(done, run), daemon=True).start()
    return done


def _fill(future: Future[None], call: Callable[[], object]) -> None:
    try:
        call()
        future.set_result(None)
    except BaseException as error:  # handed to whoever asks for the result
        future.set_exception(error)


def stop_platform(settings: Settings, home: Home) -> None:
    """Stop everything and take URL and secret out of `.env`; data and the releases' program files stay."""
    with contextlib.suppress(PlatformError):  # not running: nothing to stop
        stop_program(home, WORKER)  # first: it hangs, and loses what its runs would report, once its server is gone
    stop_supervisor(home)
    for name in PARTS:
        for suffix in (".conf", ".sh"):  # written anew by the next start; a release's file brings it back by itself
            (home.run / "programs" / f"{name}{suffix}").unlink(missing_ok=True)
    if auth_file(home).exists():
        clear_env(settings.env_file, auth_string=prefect_api(settings, home).auth_string)


def platform_urls(settings: Settings) -> dict[str, str]:
    """Where to look."""
    return {"prefect": prefect_url(settings), "mlflow": mlflow_url(settings), "api": f"{api_url(settings)}/docs"}
