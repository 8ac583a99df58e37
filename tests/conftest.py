"""What every test starts from: one thread for each process, and the servers that tests need.

Where CI is set a missing server is a failure, elsewhere the test skips and says so; and there hypothesis tries the same
examples each time, for a commit must not fail by luck.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import sqlalchemy as sa
from hypothesis import settings

# Before anything loads OpenMP: threads of several workers on two cores wait for each other, ten times as long as they
# compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

POSTGRES = ("127.0.0.1", 5432)
REDIS = ("127.0.0.1", 6379)
REDIS_DATABASE = 15  # of the tests; keys are by project, so that two runs do not meet
# Folders that share a platform, and so its ports, or go on where the file before ended. The longest come first.
TOGETHER = ("tests/loop", "tests/tasks/release", "tests/deploy")


def group_of(nodeid: str) -> str:
    """Which tests run in one process, one after the other: those of a file, or of a folder of TOGETHER."""
    path = nodeid.split("::")[0]
    return next((folder for folder in TOGETHER if path.startswith(f"{folder}/")), path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With `--dist loadscope` a scope is a group of ours. Under pytest 9.2 xdist ignores its own (its issue 1386)."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In xdist's workers the long groups come first: with short ones last, both end at about the same time."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: [*TOGETHER, group_of(item.nodeid)].index(group_of(item.nodeid)))


@pytest.fixture(scope="session")
def shared_venvs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the releases of this run find their environment, which takes half a minute to build."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "venvs"
    folder.mkdir(exist_ok=True)
    return folder


def need_server(name: str, address: tuple[str, int]) -> None:
    """Go on where the server answers; skip where a user has none, fail where CI must have it."""
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError as error:
        skip_or_fail(f"needs {name} on {address[0]}:{address[1]}: {error}")


def skip_or_fail(message: str) -> NoReturn:
    """What a test needs is not here: a user's skips and says so, CI's fails."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """An empty database of its own."""
    need_server("PostgreSQL", POSTGRES)
    host, port = POSTGRES
    name = f"churn_test_{uuid.uuid4().hex[:12]}"
    server = sa.create_engine(f"postgresql+psycopg://root@{host}:{port}/postgres", isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
        try:
            yield f"postgresql://root@{host}:{port}/{name}"
        finally:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def redis_project() -> Iterator[tuple[str, str]]:
    """URL of a Redis database, and a name that is free in it: keys that end in it are removed afterwards."""
    need_server("Redis", REDIS)
    import redis

    project = f"t{uuid.uuid4().hex[:12]}"
    client = redis.Redis(*REDIS, db=REDIS_DATABASE)
    try:
        yield f"redis://{REDIS[0]}:{REDIS[1]}/{REDIS_DATABASE}", project
    finally:
        for key in client.scan_iter(match=f"*{project}", count=1000):
            client.delete(key)
        client.close()
