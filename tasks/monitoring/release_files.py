"""What monitoring reads of a release: its contract, what it leans on, its reference."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from models.contract import Contract


def read_release(payload: Path) -> tuple[Contract, dict[str, float]]:
    """The contract a release was built for, and each feature's share of its importance."""
    contract = Contract.from_json((payload / "contract.json").read_text(encoding="utf-8"))
    return contract, json.loads((payload / "release.json").read_text(encoding="utf-8"))["importance"]


def reference_worth(payload: Path) -> float | None:
    """How many rows the reference is worth, where some stand in it for others; None: all it has."""
    worth = json.loads((payload / "release.json").read_text(encoding="utf-8")).get("reference_worth")
    return None if worth is None else float(worth)


def read_reference(payload: Path) -> pd.DataFrame:
    """The rows a release was judged on, a sample: features and `churn_probability`."""
    return pd.read_parquet(payload / "reference.parquet")
