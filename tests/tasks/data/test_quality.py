from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from models.errors import DataError
from models.gates.quality import Measure, Scorecard
from tasks.data.ingest import committed_loads
from tasks.data.quality import Arrived, BatchRefused, judge_batch, read_scorecards
from tasks.data.quality_plot import draw_quality
from tests.tasks.conftest import Shop, day

FIRST = "2024-02-01"


def require(shop: Shop, **limits: float | None) -> None:
    changed = shop.charter.requirements.model_copy(update=limits)
    shop.charter = shop.charter.model_copy(update={"requirements": changed})


def orders_of(shop: Shop, date: str, count: int, *, amount: str = "10", arrived: str = "") -> None:
    shop.write("orders", *[f"o{date}-{n},c1,{date},1,{amount},{arrived or date}" for n in range(count)],
               file=f"{date}.csv")


def score(card: Scorecard, table: str, dimension: str) -> tuple[int, int]:
    return next((one.rows, one.failing) for one in card.scores if (one.table, one.dimension) == (table, dimension))


def refusal(shop: Shop, as_of: str) -> BatchRefused:
    before = [load.as_of for load in committed_loads(shop.engine)]
    files = {path: path.read_bytes() for path in shop.home.lake.rglob("*.parquet")}
    with pytest.raises(BatchRefused) as caught:
        shop.ingest(as_of)
    assert [load.as_of for load in committed_loads(shop.engine)] == before
    assert {path: path.read_bytes() for path in shop.home.lake.rglob("*.parquet")} == files
    return caught.value


def test_a_load_leaves_its_scorecard_by_table_and_dimension(shop):
    shop.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-01-11,0,-3,2024-01-11",
               "o3,,2024-01-11,1,3,2024-01-11", "o4,nobody,2024-01-11,1,-1,2024-01-11",
               "o5,c1,2024-01-11,1,5,2024-01-30")  # learnt of after 19 days, more than the label delay of 5
    shop.ingest(FIRST)
    (card,) = read_scorecards(shop.engine)
    assert card.as_of == day(FIRST)
    assert score(card, "orders", "accuracy") == (5, 2)  # two faults of one row count once
    assert score(card, "orders", "completeness") == (5, 1)
    assert score(card, "orders", "consistency") == (5, 1)
    assert score(card, "orders", "timeliness") == (5, 1)
    assert score(card, "customers", "accuracy") == (1, 0)
    assert card.line.startswith("0.600 overall: weakest accuracy of orders (amount is not between 0 and 1,000,000: 2 ")


def test_a_late_share_over_its_limit_is_shown_and_refuses_nothing(shop):
    require(shop, max_late_share=0.1)
    orders_of(shop, "2024-01-10", 2, arrived="2024-01-30")
    shop.ingest(FIRST)
    (late,) = [measure for one in read_scorecards(shop.engine)[0].scores if one.table == "orders"
               for measure in one.measures if measure.name == "late rows"]
    assert (late.broken, late.refuses) == (True, False)
    assert late.text.startswith("2 of 3 rows learnt of over 5 days after their event (66.7%), at most 10.0%")


def test_the_same_load_again_keeps_its_one_scorecard(shop):
    shop.ingest(FIRST)
    shop.ingest(FIRST)
    assert len(read_scorecards(shop.engine)) == 1


def test_a_refused_batch_says_the_share_the_limit_and_the_next_step_and_leaves_no_scorecard(shop):
    require(shop, max_bad_share=0.05)
    orders_of(shop, "2024-01-11", 1, amount="-3")
    said = refusal(shop, FIRST)
    assert str(said) == (
        "cannot accept orders as of 2024-02-01: 1 of 2 new rows are bad (50.0%), at most 5.0% (max_bad_share); most "
        "often: amount is not between 0 and 1,000,000 (1). Mend the source, or the rule in the contract; nothing was "
        "written"
    )
    assert said.card.evidence["orders accuracy"] == pytest.approx(0.1)  # a tenth of what the limit allows
    assert said.card.overall == pytest.approx(0.1)
    assert read_scorecards(shop.engine) == []


