"""Taken ports, and platforms that cannot be used."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from deploy.local import release_by_hand
from deploy.local.ports import check_ports
from deploy.local.release_by_hand import check_values
from deploy.local.supported import this_platform, unsupported
from flows.settings import Settings
from models.errors import ConfigError, PlatformError

PORTS = {"api_port": 24060, "prefect_port": 24061, "mlflow_port": 24062, "release_port": 24070}


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield int(holder.getsockname()[1])


@pytest.mark.parametrize("field", sorted(PORTS))
def test_a_taken_port_names_who_has_it_and_which_variable_changes_it(taken: int, field: str) -> None:
    with pytest.raises(PlatformError, match=rf"port {taken}: .*process {os.getpid()} \(.*CHURN_{field.upper()}"):
        check_ports(Settings(**{**PORTS, field: taken}), ours=())


def test_a_port_held_by_our_own_process_is_fine(taken: int) -> None:
    check_ports(Settings(**{**PORTS, "api_port": taken}), ours={os.getpid()})


def test_free_ports_are_fine() -> None:
    check_ports(Settings(**PORTS), ours=())


def test_two_parts_on_one_port_are_refused() -> None:
    with pytest.raises(ConfigError, match="both CHURN_API_PORT and CHURN_RELEASE_PORT"):
        check_ports(Settings(**{**PORTS, "api_port": 24075}), ours=())


def test_an_address_this_machine_does_not_have_names_the_variable() -> None:
    with pytest.raises(ConfigError, match="CHURN_HOST"):
        check_ports(Settings(**PORTS, host="192.0.2.1"), ours=())


@pytest.mark.parametrize(("system", "machine", "host", "word"), [
    ("Darwin", "x86_64", "x86_64-apple-darwin22", "Intel"),
    ("Linux", "x86_64", "x86_64-pc-linux-musl", "musl"),
    ("Windows", "AMD64", "", "Windows"),
])
def test_platforms_without_a_router_are_refused_by_name(system: str, machine: str, host: str, word: str) -> None:
    assert word in unsupported(system, machine, host)


def test_this_platform_and_a_mac_with_apple_silicon_will_do() -> None:
    assert this_platform() == ""
    assert unsupported("Darwin", "arm64", "aarch64-apple-darwin23") == ""


def test_a_release_by_hand_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"WHO, WHY is missing.*make release VERSION=3 WHO=ada"):
        check_values("release", {"VERSION": "3", "WHO": " "})
    with pytest.raises(ConfigError, match="cannot release with STRATEGY='half': known are basic, shadow, canary"):
        check_values("release", {"VERSION": "3", "WHO": "ada", "WHY": "test", "STRATEGY": "half"})
    with pytest.raises(ConfigError, match="cannot release VERSION='new': not a number"):
        check_values("release", {"VERSION": "new", "WHO": "ada", "WHY": "test"})
    check_values("rollback", {"WHO": "ada", "WHY": "it's worse"})
    check_values("rollback", {"WHO": "ada", "WHY": "it's worse", "FURTHER": "1"})
    with pytest.raises(ConfigError, match="with FURTHER='yes': write FURTHER=1"):
        check_values("rollback", {"WHO": "ada", "WHY": "it's worse", "FURTHER": "yes"})


def test_only_a_rollback_that_says_so_goes_further(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(release_by_hand, "release_place", lambda: (None, None))
    monkeypatch.setattr(release_by_hand, "roll_back_now", lambda *_, further, **__: asked.append(further))
    for given in ({}, {"FURTHER": ""}, {"FURTHER": "1"}):
        release_by_hand.act("rollback", {"WHO": "ada", "WHY": "it's worse", **given})
    assert asked == [False, False, True]
