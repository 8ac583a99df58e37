"""One real platform for the tests of this folder, on ports and under a home of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.platform import start_platform, stop_platform
from flows.settings import Settings, load_place
from models.charter import Charter
from tasks.home import Home


@dataclass(frozen=True)
class Running:
    """A platform that answers; `dollar_home` is what its processes see as $HOME."""

    settings: Settings
    charter: Charter
    home: Home
    dollar_home: Path


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("platform")
    dollar_home = folder / "dollar-home"
    dollar_home.mkdir()
    before = dict(os.environ)
    os.environ["HOME"] = str(dollar_home)
    settings = Settings(home=folder / "home", env_file=folder / ".env", api_port=24020, prefect_port=24021,
                        mlflow_port=24022, release_port=24030)
    charter, home = load_place(settings)
    try:
        start_platform(settings, charter, home).wait()
        yield Running(settings, charter, home, dollar_home)
    finally:
        stop_platform(settings, home)
        os.environ.clear()
        os.environ.update(before)