def test_too_few_rows_refuse_the_batch_and_the_completed_one_is_accepted(shop):
    for nth in range(5):
        orders_of(shop, f"2024-02-{10 + nth}", 40)
        shop.ingest(f"2024-02-{11 + nth}")
    orders_of(shop, "2024-02-15", 4)
    assert str(refusal(shop, "2024-02-16")) == (
        "cannot accept orders as of 2024-02-16: 4 new rows in 1 day, where 40 were to be expected by the 4 loads "
        "before (10.0%), at least 20.0% (least_row_share). Complete the batch, or lower the limit if this is right; "
        "nothing was written"
    )
    orders_of(shop, "2024-02-15", 20)
    assert shop.ingest("2024-02-16").counts["orders"].kept == 20


def test_a_limit_of_zero_switches_the_refusal_of_small_batches_off(shop):
    require(shop, least_row_share=0)
    for nth, count in enumerate([40, 40, 40, 40, 40, 1]):
        orders_of(shop, f"2024-02-{10 + nth}", count)
        load = shop.ingest(f"2024-02-{11 + nth}")
    assert load.counts["orders"].kept == 1


def test_missing_days_refuse_the_batch_and_name_the_first_and_the_last_one(shop):
    require(shop, max_missing_days=3)
    orders_of(shop, "2024-01-15", 1)  # after o1 of the 10th
    assert str(refusal(shop, FIRST)) == (
        "cannot accept orders as of 2024-02-01: no event on 4 days in a row, 2024-01-11 to 2024-01-14, at most 3 "
        "(max_missing_days). Mend the feed, or raise max_missing_days if nothing happened then; nothing was written"
    )


def test_a_gap_between_two_loads_counts_and_one_that_was_accepted_does_not_come_back(shop):
    orders_of(shop, "2024-01-15", 1)
    shop.ingest(FIRST)  # four days were missing, and allowed
    require(shop, max_missing_days=3)
    orders_of(shop, "2024-01-17", 1)
    shop.ingest("2024-02-02")
    orders_of(shop, "2024-01-30", 1)
    assert "no event on 12 days in a row, 2024-01-18 to 2024-01-29" in str(refusal(shop, "2024-02-03"))


def test_a_customer_list_may_rest_where_orders_may_not(shop):
    require(shop, max_data_age_days=7)
    orders_of(shop, "2024-01-14", 1)
    shop.ingest("2024-01-15")  # the customers' newest row is of the 1st
    assert "its newest event is of 2024-01-14, at most 7 days old" in str(refusal(shop, "2024-01-22"))


def test_a_total_of_the_source_that_disagrees_refuses_the_batch(shop):
    kept = pl.DataFrame({"ordered_at": [day("2024-01-31")], "created_timestamp": [day("2024-01-31")]})
    total = Measure("accuracy", "rows of the source", 1, "rows", "1 row was read, where the source counts 2", 0)
    faults = pl.DataFrame(schema={"row": pl.Int64, "dimension": pl.String, "reason": pl.String})
    contract = shop.contract.effective(["orders"])
    with pytest.raises(BatchRefused, match=r"cannot accept orders .*: 1 row was read, where the source counts 2; noth"):
        judge_batch({"orders": Arrived(kept, faults, (total,))}, contract, charter=shop.charter, home=shop.home,
                    engine=shop.engine, as_of=day(FIRST))


def test_a_table_that_nobody_judged_is_no_pass(shop):
    with pytest.raises(DataError, match="nothing is known of orders, customers"):
        judge_batch({}, shop.contract, charter=shop.charter, home=shop.home, engine=shop.engine, as_of=day(FIRST))


@pytest.mark.parametrize("loads", [1, 14])
def test_the_picture_over_time_is_drawn_from_the_first_load_on(shop, loads):
    for nth in range(loads):
        when = day(FIRST) + timedelta(days=nth)
        orders_of(shop, f"{when:%Y-%m-%d}", 2)
        shop.ingest(f"{when:%Y-%m-%d}")
    path = draw_quality(shop.home, read_scorecards(shop.engine))
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_mode & 0o077 == 0


def test_without_a_load_there_is_no_picture(shop):
    assert draw_quality(shop.home, []) is None
