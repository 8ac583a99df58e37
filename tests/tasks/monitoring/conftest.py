"""What several tests of monitoring share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.logging import disable_run_logger


@pytest.fixture
def no_run_logger() -> Iterator[None]:
    """Tasks are called without a run, so there is none to log to."""
    with disable_run_logger():
        yield
