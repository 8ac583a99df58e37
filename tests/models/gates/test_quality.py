from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from models.gates.quality import Measure, Score, Scorecard, count_scores, expected_rows, floor3, longest_gap

START = datetime(2024, 1, 1, tzinfo=UTC)


def nightly(*rows: int, hours: int = 24) -> list[tuple[datetime, int]]:
    return [(START + timedelta(hours=hours * night), count) for night, count in enumerate(rows)]


def at(days: float) -> datetime:
    return START + timedelta(days=days)


def test_overall_is_the_weakest_dimension_and_not_the_mean():
    scores = count_scores("orders", 100, {"accuracy": 50}, {"accuracy": [("amount is negative", 50)]}, [])
    card = Scorecard(START, scores)
    assert card.overall == 0.5  # the mean would be 0.875
    assert card.line == "0.500 overall: weakest accuracy of orders (amount is negative: 50 of 100 rows)"


def test_the_blame_counts_all_failing_rows_where_they_fail_for_more_than_one_reason():
    score = Score("orders", "accuracy", 100, 5, (("amount is negative", 3), ("items is 0", 2)))
    assert score.blame == "5 of 100 rows, most often: amount is negative"


def test_a_table_has_all_four_dimensions_with_or_without_faults():
    scores = count_scores("orders", 10, {}, {}, [])
    assert [score.dimension for score in scores] == ["accuracy", "completeness", "consistency", "timeliness"]
    assert Scorecard(START, scores).line == "1.000 overall: no row fails"


def test_a_load_that_brought_nothing_has_no_score_rather_than_a_perfect_one():
    card = Scorecard(START, count_scores("orders", 0, {}, {}, []))
    assert (card.overall, card.line) == (None, "no new rows to judge")


def test_one_bad_row_in_a_million_never_reads_as_perfect():
    card = Scorecard(START, count_scores("orders", 1_000_000, {"accuracy": 1}, {"accuracy": [("bad", 1)]}, []))
    assert card.line.startswith("0.999 overall: weakest accuracy of orders")
    assert [floor3(value) for value in (1.0, 0.9999, 0.29, 0.0)] == ["1.000", "0.999", "0.290", "0.000"]


@pytest.mark.parametrize(("value", "limit", "sense", "kept"), [
    (7.0, 7.0, "at most", 1.0), (14.0, 7.0, "at most", 0.5), (1.0, 0.0, "at most", 0.0), (0.0, 0.0, "at most", 1.0),
    (0.2, 0.2, "at least", 1.0), (0.1, 0.2, "at least", 0.5), (None, 7.0, "at most", 0.0), (None, None, "at most", 1.0),
])
def test_a_broken_limit_costs_its_share_and_a_number_that_cannot_be_told_costs_all(value, limit, sense, kept):
    assert Measure("timeliness", "age", value, "days", "age", limit, sense).kept == pytest.approx(kept)


def test_a_broken_limit_pulls_its_dimension_down_and_takes_the_blame():
    old = Measure("timeliness", "age", 28.0, "days", "its newest event is old", 7.0)
    score = Score("orders", "timeliness", 100, 2, (("late", 2),), (old,))
    assert (score.score, score.blame) == (0.25, "its newest event is old")
    assert Score("orders", "timeliness", 0, 0, (), (old,)).score == 0.25  # nothing arrived, and that is the fault


def test_a_limit_that_is_only_shown_neither_refuses_nor_costs():
    late = Measure("timeliness", "late rows", 0.5, "share", "half are late", 0.05, refuses=False)
    card = Scorecard(START, (Score("orders", "timeliness", 10, 5, (("late", 5),), (late,)),))
    assert late.broken
    assert card.broken == []
    assert card.overall == 0.5  # by its rows


def test_the_longest_gap_counts_the_days_between_two_events():
    days = [date(2024, 2, 1), date(2024, 2, 10), date(2024, 2, 3), date(2024, 2, 3)]
    assert longest_gap(days) == (6, date(2024, 2, 4), date(2024, 2, 9))
    assert longest_gap([date(2024, 2, 1), date(2024, 2, 2)]) == (0, None, None)
    assert longest_gap([]) == (0, None, None)


def test_a_tenth_of_the_usual_rows_is_seen_as_such():
    expected = expected_rows(nightly(9999, 100, 110, 90), at(4), 10)
    assert expected is not None
    assert (expected.rows, expected.arrived, expected.loads) == (100, 10, 3)


def test_the_first_load_is_history_and_sets_no_rate_nor_do_two_loads_after_it():
    assert expected_rows([], at(0), 10) is None
    assert expected_rows(nightly(9999, 100, 100), at(3), 10) is None


def test_a_load_without_new_rows_is_too_small_where_every_night_brought_some():
    expected = expected_rows(nightly(9999, 200, 200, 200), at(4), 0)
    assert expected is not None
    assert (expected.rows, expected.arrived, expected.days) == (200, 0, 1)
    assert expected_rows(nightly(9999, 200, 200), at(3), 0) is None
    assert expected_rows(nightly(9999, 9, 9, 9), at(4), 0) is None


def test_a_weekly_feed_may_bring_nothing_on_six_nights_and_not_on_the_seventh():
    week = [0, 0, 0, 0, 0, 0, 700]
    for nights in range(6):
        assert expected_rows(nightly(9999, *week, *week, *week, *[0] * nights), at(22 + nights), 0) is None
    expected = expected_rows(nightly(9999, *week, *week, *week, *[0] * 6), at(28), 0)
    assert expected is not None
    assert (expected.rows, expected.arrived, expected.days) == (700, 0, 7)


def test_a_daily_feed_may_rest_on_sundays_and_not_on_the_monday_too():
    week = [100, 100, 100, 100, 100, 100, 0]
    history = nightly(9999, *week, *week[:-1])
    assert expected_rows(history, at(14), 0) is None
    expected = expected_rows([*history, (at(14), 0)], at(15), 0)
    assert expected is not None
    assert (expected.rows, expected.arrived, expected.days) == (200, 0, 2)


def test_a_feed_asked_every_six_hours_may_rest_for_less_than_a_day_whatever_it_has_gathered():
    history = [*nightly(9999, *[25] * 12, hours=6), (at(3.25), 25)]
    assert expected_rows(history, at(4), 0) is None
    expected = expected_rows(history, at(4.25), 0)
    assert expected is not None
    assert (expected.rows, expected.arrived, expected.days) == (125, 25, 1.25)


def test_a_weekly_feed_that_is_asked_every_night_is_judged_by_the_week():
    week = [0, 0, 0, 0, 0, 0, 700]
    history = nightly(9999, *week, *week, *week, 0, 0, 0, 0, 0, 0)
    expected = expected_rows(history, at(28), 350)
    assert expected is not None
    assert (expected.rows, expected.arrived, expected.days) == (700, 350, 7)


def test_a_feed_that_is_asked_every_six_hours_is_judged_by_the_day():
    history = nightly(9999, *[25] * 12, hours=6)  # three days
    assert expected_rows(history, at(3.25), 1) is None
    expected = expected_rows([*history, *[(at(3 + n / 4), 10) for n in (1, 2, 3)]], at(4), 10)
    assert expected is not None
    assert (expected.rows, expected.arrived, expected.days) == (100, 40, 1)


def test_a_trickle_is_too_small_to_be_called_smaller():
    assert expected_rows(nightly(9999, 5, 6, 7), at(4), 1) is None


def test_one_great_delivery_does_not_make_the_next_nights_look_small():
    expected = expected_rows(nightly(9999, 100, 50_000, 100, 100), at(5), 100)
    assert expected is not None
    assert expected.rows == 100
