"""The concept-drift check on the rows of `lake/truth`, and its state: bet once, never from an empty start."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa

from models.charter import Charter, Problem, Value
from models.contract import Column, Contract
from models.decision import Decision
from models.errors import DataError, PlatformError, ReleaseError
from models.gates.concept import log_statistic
from models.gates.signals import Signal
from models.limits import Concept
from tasks.monitoring.concept import judge_cohorts, read_reference, watch_concept
from tasks.monitoring.concept_state import add_cohorts, read_stream
from tasks.state import open_state, record_decision
from tasks.tables import CONCEPT_COHORTS, CONCEPT_STREAMS

KEY = "account"
CHARTER = Charter(
    name="test", problem=Problem(horizon_days=28, label_delay_days=2),
    value=Value(customers=1000, monthly_churners=200, share_found=0.5, share_who_stay=0.5, worth_of_saved=10,
                contact_budget=40),
)
RELEASE = "churn:1"
MOMENT = pl.Datetime("us", "UTC")


def cut(month: int) -> datetime:
    return datetime(2025, month, 1, tzinfo=UTC)


def cohort(
    month: int, *, changed: bool = False, rows: int = 1500, release: str = RELEASE, labelled: bool = True,
    customers: Sequence[str] | None = None, contacted: float = 0.0, at: datetime | None = None,
) -> pl.DataFrame:
    """Customers of one cut in the columns of `lake/truth`: closed a month after their maturity, or not labelled."""
    random = np.random.default_rng(month)
    at = at or cut(month)
    probability = random.beta(1, 6, rows)
    true = 1 - probability if changed else probability
    left_out = random.random(rows) < contacted
    # What contacting does to those contacted must not count.
    label = np.where(left_out, 1.0, random.random(rows) < true).astype(float)
    known = pl.lit(labelled)
    frame = pl.DataFrame({
        KEY: list(customers) if customers is not None else [f"c{number:05}" for number in range(rows)],
        "event_timestamp": pl.Series([at] * rows, dtype=MOMENT), "release_id": [release] * rows,
        "model_version": ["1"] * rows, "probability": probability, "action": ["leave"] * rows, "why": ["budget"] * rows,
        "source": ["batch"] * rows, "label": label, "contacted": left_out, "holdout": [False] * rows,
        "weight": np.full(rows, rows / max((~left_out).sum(), 1)),
        "labelled_as_of": pl.Series([at + timedelta(days=30)] * rows, dtype=MOMENT),
    })
    return frame.with_columns(
        pl.when(known).then("label").alias("label"), pl.when(known).then("labelled_as_of").alias("labelled_as_of"),
        pl.when(known & ~pl.col("contacted")).then("weight").alias("weight"))


def quiet(*months: int) -> pl.DataFrame:
    return pl.concat([cohort(month) for month in months])


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    folder = tmp_path / "payload"
    folder.mkdir()
    contract = Contract(KEY, "left", (), (Column("visits", "float64", "numeric", "count", "visits"),), {})
    (folder / "contract.json").write_text(contract.to_json())
    (folder / "release.json").write_text(json.dumps({"test_brier": {"excess": 0.0, "error": 0.002, "brier": 0.105}}))
    return folder


@pytest.fixture
def engine(state_url: str):
    made = open_state(state_url)
    yield made
    made.dispose()


def look(
    rows: pl.DataFrame, engine: sa.Engine, payload: Path, as_of: datetime, *, release: str = RELEASE,
    charter: Charter = CHARTER,
) -> Signal:
    """At the rows of all cohorts; those of one cut are one."""
    cohorts = [(part["event_timestamp"][0], part) for part in rows.sort("event_timestamp", maintain_order=True)
               .partition_by("event_timestamp", maintain_order=True)]
    return judge_cohorts(lambda: iter(cohorts), KEY, engine, charter, release_id=release, payload=payload, as_of=as_of)


def test_nothing_mature_is_waited_for(engine, payload):
    signal = look(cohort(1, labelled=False), engine, payload, cut(1) + timedelta(days=29))
    assert (signal.name, signal.state) == ("concept", "waiting")
    assert "1 cohorts wait" in signal.reason
    assert look(quiet(1).clear(), engine, payload, cut(3)).state == "waiting"
    assert read_stream(engine, RELEASE) is None


def test_quiet_months_are_good_and_a_changed_month_is_bad_and_named(engine, payload):
    before = look(quiet(1, 2, 3, 4), engine, payload, datetime(2025, 4, 30, tzinfo=UTC))
    assert before.state == "good", before.reason
    assert before.evidence["changed_since"] is None
    assert before.evidence["cohorts"] == 3  # that of April is due on 1 May
    assert before.evidence["waiting_cohorts"] == 1
    rows = pl.concat([quiet(1, 2, 3, 4), cohort(5, changed=True)])
    after = look(rows, engine, payload, cut(7))
    assert after.state == "bad"
    assert after.evidence["changed_since"] == "2025-05-01"
    assert after.evidence["rows"] == 5 * 1500
    assert after.evidence["statistic_months"] > after.evidence["limit_months"] == 60
    assert "most likely since 2025-05-01" in after.reason
    # In rows: what a month brings, times the months.
    assert after.evidence["limit_rows"] == pytest.approx(60 * after.evidence["rows_a_month"], rel=0.01)


def test_the_same_cohort_is_never_bet_on_twice_and_the_same_as_of_says_the_same(engine, payload):
    rows = quiet(1, 2, 3)
    first = look(rows, engine, payload, cut(5))
    assert look(rows, engine, payload, cut(5)) == first
    stream = read_stream(engine, RELEASE)
    # The truth of what was bet on is turned round: no bet on it is laid again.
    turned = rows.with_columns(1 - pl.col("label"))
    look(turned, engine, payload, cut(6))
    assert read_stream(engine, RELEASE) == stream


def test_month_by_month_and_all_at_once_lay_the_same_bets(engine, payload, tmp_path):
    rows = quiet(1, 2, 3, 4, 5)
    for month in (1, 2, 3, 4, 5):
        look(rows, engine, payload, cut(month) + timedelta(days=30))
    other = open_state(f"sqlite:///{tmp_path}/other.db")
    look(rows, other, payload, cut(7))
    one, all_ = read_stream(engine, RELEASE), read_stream(other, RELEASE)
    assert one.bets == all_.bets
    assert len({found.as_of for found in one.cohorts}) == 5
    other.dispose()


def test_a_customer_counts_once_a_window_and_a_cohort_of_the_same_ones_is_passed_over(engine, payload):
    again = cohort(2, at=cut(1) + timedelta(days=10))
    half = [f"c{number:05}" for number in range(750)] + [f"n{number:05}" for number in range(750)]
    mixed = cohort(3, at=cut(1) + timedelta(days=20), customers=half)
    signal = look(pl.concat([quiet(1), again, mixed]), engine, payload, cut(6))
    assert signal.evidence["passed_over"] == 1
    assert [found.rows for found in read_stream(engine, RELEASE).cohorts] == [1500, 750]
    # A month of 28 days holds a window of 28: everybody counts again.
    look(pl.concat([quiet(1), again, mixed, cohort(4)]), engine, payload, cut(6))
    assert [found.rows for found in read_stream(engine, RELEASE).cohorts] == [1500, 750, 1500]


def test_the_window_goes_on_over_checks(engine, payload):
    """Who was bet on is known from the rows, also in another run."""
    first = quiet(1)
    look(first, engine, payload, cut(6))
    signal = look(pl.concat([first, cohort(2, at=cut(1) + timedelta(days=10))]), engine, payload, cut(6))
    assert (signal.evidence["cohorts"], signal.evidence["passed_over"]) == (1, 1)


@pytest.mark.parametrize("left", [0, 700, 1349])
def test_where_the_rows_of_a_bet_are_gone_nothing_is_bet_within_a_horizon_of_it(engine, payload, left):
    """Who was bet on cannot be told any more; the erasure of a few is no such loss."""
    look(quiet(1), engine, payload, cut(3))
    again = cohort(2, at=cut(1) + timedelta(days=10))
    rows = pl.concat([quiet(1).head(left), again])
    signal = look(rows, engine, payload, cut(3))
    assert signal.state == "broken"
    assert "of 1,500 rows of the cohort of 2025-01-01, which was bet on" in signal.reason
    assert "cohorts from 2025-01-29 on" in signal.reason
    assert len(read_stream(engine, RELEASE).cohorts) == 1
    after = look(pl.concat([rows, cohort(4)]), engine, payload, cut(6))  # a horizon later everybody is free
    assert (after.state, after.evidence["cohorts"], after.evidence["passed_over"]) == ("good", 2, 1)


def test_a_few_customers_who_were_erased_leave_a_cohort_whole(engine, payload):
    look(quiet(1), engine, payload, cut(3))
    again = cohort(2, at=cut(1) + timedelta(days=10))
    signal = look(pl.concat([quiet(1).head(1350), again.head(1350)]), engine, payload, cut(3))
    assert (signal.state, signal.evidence["passed_over"]) == ("good", 1)


def test_contacted_customers_count_nothing(engine, payload):
    rows = pl.concat([cohort(month, contacted=0.3) for month in (1, 2, 3, 4)])
    signal = look(rows, engine, payload, cut(6))
    assert signal.state == "good", signal.reason
    assert signal.evidence["rows"] == rows["weight"].is_not_null().sum() < 4 * 1500
    assert signal.evidence["largest_weight"] == pytest.approx(rows["weight"].max(), rel=0.05)


def test_a_new_champion_begins_anew_with_its_own_reference(engine, payload):
    rows = pl.concat([quiet(1, 2), cohort(3, changed=True), cohort(4, release="churn:2")])
    assert look(rows, engine, payload, cut(6)).state == "bad"
    (payload / "release.json").write_text(json.dumps({"test_brier": {"excess": 0.01, "error": 0.0, "brier": 0.2}}))
    fresh = look(rows, engine, payload, cut(6), release="churn:2")
    assert (fresh.state, fresh.evidence["cohorts"], fresh.evidence["reference_brier"]) == ("good", 1, 0.2)
    assert read_stream(engine, "churn:2").limit == pytest.approx(0.015)


def test_what_the_first_bets_were_against_holds_for_the_release(engine, payload):
    look(quiet(1), engine, payload, cut(3))
    lenient = CHARTER.model_copy(update={"concept": Concept(brier_tolerance=0.5)})
    look(quiet(1, 2), engine, payload, cut(5), charter=lenient)
    assert read_stream(engine, RELEASE).limit == pytest.approx(0.005)


def test_a_cohort_that_should_be_mature_and_is_not_closed_is_an_alarm(engine, payload):
    signal = look(pl.concat([quiet(1), cohort(2, labelled=False)]), engine, payload, cut(5))
    assert signal.state == "broken"
    assert "of 2025-02-01 0% have a label" in signal.reason
    other = look(cohort(1, labelled=False, release="churn:2"), engine, payload, cut(5), release="churn:2")
    assert (other.state, other.evidence["changed_since"]) == ("broken", None)
    # It is bet on once its labels have come.
    assert look(quiet(1, 2), engine, payload, cut(6)).evidence["cohorts"] == 2


@pytest.mark.parametrize("whose", ["contacted", "without a label"])
def test_a_closed_cohort_of_which_none_of_a_releases_few_customers_counts_is_passed_over(engine, payload, whose):
    """A canary that answered two customers at the cut of its predecessor was broken until the next cohort, a month."""
    rows = cohort(1, release="churn:0", contacted=0.1)
    few = pl.col(KEY).is_in(rows.filter(pl.col("contacted"))[KEY].to_list()[:2])
    rows = rows.with_columns(pl.when(few).then(pl.lit(RELEASE)).otherwise("release_id").alias("release_id"))
    if whose == "without a label":
        rows = rows.with_columns(pl.when(few).then(None).otherwise(name).alias(name) for name in (
            "label", "labelled_as_of"))
    first = look(rows, engine, payload, cut(1) + timedelta(days=31))
    assert (first.state, first.evidence["mature_cohorts"]) == ("waiting", 1)
    open_ = rows.with_columns(pl.lit(None, pl.Float64).alias("weight"))  # nobody's labels suffice yet
    assert look(open_, engine, payload, cut(1) + timedelta(days=31)).state == "broken"
    second = look(pl.concat([rows, cohort(2)]), engine, payload, cut(3) + timedelta(days=5))
    assert (second.state, second.evidence["passed_over"]) == ("good", 1)
    late = rows.with_columns(pl.col("labelled_as_of") + timedelta(days=60))  # closed later than the check of the past
    assert look(late, engine, payload, cut(1) + timedelta(days=31), release="churn:0").state == "broken"


def test_a_release_that_was_checked_and_has_no_truth_is_broken_once_its_labels_are_due(engine, payload):
    record_decision(engine, Decision("drift", "nothing", "still", {"rows": 1500}), as_of=cut(1), subject=RELEASE)
    none = quiet(1).clear()
    assert look(none, engine, payload, cut(1) + timedelta(days=29)).state == "waiting"
    signal = look(none, engine, payload, cut(3))
    assert signal.state == "broken"
    assert "customers were scored on 1 dates up to 2025-01-01 whose labels are due" in signal.reason
    assert look(none, engine, payload, cut(3), release="churn:2").state == "waiting"  # nobody was scored by it
    assert look(quiet(1), engine, payload, cut(3)).state == "good"
    record_decision(engine, Decision("drift", "nothing", "still", {"rows": 1500}), as_of=cut(2), subject=RELEASE)
    assert look(quiet(1), engine, payload, cut(6)).state == "broken"
    assert look(quiet(1, 3), engine, payload, cut(6)).state == "good"  # truth goes on after it


def test_a_check_of_the_past_knows_the_bets_of_then_and_lays_none(engine, payload):
    rows = pl.concat([quiet(1, 2), cohort(3, changed=True)])
    assert look(rows, engine, payload, cut(6)).state == "bad"
    before = look(rows, engine, payload, cut(4))
    assert before.state == "waiting"  # all bets were laid on 1 June
    assert len(read_stream(engine, RELEASE).cohorts) == 3


@pytest.mark.parametrize(("spoil", "said"), [
    ({"weight": 0.0}, "whose weight cannot be"), ({"weight": float("nan")}, "whose weight cannot be"),
    ({"probability": 1.2}, "whose probability cannot be"), ({"label": 0.5}, "whose label cannot be"),
    ({"contacted": True}, "whose contacted cannot be"),
])
def test_rows_that_contradict_themselves_are_refused(engine, payload, spoil, said):
    rows = quiet(1).with_columns(**{
        name: pl.when(pl.int_range(pl.len()) == 3).then(pl.lit(value)).otherwise(name)
        for name, value in spoil.items()})
    with pytest.raises(DataError, match=said):
        look(rows, engine, payload, cut(5))
    assert read_stream(engine, RELEASE) is None


def test_a_customer_twice_in_a_cohort_is_refused(engine, payload):
    with pytest.raises(DataError, match="a customer twice in a cohort"):
        look(pl.concat([quiet(1), quiet(1).head(1)]), engine, payload, cut(5))


@pytest.mark.parametrize("text", [None, "{}", "no json", '{"test_brier": {"excess": "x", "error": 0, "brier": 0}}',
                                  '{"test_brier": {"excess": NaN, "error": 0, "brier": 0}}'])
def test_a_release_without_a_reference_is_refused_when_a_label_is_mature(engine, payload, text):
    (payload / "release.json").unlink()
    if text is not None:
        (payload / "release.json").write_text(text)
    with pytest.raises(ReleaseError, match=r"cannot tell concept drift: test_brier of payload/release.json"):
        look(quiet(1), engine, payload, cut(5))
    assert read_stream(engine, RELEASE) is None


@pytest.mark.parametrize("spoil", [
    CONCEPT_COHORTS.update().where(CONCEPT_COHORTS.c.number == 1).values(log_e="[1"),
    CONCEPT_COHORTS.update().where(CONCEPT_COHORTS.c.number == 1).values(log_e="[0.1, 0.2]"),
    CONCEPT_COHORTS.update().where(CONCEPT_COHORTS.c.number == 1).values(log_e="[0,0,0,0,0,0,0]"),
    CONCEPT_COHORTS.update().where(CONCEPT_COHORTS.c.number == 1).values(months=-1),
    CONCEPT_COHORTS.update().where(CONCEPT_COHORTS.c.number == 1).values(cohort="2024-01-01T00:00:00+00:00"),
    CONCEPT_COHORTS.update().where(CONCEPT_COHORTS.c.number == 1).values(as_of="yesterday"),
    CONCEPT_COHORTS.delete().where(CONCEPT_COHORTS.c.number == 1),
    CONCEPT_COHORTS.delete().where(CONCEPT_COHORTS.c.number == 2),
    CONCEPT_COHORTS.delete(),
    CONCEPT_STREAMS.update().values(cohorts=2),
    CONCEPT_STREAMS.update().values(log_sums="[]"),
    CONCEPT_STREAMS.delete(),
    sa.text("DROP TABLE concept_cohorts"),
])
def test_a_state_that_contradicts_itself_is_an_alarm_and_never_an_empty_start(engine, payload, spoil):
    look(quiet(1, 2, 3), engine, payload, cut(5))
    with engine.begin() as connection:
        connection.execute(spoil)
    with pytest.raises(PlatformError, match="cannot go on watching churn:1 for concept drift"):
        look(quiet(1, 2, 3, 4), engine, payload, cut(6))


def test_one_cohort_is_held_at_a_time(engine, payload):
    """A year of a million customers does not fit; the rows of one cut do."""
    held: list[weakref.ref[pl.DataFrame]] = []

    def cohorts():
        for month in range(1, 9):
            assert sum(one() is not None for one in held) <= 1
            rows = cohort(month)
            held.append(weakref.ref(rows))
            yield cut(month), rows
            del rows

    signal = judge_cohorts(cohorts, KEY, engine, CHARTER, release_id=RELEASE, payload=payload, as_of=cut(12))
    assert (signal.state, signal.evidence["cohorts"]) == ("good", 8)


def test_a_row_of_another_cut_than_its_file_is_refused(engine, payload):
    with pytest.raises(DataError, match=r"lake/truth has rows of another cut in the file of 2025-01-01"):
        judge_cohorts(lambda: iter([(cut(1), quiet(1, 2))]), KEY, engine, CHARTER, release_id=RELEASE, payload=payload,
                      as_of=cut(5))


def test_of_two_checks_at_once_one_lays_the_bets(engine, payload):
    look(quiet(1), engine, payload, cut(3))
    before, rows = read_stream(engine, RELEASE), quiet(1, 2, 3)
    signals: list[Signal] = []
    threads = [threading.Thread(target=lambda: signals.append(look(rows, engine, payload, cut(6)))) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [signal.evidence["cohorts"] for signal in signals] == [3] * 4
    assert len({log_statistic(read_stream(engine, RELEASE).bets), *(
        signal.evidence["statistic_months"] for signal in signals)}) == 2
    # Whoever read before another wrote, writes nothing.
    late = read_stream(engine, RELEASE).cohorts[-1]
    assert not add_cohorts(engine, RELEASE, before, [late], limit=before.limit)
    assert not add_cohorts(engine, RELEASE, None, [late], limit=before.limit)
    assert len(read_stream(engine, RELEASE).cohorts) == 3


def test_whatever_fails_is_a_broken_signal_that_says_why(engine, tmp_path):
    from tasks.home import Home

    signal = watch_concept(Home(tmp_path), engine, CHARTER, release_id=RELEASE, payload=tmp_path / "gone",
                           as_of=cut(5))
    assert (signal.name, signal.state, signal.evidence["changed_since"]) == ("concept", "broken", None)
    assert "concept drift cannot be judged: " in signal.reason
    assert "\n" not in signal.reason


def test_the_reference_is_read_from_the_release(payload):
    assert read_reference(payload).brier == 0.105
