"""No feature and no past training set sees the future: whatever is delivered later, the bytes stay.

Through the real ingest (CSV files) and the real DuckDB; every example has a home of its own.
"""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.contract import Snapshot
from tasks.features.snapshots import build_snapshot, build_snapshots, read_labels
from tests.tasks.conftest import Shop, day, make_shop

pytestmark = pytest.mark.service  # thirty homes take some seconds

CUT = day("2024-05-01")  # what may not change
NEXT = day("2024-06-01")
AS_OF = day("2024-06-10")  # of the earlier training set: labels of the cut are mature
LATER = "2024-09-01"  # when everything has been delivered
PAST = (
    "o1,c1,2024-01-10,1,10.00,2024-01-10", "o2,c1,2024-02-20,2,20.00,2024-02-21", "o3,c1,2024-04-30,1,30.00,2024-04-30",
    "o4,c2,2024-03-05,1,40.00,2024-03-05", "o5,c2,2024-05-10,3,50.00,2024-05-11",
)
CUSTOMERS = (
    "c1,2024-01-01,2023-06-01,1980,basic,search,2024-01-01", "c2,2024-01-01,2023-06-01,1990,premium,social,2024-01-01",
)
minutes = st.integers(0, 60 * 24 * 90)
SLOW = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@st.composite
def future_orders(draw: st.DrawFn) -> list[tuple[datetime, datetime]]:
    """Pairs of event and arrival, of which one or both lie in the future of the cut (an event at it does)."""
    pairs = []
    for late, after in draw(st.lists(st.tuples(minutes, minutes), min_size=1, max_size=6)):
        if draw(st.booleans()):  # happened at the cut or later
            event = CUT + timedelta(minutes=late)
            pairs.append((event, event + timedelta(minutes=after)))
        else:  # had happened, arrived after the cut
            pairs.append((CUT - timedelta(minutes=1 + late), CUT + timedelta(minutes=1 + after)))
    return pairs


def filled(root: str) -> Shop:
    shop = make_shop(Path(root))
    shop.write("customers", *CUSTOMERS)
    shop.write("orders", *PAST)
    return shop


def snapshot_bytes(shop: Shop, cut: datetime = CUT) -> bytes:
    return build_snapshot(shop.contract, Snapshot, home=shop.home, engine=shop.engine, cut=cut).read_bytes()


@SLOW
@given(future=future_orders(), plan=st.sampled_from(["basic", "standard"]), together=st.booleans())
def test_rows_that_happen_or_arrive_after_the_cut_leave_its_snapshot_as_it_is(future, plan, together):
    with tempfile.TemporaryDirectory() as quiet, tempfile.TemporaryDirectory() as busy:
        without, added = filled(quiet), filled(busy)
        without.ingest(LATER)
        if not together:  # in a later delivery
            added.ingest("2024-05-15")
        added.write("orders", *(
            f"n{number},c{number % 2 + 1},{text(event)},2,77.00,{text(arrival)}"
            for number, (event, arrival) in enumerate(future)
        ), file="b.csv")
        added.write("customers", f"c1,{text(CUT)},2023-06-01,1980,{plan},direct,{text(CUT)}", file="b.csv")
        added.ingest(LATER)
        assert snapshot_bytes(without) == snapshot_bytes(added)


def training_set(shop: Shop) -> tuple[bytes, str]:
    """What a training as of `AS_OF` reads: the snapshot of its cut and the labels known then."""
    labels = read_labels(shop.contract, problem=shop.charter.problem, home=shop.home, engine=shop.engine, cuts=[CUT],
                         as_of=AS_OF)
    return snapshot_bytes(shop), labels.write_csv()


@SLOW
@given(order=st.integers(1, 3), amount=st.integers(100, 900), known=st.integers(1, 60 * 24 * 60),
       times=st.integers(1, 3))
def test_correcting_a_past_row_leaves_the_past_training_set_and_changes_the_later_one(order, amount, known, times):
    with tempfile.TemporaryDirectory() as quiet, tempfile.TemporaryDirectory() as busy:
        without, corrected = filled(quiet), filled(busy)
        for shop in (without, corrected):
            shop.ingest("2024-06-15")
        arrival = day("2024-06-16") + timedelta(minutes=known)
        for number in range(times):  # a correction may be corrected
            corrected.write("orders", PAST[order - 1].rsplit(",", 2)[0]
                            + f",{amount + number}.00,{text(arrival + timedelta(hours=number))}", file=f"b{number}.csv")
        without.ingest(LATER)
        corrected.ingest(LATER)
        assert training_set(without) == training_set(corrected)
        assert snapshot_bytes(without, day(LATER)) != snapshot_bytes(corrected, day(LATER))


@SLOW
@given(event=minutes)
def test_an_order_that_is_moved_into_the_label_window_later_changes_later_labels_alone(event):
    moved = CUT + timedelta(minutes=event % (60 * 24 * 30))
    with tempfile.TemporaryDirectory() as root:
        shop = filled(root)
        shop.ingest("2024-06-15")
        before = training_set(shop)
        shop.write("orders", f"o3,c1,{text(moved)},1,30.00,2024-07-01", file="b.csv")
        shop.ingest(LATER)
        (shop.home.lake / "snapshots").rename(shop.home.lake / "published")  # computed anew, not read again
        assert training_set(shop) == before
        later = read_labels(shop.contract, problem=shop.charter.problem, home=shop.home, engine=shop.engine,
                            cuts=[CUT], as_of=day(LATER))
        assert dict(later.select("customer_id", "churned").iter_rows()) == {"c1": False, "c2": False}
        assert before[1].count("true") == 1  # by what was known then c1 had left


def test_several_cuts_at_once_give_the_bytes_of_each_by_itself(tmp_path):
    one, all_at_once = filled(str(tmp_path / "one")), filled(str(tmp_path / "all"))
    for shop in (one, all_at_once):
        shop.ingest("2024-05-15")
        shop.write("orders", "o3,c1,2024-04-30,1,99.00,2024-05-20", file="b.csv")
        shop.ingest(LATER)
    cuts = [CUT, NEXT, day(LATER)]
    paths = build_snapshots(all_at_once.contract, Snapshot, home=all_at_once.home, engine=all_at_once.engine, cuts=cuts)
    assert [path.read_bytes() for path in paths] == [snapshot_bytes(one, cut) for cut in cuts]
