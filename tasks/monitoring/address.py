"""The address of notifications. Knows what CHURN_NOTIFY may hold; imports no Prefect, so it can be checked first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.errors import ConfigError

FILE = "file://"


def check_address(address: str) -> None:
    """Raises ConfigError for what neither Apprise nor a file can be; shows the scheme only."""
    if not address.startswith(FILE):
        apprise_client(address)
    elif not address.startswith(f"{FILE}/") or not Path(address.removeprefix(FILE)).parent.is_dir():
        raise ConfigError("cannot use CHURN_NOTIFY: file:// wants a whole path in a folder that is there. Write it as "
                          "file:///folder/name, or leave it unset for no notifications")


def apprise_client(address: str) -> Any:
    """Apprise with this one address.

    Raises:
        ConfigError: Apprise knows no such address.
    """
    from apprise import Apprise

    client = Apprise()
    if not client.add(address):
        raise ConfigError(f"cannot use CHURN_NOTIFY={address.partition(':')[0][:20]}:...: no address Apprise knows. "
                          "Write it as Apprise has it (slack://..., mailto://...), or leave it unset")
    return client
