"""Evidence from an access log written line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.canary import ArmCounts
from tasks.evidence import Evidence, log_size, read_evidence
from tasks.home import Home
from tasks.routing import access_log

CANARY, CHAMPION = "canary_or_stable/churn:b/24202", "stable/churn:a/24201"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "serving").mkdir()
    return Home(tmp_path)


def line(customer: str | None, *, cluster: str = CANARY, **more: Any) -> str:
    entry = {"rollout": "r1", "share": "0.05", "cluster": cluster, "code": 200, "attempts": 1, "ms": 3,
             "answered_by": "churn:b" if cluster == CANARY else "churn:a", "customer": customer}
    return json.dumps({**entry, **more}) + "\n"


def read(home: Home, *lines: str, shares: tuple[float, ...] = (0.05,), from_byte: int = 0) -> Evidence:
    access_log(home).write_text("".join(lines))
    return read_evidence(home, "r1", shares, canary_id="churn:b", from_byte=from_byte)


def canary(evidence: Evidence) -> ArmCounts:
    assert evidence.fault is None
    return evidence.stages[-1].canary


def test_customers_and_requests_are_counted_by_the_arm_they_were_dealt_to(home: Home) -> None:
    stage = read(home, line("x"), line("x"), line("y"), line("z", cluster=CHAMPION)).stages[0]
    assert (stage.canary.customers, stage.canary.requests, stage.champion.customers) == (2, 3, 1)
    assert stage.canary.errors == stage.champion.errors == 0


@pytest.mark.parametrize("failure", [
    {"code": 503}, {"answered_by": "churn:a"}, {"attempts": 2}, {"answered_by": "churn:a", "attempts": 2},
    {"code": 0, "ms": 1500},
], ids=["5xx", "answered by the champion", "retried", "fallback after a try", "client gave up waiting"])
def test_what_the_arm_did_not_answer_at_the_first_try_is_its_error(home: Home, failure: dict[str, Any]) -> None:
    counts = canary(read(home, line("x", **failure), line("y")))
    assert (counts.failed, counts.first_failed, counts.errors, counts.customers) == (1, 1, 1, 2)


def test_a_retry_within_the_champion_is_the_champions_error(home: Home) -> None:
    assert read(home, line("x", cluster=CHAMPION, attempts=2)).stages[0].champion.failed == 1


def test_refusals_are_no_errors_but_counted(home: Home) -> None:
    counts = canary(read(home, line("x", code=404), line("y", code=422)))
    assert (counts.refused, counts.first_refused, counts.errors) == (2, 2, 0)


def test_what_the_router_itself_refused_belongs_to_no_arm(home: Home) -> None:
    assert canary(read(home, line(None, code=413, attempts=0, answered_by=None))) == ArmCounts()


def test_an_error_of_nobody_in_particular_counts_as_a_request_only(home: Home) -> None:
    counts = canary(read(home, line(None, code=503)))
    assert (counts.errors, counts.requests, counts.failed, counts.customers) == (1, 1, 0, 0)


def test_a_customer_who_failed_before_is_no_first_failure_of_a_later_stage(home: Home) -> None:
    evidence = read(home, line("x", code=500), line("x", code=500, share="0.25"), line("y", code=500, share="0.25"),
                    shares=(0.05, 0.25))
    assert [stage.canary.failed for stage in evidence.stages] == [1, 2]
    assert [stage.canary.first_failed for stage in evidence.stages] == [1, 1]


def test_other_rollouts_and_requests_that_were_not_dealt_are_left_out(home: Home) -> None:
    assert canary(read(home, line("x", rollout="r0"), line("y", rollout=None, share=None))) == ArmCounts()


def test_the_half_written_last_line_is_left_for_the_next_look(home: Home) -> None:
    assert canary(read(home, line("x"), line("y")[:40])).customers == 1


def test_a_log_with_too_many_broken_lines_is_no_evidence(home: Home) -> None:
    assert canary(read(home, *[line("x")] * 200, "{broken r1}\n")).requests == 200
    fault = read(home, *[line("x")] * 50, "\0\0\0\n").fault
    assert fault == "no evidence: 1 of 51 lines of the access log cannot be read (limit 1%)"


def test_a_missing_log_is_no_evidence(home: Home) -> None:
    fault = read_evidence(home, "r1", (0.05,), canary_id="churn:b").fault
    assert fault is not None
    assert "No such file" in fault
    assert log_size(home) == 0


def test_reading_begins_where_the_rollout_began_and_at_zero_after_a_rotation(home: Home) -> None:
    first, second = line("x"), line("y")
    assert canary(read(home, first, second, from_byte=len(first))).customers == 1
    assert canary(read(home, first, second, from_byte=10_000)).customers == 2
