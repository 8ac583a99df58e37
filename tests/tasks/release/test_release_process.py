"""Golden rows on their way to a release."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from models.contract import Column, Contract
from models.serving.request_model import rows_adapter
from tasks.release.release_process import golden_rows, program_name

CONTRACT = Contract("id", "left", (), (
    Column("id", "string", "entity_key", "id", "who"),
    Column("visits", "int64", "numeric", "count", "a count"),
    Column("spend", "float64", "numeric", "currency", "a sum", nullable=True),
    Column("tier", "string", "categorical", "tier", "a word", nullable=True, categories=("gold",)),
), {})


def test_golden_rows_are_sent_as_the_api_takes_them_and_lose_no_digit(tmp_path: Path) -> None:
    pd.DataFrame({
        "visits": [2.0, 3.0, 4.0], "spend": [0.1 + 0.2, None, 5.0], "tier": ["gold", None, "gold"],
        "expected_probability": [0.1, 0.2, 0.3],
    }).to_parquet(tmp_path / "golden.parquet")
    rows, expected = golden_rows(tmp_path)
    taken = rows_adapter(CONTRACT).validate_json(json.dumps({"rows": rows}))["rows"]
    assert [row["spend"] for row in taken] == [0.1 + 0.2, None, 5.0]
    assert [row["visits"] for row in taken] == [2, 3, 4]
    assert [row["tier"] for row in taken] == ["gold", None, "gold"]
    assert expected == [0.1, 0.2, 0.3]


def test_a_program_is_named_so_that_supervisor_takes_it() -> None:
    assert program_name("churn:v3-0a1b2c3d") == "release-churn-v3-0a1b2c3d"
