"""A Prefect server for the flow tests: one a session, in a folder of its own, nothing under `$HOME`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def prefect_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Flows run against a temporary server, without the second a sync flow waits for its heartbeat to end."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DO_NOT_TRACK", "1")
        environment.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        environment.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        environment.delenv("PREFECT_API_URL", raising=False)
        environment.delenv("PREFECT_API_AUTH_STRING", raising=False)
        from prefect import settings
        from prefect.testing.utilities import prefect_test_harness

        off = {
            settings.PREFECT_HOME: tmp_path_factory.getbasetemp() / "prefect",
            settings.PREFECT_API_URL: None,
            settings.PREFECT_API_AUTH_STRING: None,
            settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        }
        with settings.temporary_settings(off), prefect_test_harness(server_startup_timeout=120):
            yield
