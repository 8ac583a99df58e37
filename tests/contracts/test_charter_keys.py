"""No key of the charter is dead: each is read by a gate, a stage or a report."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pydantic import BaseModel

from models.charter import Charter

REPO = Path(__file__).parents[2]
CHARTER = (REPO / "models" / "charter.py", REPO / "models" / "limits.py")
FILES = [path for room in ("flows", "tasks", "models", "deploy") for path in (REPO / room).rglob("*.py")]


def keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += keys(inner, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def attributes(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def read_names() -> set[str]:
    """Attributes read outside the charter, and by those of its properties and methods that are called from there."""
    others = [path for path in FILES if path not in CHARTER]
    read = set().union(*(attributes(ast.parse(path.read_text(encoding="utf-8"))) for path in others))
    functions = {node.name: attributes(node) for path in CHARTER
                 for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}
    while True:
        more = set().union(*(functions[name] for name in functions if name in read)) - read
        if not more:
            return read
        read |= more


READ = read_names()


@pytest.mark.parametrize("key", keys(Charter))
def test_a_key_of_the_charter_is_read(key):
    assert key.rpartition(".")[2] in READ


def test_the_walk_would_notice_a_dead_key():
    """A validator reads its keys too, and is no reader: nothing calls it by name."""
    assert "_prices_agree" not in READ
    assert "colour_of_the_logo" not in READ
    assert "price_a_month" in READ  # by `at_stake`, which the model card shows
