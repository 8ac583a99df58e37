"""`python -m tasks.features.feature_docs`: write docs/features.md from the contract; `make docs`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from feature_repo.contract import CONTRACT
from models.contract import Column, Contract

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "features.md"
HEAD: Final = """\
# Features

Written by `make docs` from `feature_repo/contract.py`; a test compares. One row is one {key} at one cut, made of what
had happened before the cut and had arrived by then. Windows are half-open: [cut - n days, cut). *Ages*: grows with the
age of the data whatever customers do, so its drift is shown and is no reason to act. *Empty*: may be null, and when.

| feature | meaning | unit | type | allowed | empty | ages | owner |
|---|---|---|---|---|---|---|---|
"""


def render(contract: Contract) -> str:
    """The page: one line a feature, in the model's order."""
    return HEAD.format(key=contract.entity_key) + "".join(_row(column) for column in contract.features)


def _row(column: Column) -> str:
    allowed = ", ".join(column.categories)
    if not allowed and column.minimum is not None:
        allowed = f"from {column.minimum:g}"
    empty = f"without {column.table}" if column.table else "yes" if column.nullable else ""
    return (f"| `{column.name}` | {column.description} | {column.unit} | {column.dtype} | {allowed} | {empty} | "
            f"{'yes' if column.ages else ''} | {column.owner} |\n")


def main() -> None:
    PAGE.write_text(render(CONTRACT), encoding="utf-8")
    print(f"{len(CONTRACT.features)} features: {PAGE}")


if __name__ == "__main__":
    main()
