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


def read_reference(payload: Path) -> pd.DataFrame:
    """The rows a release learnt from, a sample: features and `churn_probability`."""
    return pd.read_parquet(payload / "reference.parquet")
