"""No domain name outside feature_repo/: a fork changes that folder, and nothing else knows a column."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from feature_repo.contract import CONTRACT

REPO = Path(__file__).parents[2]
EXEMPT_ROLES = ("entity_key", "row_key", "event_time", "arrival_time")
EXEMPT = {"event_timestamp", "created_timestamp"}
DOMAIN = {
    column.name for columns in (CONTRACT.snapshot, *(table.columns for table in CONTRACT.tables)) for column in columns
    if column.role not in EXEMPT_ROLES
} | {CONTRACT.label} | {
    category for column in CONTRACT.snapshot for category in column.categories
}
# Words that the code also uses in another sense (`re.search`, `dict.items`, the strategy `basic`, a cut plan).
OTHER_SENSE = {"plan", "eligible", "items", "basic", "search"}
FILES = sorted(path for room in ("flows", "tasks", "models") for path in (REPO / room).rglob("*.py"))


def names_in(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_no_string_or_attribute_is_a_feature_or_raw_column(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not names_in(tree) & (DOMAIN - EXEMPT - OTHER_SENSE)


def test_the_walk_would_notice_a_domain_name():
    assert names_in(ast.parse("row['amount'] + row.recency_days")) & DOMAIN == {"amount", "recency_days"}


def test_words_of_another_sense_never_index_a_frame():
    """`plan` may be a variable or an attribute of ours, never a subscript: that would be the column."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                assert node.slice.value not in OTHER_SENSE, f"{path}:{node.lineno}"
