"""One broken delivery of the sample world."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from examples.shop.broken import write_broken


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    path = tmp_path / "2025-02.csv"
    pl.DataFrame({"order_id": [f"o{n}" for n in range(1000)], "amount": ["12.90"] * 1000, "items": ["1"] * 1000}
                 ).write_csv(path)
    return path


def test_a_share_of_the_amounts_is_spoiled_and_every_other_field_stays(orders: Path, tmp_path: Path):
    count = write_broken(orders, tmp_path / "landing" / "2025-02.csv", share=0.3)
    clean, broken = (pl.read_csv(path, infer_schema=False) for path in (orders, tmp_path / "landing" / "2025-02.csv"))
    assert broken.drop("amount").equals(clean.drop("amount"))
    assert (broken["amount"] == "12.90 EUR").sum() == count
    assert (broken["amount"] == "12.90").sum() == 1000 - count
    assert 250 < count < 350


def test_the_same_call_gives_the_same_bytes_and_may_write_in_place(orders: Path, tmp_path: Path):
    write_broken(orders, tmp_path / "other.csv")
    write_broken(orders, orders)
    assert orders.read_bytes() == (tmp_path / "other.csv").read_bytes()


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused_and_nothing_written(orders: Path, tmp_path: Path, share: float):
    with pytest.raises(ValueError, match="cannot break a delivery with share="):
        write_broken(orders, tmp_path / "other.csv", share=share)
    assert not (tmp_path / "other.csv").exists()


def test_a_file_without_amounts_is_one_line_and_exit_code_1(tmp_path: Path):
    (tmp_path / "customers.csv").write_text("customer_id\nc1\n")
    ran = subprocess.run([sys.executable, "-m", "examples.shop.broken", str(tmp_path / "customers.csv"),
                          str(tmp_path / "out.csv")], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "it has no column 'amount' (customer_id)" in ran.stderr
    assert not (tmp_path / "out.csv").exists()
