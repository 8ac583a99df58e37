from __future__ import annotations

import polars as pl
import pytest

from feature_repo.contract import CONTRACT, RAW_TABLES
from models.errors import DataError
from tasks.data.sources import parse_text
from tasks.data.validate import find_faults, known_entities
from tests.bench import stage_validate
from tests.bench.world import World
from tests.tasks.conftest import CUSTOMER_COLUMNS, ORDER_COLUMNS, day

COLUMNS = {"orders": ORDER_COLUMNS, "customers": CUSTOMER_COLUMNS}
KNOWN = {"customers": pl.DataFrame({"customer_id": ["c1"], "signed_up_at": [day("2023-06-01")]})}


def faults(table: str, *lines: str, known: dict[str, pl.DataFrame] | None = None) -> list[tuple[int, str, str]]:
    rows = [dict(zip(COLUMNS[table], line.split(","), strict=True)) for line in lines]
    text = pl.DataFrame(rows).with_columns(_file=pl.lit("a.csv"), _line=pl.int_range(2, pl.len() + 2))
    typed, unparsed = parse_text(text, CONTRACT.table(table))
    found = find_faults(typed, unparsed, CONTRACT.table(table), RAW_TABLES[table], known=known or KNOWN)
    return sorted(found.rows())


@pytest.mark.parametrize(("line", "dimension", "reason"), [
    ("o2,c1,2024-01-11,1,-3,2024-01-11", "accuracy", "amount is not between 0 and 1,000,000"),
    ("o2,c1,2024-01-11,1,ten,2024-01-11", "accuracy", "amount is no decimal"),
    ("o2,,2024-01-11,1,10,2024-01-11", "completeness", "customer_id is missing"),
    ("o2,c1,2024-01-12,1,10,2024-01-11", "consistency", "ordered_at is later than arrived_at"),
    ("o2,nobody,2024-01-11,1,10,2024-01-11", "consistency", "customer_id is unknown to customers"),
    ("o2,c1,2023-05-31,1,10,2024-01-11", "consistency", "ordered_at is before customers.signed_up_at"),
])
def test_a_fault_of_an_order_names_its_dimension_and_its_reason(line, dimension, reason):
    assert faults("orders", "o1,c1,2024-01-10,1,10,2024-01-10", line) == [(1, dimension, reason)]


def test_a_customer_whose_row_holds_from_before_the_sign_up_fails_once_by_the_cross_column_rule():
    bad = "c1,2023-01-01,2023-06-01,1980,basic,search,2024-01-01"
    assert faults("customers", bad) == [(0, "consistency", "updated_at is before signed_up_at")]


def test_the_earliest_sign_up_that_was_ever_told_bounds_the_orders():
    rows = pl.LazyFrame({
        "customer_id": ["c1", "c1", None], "signed_up_at": [day("2023-06-01"), day("2023-01-01"), day("2020-01-01")],
    })
    known = {"customers": known_entities(CONTRACT, "customers", [rows])}
    assert faults("orders", "o1,c1,2023-03-01,1,10,2024-01-11", known=known) == []


def test_without_the_table_it_refers_to_an_order_is_judged_by_the_rest():
    assert faults("orders", "o1,nobody,2020-01-01,1,10,2024-01-11", known={"other": pl.DataFrame()}) == []


def test_a_column_of_another_type_refuses_the_table_and_blames_no_row():
    typed = pl.DataFrame({column.name: [None] for column in CONTRACT.table("orders").columns}).with_columns(
        _file=pl.lit("a.csv")
    )
    with pytest.raises(DataError, match=r"cannot accept orders: order_id fails dtype.*; mend the source"):
        find_faults(typed, pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String}), CONTRACT.table("orders"),
                    RAW_TABLES["orders"], known={})


def test_the_bench_of_this_stage_finds_the_same_bad_rows_as_its_hand_written_mask(tmp_path):
    world = World(200, tmp_path)  # 2,400 orders, every 200th spoiled
    state = stage_validate.prepare(world)
    found = stage_validate.ours(state)
    assert stage_validate.same(found, stage_validate.against(state))
    assert len(found) == 12
