"""Every command of the README was run by the stories before this file; what was not, fails here."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.loop.conftest import RAN, REPO

pytestmark = pytest.mark.service

# `make test` is what runs this, and its first half is `make check`.
ITSELF = {"make test", "make check"}


def commands() -> list[str]:
    """The lines of the README's shell blocks, without comments and variables set in front of them."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    words = [[word for number, word in enumerate(line) if "=" not in word or number > line.index("make")]
             for line in lines if line]
    return [" ".join(line) for line in words]


def test_the_readme_shows_commands():
    assert {"make run", "make status", "make down"} <= set(commands())


@pytest.mark.parametrize("command", [command for command in commands() if command not in ITSELF])
def test_a_command_of_the_readme_was_run(command, request):
    if "tests/loop/test_shop_loop.py" not in {item.location[0] for item in request.session.items}:
        pytest.skip("the stories that run the README's commands were not selected")
    assert command in RAN.read_text(encoding="utf-8").splitlines()


def test_make_test_begins_with_make_check():
    assert re.search(r"^test: check\b", (REPO / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
