"""What the platform makes in Prefect: the work pool, the limit of one retraining, the deployments of prefect.yaml."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import SecretStr

from deploy.local.parts import LATER, PATIENCE, POOL, SERVER, prefect_api, worker_environment
from flows.maturity import deployments_at
from flows.settings import REPO, Settings
from models.charter import Charter, load_charter
from models.errors import ConfigError, PlatformError, describe
from tasks.home import Home
from tasks.release.processes import last_log_line, log_file
from tasks.release.supervisord import MARK, PROGRAM, server_url, sockets, write_private

OWNER = "owner: "  # tag of a deployment
ONE_AT_A_TIME = "retrain"  # as tasks/monitoring/retrainings.py names it


def make_pool(settings: Settings, home: Home) -> None:
    """The work pool must be there before the deployments are."""
    try:
        prefect_api(settings, home).ask("/work_pools/", {"name": POOL, "type": "process"})
    except urllib.error.HTTPError as error:
        if error.code != 409:  # 409: it is there
            raise PlatformError(f"cannot make the work pool {POOL!r}: Prefect answers {error.code} {error.reason}. "
                                f"See {log_file(home, SERVER)}") from None
    except OSError as error:
        raise PlatformError(f"cannot make the work pool {POOL!r}: {error}. See {log_file(home, SERVER)}") from None


def make_retrain_slot(settings: Settings, home: Home) -> None:
    """The limit that lets one retraining run at a time, however it was started; without it each one refuses."""
    try:
        prefect_api(settings, home).ask("/v2/concurrency_limits/", {"name": ONE_AT_A_TIME, "limit": 1})
    except urllib.error.HTTPError as error:
        if error.code != 409:  # 409: it is there
            raise PlatformError(f"cannot make the limit {ONE_AT_A_TIME!r}: Prefect answers {error.code} "
                                f"{error.reason}. See {log_file(home, SERVER)}") from None
    except OSError as error:
        raise PlatformError(f"cannot make the limit {ONE_AT_A_TIME!r}: {error}. See {log_file(home, SERVER)}") from None


def check_owners(deployments: Sequence[Mapping[str, Any]], charter: Charter) -> None:
    """Each deployment says who owns it, and the charter says the same.

    Raises:
        ConfigError: a deployment names no owner, several, or another one than the charter.
    """
    for one in deployments:
        named = [tag.removeprefix(OWNER) for tag in one.get("tags", []) if tag.startswith(OWNER)]
        owner = charter.owner(one["name"])
        if named != [owner]:
            raise ConfigError(
                f"cannot deploy {one['name']}: prefect.yaml says its owner is {', '.join(named) or 'nobody'}, the "
                f"charter {owner}. Let its tags name {OWNER + owner!r}, or mend owners in the charter")


def deploy_flows(settings: Settings, home: Home, *, level: int) -> None:
    """`prefect deploy --all`: the deployments of prefect.yaml, as they are written now and as the maturity level has
    them.

    Raises:
        ConfigError: see `check_owners`.
        PlatformError: Prefect refused one; its last line is in the message, the whole in the log.
    """
    document = yaml.safe_load((REPO / "prefect.yaml").read_text(encoding="utf-8"))
    check_owners(document["deployments"], load_charter(settings.charter))
    deployed = home.run / "prefect.yaml"
    write_private(deployed, yaml.safe_dump(
        deployments_at(level, document, notify=settings.notify is not None), sort_keys=False))
    log = log_file(home, "deploy")
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        try:
            done = subprocess.run(
                [*LATER, sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file",
                 str(deployed)], cwd=REPO, stdout=file,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False, timeout=PATIENCE,
                env={**worker_environment(settings, home), "NO_COLOR": "1", "TERM": "dumb",
                     MARK: server_url(sockets(home)), PROGRAM: "deploy"},  # so that `make down` ends it too
            )
        except subprocess.TimeoutExpired:
            raise PlatformError(f"cannot deploy the flows of prefect.yaml: not done after {PATIENCE} s (see {log})"
                                ) from None
    if done.returncode:
        said = last_log_line(home, "deploy", error=True)
        raise PlatformError(f"cannot deploy the flows of prefect.yaml: {said} (see {log})")


def keep_notify_block(settings: Settings) -> None:
    """The block in Prefect by which people are told; none where CHURN_NOTIFY is not set.

    Raises:
        PlatformError: Prefect did not take it.
    """
    from tasks.monitoring.notify import BLOCK, ChurnNotify

    try:
        if settings.notify is not None:
            ChurnNotify(url=SecretStr(settings.notify)).save(BLOCK, overwrite=True)
        elif _has_block(f"{ChurnNotify.get_block_type_slug()}/{BLOCK}"):
            ChurnNotify.delete(BLOCK)
    except Exception as error:  # httpx and Prefect each have a tree of their own
        raise PlatformError(f"cannot keep the block {BLOCK!r} in Prefect: {describe(error)}. Start the platform again"
                            ) from None


def _has_block(name: str) -> bool:
    from prefect.blocks.core import Block

    try:
        Block.load(name)
    except ValueError:  # Prefect's word for: there is none
        return False
    return True


def worker_online(settings: Settings, home: Home) -> bool:
    """Does a worker serve the pool?"""
    workers = prefect_api(settings, home).ask(f"/work_pools/{POOL}/workers/filter", {})
    return any(worker["status"] == "ONLINE" for worker in workers)


def follow_open_rollout() -> None:
    """Deploying switches the release schedule off; where a rollout is open it must be on."""
    from flows.release import follow_schedule
    from flows.releasing import release_place
    from tasks.release.rollouts import open_rollout

    _, place = release_place()
    if open_rollout(place.engine) is not None:
        follow_schedule(place)


def use_server_here() -> None:
    """Prefect reads the environment when it is first imported; where that was before, it reads it again."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
