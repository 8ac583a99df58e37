"""Ports: is each of the settings' ports free, or ours? Reads the machine's sockets; writes nothing."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection

import psutil

from flows.settings import Settings
from models.errors import ConfigError, PlatformError

ON_LOOPBACK = ("CHURN_RELEASE_PORT", "CHURN_METRICS_PORT")
RELEASES = 10  # ports from CHURN_RELEASE_PORT on


def wanted_ports(settings: Settings) -> dict[int, str]:
    """Port -> the variable that sets it.

    Raises:
        ConfigError: two parts would share a port.
    """
    wanted = [(settings.api_port, "CHURN_API_PORT"), (settings.prefect_port, "CHURN_PREFECT_PORT"),
              (settings.mlflow_port, "CHURN_MLFLOW_PORT"), (settings.exporter_port, "CHURN_METRICS_PORT")]
    wanted += [(settings.release_port + index, "CHURN_RELEASE_PORT") for index in range(RELEASES)]
    ports: dict[int, str] = {}
    for port, variable in wanted:
        if port in ports:
            raise ConfigError(f"cannot use port {port} for both {ports[port]} and {variable}"
                              f"{f' (which takes {RELEASES} ports)' if variable == 'CHURN_RELEASE_PORT' else ''}. "
                              f"Set {variable} to another port")
        ports[port] = variable
    return ports


def check_ports(settings: Settings, *, ours: Collection[int]) -> None:
    """Every port must be free, or held by one of our own processes.

    Args:
        settings: host and ports.
        ours: process ids that may hold them.

    Raises:
        PlatformError: a port is taken; says by whom and which variable changes it.
        ConfigError: two parts would share a port, or the address cannot be used.
    """
    for port, variable in wanted_ports(settings).items():
        check_port("127.0.0.1" if variable in ON_LOOPBACK else settings.host, port, variable, ours=ours)


def check_port(host: str, port: int, variable: str, *, ours: Collection[int] = ()) -> None:
    """One port; see `check_ports`."""
    try:
        free = _is_free(host, port)
    except OSError as error:
        name = variable if error.errno == errno.EACCES else "CHURN_HOST"
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}. Set {name}") from None
    if free:
        return
    holders = _listeners(port)
    if not holders or not set(holders) <= set(ours):
        who = ", ".join(_name(pid) for pid in holders if pid not in ours)
        raise PlatformError(f"cannot use port {port}: it is taken by {who or 'a process hidden from this user'}. "
                            f"Stop that, or set {variable} to a free port")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def _listeners(port: int) -> list[int]:
    """Process ids that listen on a port, as far as this user may see them."""
    found: set[int] = set()
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:  # macOS shows other users' sockets to root only
        connections = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(_listens(each, port) for each in process.net_connections(kind="tcp")):
                    found.add(process.pid)
    return sorted(found | {each.pid for each in connections if each.pid and _listens(each, port)})


def _listens(connection: object, port: int) -> bool:
    address = getattr(connection, "laddr", None)
    return getattr(address, "port", None) == port and getattr(connection, "status", "") == psutil.CONN_LISTEN


def _name(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return f"process {pid} ({psutil.Process(pid).name()})"
    return f"process {pid}"
