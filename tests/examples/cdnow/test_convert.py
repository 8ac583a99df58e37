from __future__ import annotations

import pytest

from examples.cdnow.convert import convert


def test_the_master_file_becomes_the_csv_the_example_reads(tmp_path):
    master = tmp_path / "CDNOW_master.txt"
    master.write_text(" 00001 19970101  1   11.77\n 00002 19970112  5   77.00\n")
    assert convert(master, tmp_path / "out").read_text().splitlines() == [
        "customer_id,date,number_of_cds,dollar_value", "00001,1997-01-01,1,11.77", "00002,1997-01-12,5,77.00"]


def test_a_line_of_another_form_is_named(tmp_path):
    master = tmp_path / "CDNOW_master.txt"
    master.write_text("00001 19970101 1\n")
    with pytest.raises(ValueError, match="line 1: 3 fields"):
        convert(master, tmp_path / "out")
