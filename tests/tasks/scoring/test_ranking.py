"""The order of the list."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from models.serving.scorer import WHYS
from tasks.home import Home
from tasks.scoring.chunks import SLIM
from tasks.scoring.ranking import write_ranked
from tests.release_payload import AS_OF, tiny_contract


def ranked(folder, rows: list[tuple[str, float, str, float]], budget: int = 2) -> list[str]:
    """The entities of rows (entity, probability, why, expected value), each in a chunk of its own."""
    chunks = [pa.RecordBatch.from_pylist([{"entity": entity, "churn_probability": probability, "why": WHYS.index(why),
                                           "expected_value": value}], schema=SLIM)
              for entity, probability, why, value in rows]
    write_ranked(chunks, folder / "ranked.parquet", contract=tiny_contract(), release_id="churn:v1", as_of=AS_OF,
                 contact_budget=budget, home=Home(folder), memory_limit="100MB")
    frame = pl.read_parquet(folder / "ranked.parquet")
    assert frame["why"].to_list() == [{row[0]: row[2] for row in rows}[name] for name in frame["member_id"]]
    return [*frame.filter("within_budget")["member_id"], "|", *frame.filter(~pl.col("within_budget"))["member_id"]]


def test_contacts_come_first_then_who_is_left_and_last_who_has_gone_already(tmp_path):
    rows = [("gone", 0.9, "not_eligible", 90.0), ("held", 0.8, "holdout", 80.0), ("late", 0.2, "budget", 20.0),
            ("first", 0.4, "value", 40.0), ("second", 0.3, "value", 30.0)]
    assert ranked(tmp_path, rows) == ["first", "second", "|", "held", "late", "gone"]


def test_who_is_worth_the_same_stands_by_name_wherever_they_stood_before(tmp_path):
    rows = [(name, 0.5, "value", 10.0) for name in ("c", "a", "d", "b")]
    assert ranked(tmp_path, rows) == ["a", "b", "|", "c", "d"]


def test_a_list_of_nobody_is_an_empty_file_of_the_same_columns(tmp_path):
    assert ranked(tmp_path, []) == ["|"]
    assert pl.read_parquet(tmp_path / "ranked.parquet").columns == [
        "rank", "member_id", "churn_probability", "decision", "why", "expected_value", "release_id", "as_of",
        "within_budget"]
