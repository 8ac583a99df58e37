"""Evidence from an access log written line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.gates.canary import judge
from models.gates.canary_counts import ArmCounts, Edges, Skew
from models.gates.eprocess import Coins
from models.limits import Rollout
from tasks.home import Home
from tasks.release.evidence import Evidence, read_evidence
from tasks.release.router_lines import FIXED_US, latency_edges, opening_evidence
from tasks.release.routing import access_log

CANARY, CHAMPION = "canary_or_stable/churn:b/24202", "stable/churn:a/24201"
EDGES = Edges((1000.0, 5000.0), (0.5, 0.1))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "serving").mkdir()
    return Home(tmp_path)


def line(customer: str | None, *, cluster: str = CANARY, **more: Any) -> str:
    entry = {"rollout": "r1", "share": "0.05", "cluster": cluster, "code": 200, "attempts": 1, "ms": 3, "us": 900,
             "answered_by": "churn:b" if cluster == CANARY else "churn:a", "customer": customer}
    return json.dumps({**entry, **more}) + "\n"


def read(home: Home, *lines: str, shares: tuple[float, ...] = (0.05,), start: dict[str, Any] | None = None) -> Evidence:
    access_log(home).write_text("".join(lines))
    return read_again(home, shares=shares, start=start)


def read_again(home: Home, *, shares: tuple[float, ...] = (0.05,), start: dict[str, Any] | None = None) -> Evidence:
    return read_evidence(home, "r1", shares, canary_id="churn:b", edges=EDGES, limits=Rollout(), start=start)


def canary(evidence: Evidence) -> ArmCounts:
    assert evidence.fault is None
    return evidence.stages[-1].canary


def test_customers_and_requests_are_counted_by_the_arm_they_were_dealt_to(home: Home) -> None:
    stage = read(home, line("x"), line("x"), line("y"), line("z", cluster=CHAMPION)).stages[0]
    assert (stage.canary.customers, stage.canary.requests, stage.champion.customers) == (2, 3, 1)
    assert stage.canary.errors == stage.champion.errors == 0
    assert stage.first_seen == Coins(0.05, 2, 1)


@pytest.mark.parametrize("failure", [
    {"code": 503}, {"answered_by": "churn:a"}, {"attempts": 2}, {"answered_by": "churn:a", "attempts": 2},
    {"code": 0, "ms": 1500},
], ids=["5xx", "answered by the champion", "retried", "fallback after a try", "client gave up waiting"])
def test_what_the_arm_did_not_answer_at_the_first_try_is_its_error(home: Home, failure: dict[str, Any]) -> None:
    evidence = read(home, line("x", **failure), line("y"))
    counts = canary(evidence)
    assert (counts.failed, counts.errors, counts.customers) == (1, 1, 2)
    assert evidence.stages[0].failed == (Coins(0.05, canary=1),)


def test_a_retry_within_the_champion_is_the_champions_error(home: Home) -> None:
    assert read(home, line("x", cluster=CHAMPION, attempts=2)).stages[0].champion.failed == 1


def test_refusals_are_no_errors_but_counted(home: Home) -> None:
    evidence = read(home, *[line(f"c{code}", code=code) for code in (404, 422, 400, 405, 415)], line("x"))
    counts = canary(evidence)
    assert (counts.refused, counts.errors) == (5, 0)
    assert evidence.stages[0].refused == (Coins(0.05, canary=5),)


def test_an_answer_without_a_customer_that_is_neither_score_nor_error_is_counted_as_turned_away(home: Home) -> None:
    stage = read(home, line(None, code=401), line(None, code=503), line(None), line(None, code=0), line("x", code=404),
                 line(None, code=401, cluster=CHAMPION), line(None, code=401, attempts=0)).stages[0]
    assert (stage.canary.turned_away, stage.canary.errors, stage.canary.refused) == (1, 1, 1)
    assert (stage.champion.turned_away, stage.champion.requests) == (1, 1)


def test_what_the_router_itself_refused_belongs_to_no_arm(home: Home) -> None:
    counts = canary(read(home, line(None, code=413, attempts=0, answered_by=None)))
    assert (counts.requests, counts.customers, counts.errors) == (0, 0, 0)


def test_an_error_of_nobody_in_particular_counts_as_a_request_only(home: Home) -> None:
    counts = canary(read(home, line(None, code=503)))
    assert (counts.errors, counts.requests, counts.failed, counts.customers) == (1, 1, 0, 0)


def test_the_first_request_of_a_customer_is_the_one_that_is_slow_or_fast(home: Home) -> None:
    """A canary is slow above 1.2 times the edge."""
    stage = read(home, line("x", us=6001), line("x", us=1), line("y", us=6000), line("z", cluster=CHAMPION, us=5001),
                 line("v", cluster=CHAMPION, us=800)).stages[0]
    assert (stage.canary.timed, stage.canary.slow) == (2, (2, 1))
    assert (stage.champion.timed, stage.champion.slow) == (2, (1, 1))
    assert stage.slow == ((Coins(0.05, 2, 1),), (Coins(0.05, 1, 1),))
    assert stage.fast == ((Coins(0.05, 0, 1),), (Coins(0.05, 1, 1),))


@pytest.mark.parametrize("us", [None, "900", 0.9])
def test_a_first_request_without_microseconds_has_no_latency(home: Home, us: Any) -> None:
    assert canary(read(home, line("x", us=us), line("x", us=5))).timed == 0


def test_who_was_seen_before_is_another_coin_in_the_next_stage(home: Home) -> None:
    first = [line("was canary"), line("stays", cluster=CHAMPION), line("moves", cluster=CHAMPION)]
    second = [line(who, share="0.25", code=500, cluster=cluster) for who, cluster in (
        ("was canary", CANARY), ("stays", CHAMPION), ("moves", CANARY), ("new", CANARY), ("newer", CHAMPION))]
    stage = read(home, *first, *second, shares=(0.05, 0.25)).stages[1]
    assert (stage.canary.failed, stage.champion.failed) == (3, 2)  # shown; the bets take the coins
    assert set(stage.failed) == {Coins(0.25, 1, 1), Coins((0.25 - 0.05) / 0.95, 1, 1)}
    assert stage.first_seen == Coins(0.25, 1, 1)


def test_a_customer_counts_once_in_a_stage_and_again_in_the_next(home: Home) -> None:
    lines = [line("x", cluster=CHAMPION, code=500)] * 3
    evidence = read(home, *lines, *[one.replace("0.05", "0.25") for one in lines], shares=(0.05, 0.25))
    assert [stage.champion.failed for stage in evidence.stages] == [1, 1]


def test_what_the_canary_answered_is_kept_by_request_in_order(home: Home) -> None:
    evidence = read(home, line("x", request_id="1"), line("y", request_id="2", code=404),
                    line("z", request_id="3", answered_by="churn:a"), line("v", request_id="4", cluster=CHAMPION),
                    line("w", request_id="5", share="0.25"), shares=(0.05, 0.25))
    assert list(evidence.answered.items()) == [("1", "x"), ("5", "w")]
    assert evidence.first_of_stage == 1


def test_other_rollouts_and_requests_that_were_not_dealt_are_left_out(home: Home) -> None:
    counts = canary(read(home, line("x", rollout="r0"), line("y", rollout=None, share=None)))
    assert counts.requests == 0


def test_the_half_written_last_line_is_left_for_the_next_look(home: Home) -> None:
    assert canary(read(home, line("x"), line("y")[:40])).customers == 1


def test_a_log_with_too_many_broken_lines_is_no_evidence(home: Home) -> None:
    assert canary(read(home, *[line("x")] * 200, "{broken r1}\n")).requests == 200
    fault = read(home, *[line("x")] * 50, "\0\0\0\n").fault
    assert fault == "no evidence: 1 of 51 lines of the access log cannot be read (limit 1%)"


def test_a_missing_log_is_no_evidence(home: Home) -> None:
    fault = read_again(home).fault
    assert fault is not None
    assert "No such file" in fault
    assert opening_evidence(home) == {"log_byte": 0}


def test_reading_begins_where_the_rollout_began_and_at_zero_in_a_shorter_log(home: Home) -> None:
    first, second = line("x"), line("y")
    assert canary(read(home, first, second, start={"log_byte": len(first)})).customers == 1
    assert canary(read(home, first, second, start={"log_byte": 10_000})).customers == 2


def test_a_log_that_was_moved_aside_is_read_from_where_the_rollout_began(home: Home) -> None:
    log = access_log(home)
    log.with_name("access-20260101T000000Z-0.jsonl").write_text(line("long ago"))
    log.write_text(line("before"))
    start = opening_evidence(home)
    with log.open("a") as file:
        file.write(line("x"))
    log.rename(log.with_name("access-20261123T000000Z-0.jsonl"))
    log.write_text(line("y") + line("z"))
    assert canary(read_again(home, start=start)).customers == 3


def test_what_is_slow_is_fixed_at_the_opening_by_the_champions_customers_before(home: Home) -> None:
    lines = [line(f"c{at}", cluster=CHAMPION, rollout=None, us=1000 + at) for at in range(201)]
    canarys = [line(f"d{at}", us=1) for at in range(300)]
    again = [line("c0", cluster=CHAMPION, us=99_999)] * 50
    access_log(home).write_text("".join([*lines, *canarys, *again]))
    start = opening_evidence(home)
    assert start["slow_us"] == [1100, 1150, 1180, 1194]
    edges = latency_edges(start)
    assert edges.us == (1100, 1150, 1180, 1194, 8 * 1194, 64 * 1194)
    assert edges.slow_share == (*(pytest.approx(share) for share in (0.5, 0.25, 0.1, 0.03)), None, None)


def test_a_champion_that_became_slow_itself_hides_no_canary_that_is_much_slower(home: Home) -> None:
    access_log(home).write_text("".join(line(f"b{at}", cluster=CHAMPION, rollout=None, us=900 + at)
                                        for at in range(300)))
    start = opening_evidence(home)
    with access_log(home).open("a") as file:  # everybody waits longer than anybody did before
        file.write("".join(line(f"c{at}", cluster=CHAMPION, share="0.5", us=1500 + at)
                           + line(f"d{at}", share="0.5", us=300_000 + at)
                           for at in range(150)))
    edges, limits = latency_edges(start), Rollout()
    evidence = read_evidence(home, "r1", (0.5,), canary_id="churn:b", edges=edges, limits=limits, start=start)
    decision = judge(evidence.stages, limits, edges=edges, skew=Skew(), minutes_in_stage=1)
    assert decision.verdict == "roll back"
    assert "150 of 150 canary customers waited longer than" in decision.reason
    assert "0 of 150 champion customers" in decision.reason


def test_too_few_customers_before_give_fixed_edges(home: Home) -> None:
    access_log(home).write_text("".join(line(f"c{at}", cluster=CHAMPION) for at in range(199)))
    start = opening_evidence(home)
    assert "slow_us" not in start
    assert latency_edges(start) == Edges(FIXED_US, (None,) * len(FIXED_US))
