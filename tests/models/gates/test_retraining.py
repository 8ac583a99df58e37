"""The decision: every row of the table in docs/monitoring.md, and that nothing unknown passes for good news."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.decision import Decision
from models.gates.drift import ColumnDrift, DriftReport
from models.gates.retraining import NAMES, checks_apart, decide, drift_began
from models.gates.retraining_check import Past
from models.gates.signals import Signal
from models.limits import DriftPolicy

POLICY = DriftPolicy()
NOW = datetime(2025, 9, 1, tzinfo=UTC)
MOVED = DriftReport((ColumnDrift("n0", "KS", 0.0, 0.31, 0.0, 0.0, 0.24, flagged=True, matters=True),), 900, 900)
STILL = DriftReport((ColumnDrift("n0", "KS", 0.4, 0.001, 0.0, 0.0, 0.24),), 900, 900)
LIGHT = DriftReport((ColumnDrift("n0", "KS", 0.0, 0.31, 0.0, 0.0, 0.004, flagged=True),), 900, 900)
GROWS = DriftReport((ColumnDrift("n0", "KS", 0.0, 0.31, 0.0, 0.0, 0.9, flagged=True, ages=True),), 900, 900)
CRASHED = DriftReport((), 0, 0, "0 current rows, needs 200")
GOOD = {name: Signal(name, "good", f"{name} is fine") for name in NAMES}
SINCE = "2025-06-01"
NO_PAST = Past()


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def check(report: DriftReport = STILL, earlier: tuple[bool, ...] = (), *, retrained: float | None = None,
          retrainings: int = 0, past: Past = NO_PAST, policy: DriftPolicy = POLICY, **states: Any) -> Decision:
    """One decision; a part that is not named is good."""
    seen = dict(GOOD)
    for name, state in states.items():
        evidence = {"changed_since": SINCE} if name == "concept" else {}
        seen[name] = Signal(name, state, f"{name} is {state}, by numbers", evidence)  # type: ignore[arg-type]
    return decide(report, list(seen.values()), earlier, policy, last_retrain=None if retrained is None else
                  ago(retrained), retrainings=retrainings, now=NOW, past=past)


def test_where_nothing_moved_and_all_is_good_there_is_nothing_to_do() -> None:
    decision = check()
    assert decision.verdict == "nothing"
    assert "largest PSI 0.001 (limit 0.02), 900 rows against 900" in decision.reason
    assert {decision.evidence[name] for name in NAMES} == {"good"}


@pytest.mark.parametrize(("report", "why", "said"), [
    (LIGHT, "light", "harmless, below 2.0% of the importance: n0 (PSI 0.310"),
    (GROWS, "ages", "harmless, growing with the age of the data: n0 (PSI 0.310"),
])
def test_a_column_that_moved_and_does_not_matter_is_harmless_and_says_why(report: Any, why: str, said: str) -> None:
    decision = check(report, (True, True))
    assert (decision.verdict, decision.evidence["why"], decision.evidence["flagged"]) == ("harmless", why, 0)
    assert said in decision.reason


def test_light_columns_that_matter_together_are_said_to_do_so() -> None:
    light = tuple(ColumnDrift(f"n{place}", "KS", 0.0, 0.31, 0.0, 0.0, 0.015, flagged=True, matters=True)
                  for place in (1, 2))
    decision = check(replace(MOVED, columns=(*light, *MOVED.columns)), (True,))
    assert decision.verdict == "retrain"
    assert ("moved: n0 (PSI 0.310, 24.0% of the importance), 2 light columns with 3.0% of the importance together: n1 "
            "(PSI 0.310, 1.5% of the importance), n2") in decision.reason


@pytest.mark.parametrize(
    ("earlier", "retrained", "verdict", "said"),
    [
        ((), None, "harmless", "1 of the last 3 checks flagged, 2 needed; moved: n0 (PSI 0.310, 24.0% of the"),
        ((True,), None, "retrain", "2 of the last 3 checks flagged, 2 needed, never retrained; moved: n0"),
        ((False, True), None, "retrain", "2 of the last 3"),
        ((False, False, True), None, "harmless", "1 of the last 3"),
        ((True, True), 24, "harmless", "retrained 24 days ago, cool-down 25 days"),
        ((True, True), 25, "retrain", "retrained 25 days ago, cool-down 25 days"),
    ],
)
def test_drift_is_acted_on_when_k_of_the_last_n_checks_flagged_and_the_cooldown_is_over(
    earlier: tuple[bool, ...], retrained: int | None, verdict: str, said: str
) -> None:
    decision = check(MOVED, earlier, retrained=retrained, performance="waiting")
    assert (decision.verdict, decision.evidence["flagged"]) == (verdict, 1)
    assert said in decision.reason
    if verdict == "retrain":
        assert (decision.evidence["kind"], decision.evidence["window"]) == ("data", "combined")


def test_the_budget_of_a_month_stops_a_retraining_for_data_drift_and_says_so() -> None:
    decision = check(MOVED, (True,), retrained=26, retrainings=2)
    assert (decision.verdict, decision.evidence["why"], decision.evidence["budget_left"]) == ("harmless", "budget", 0)
    assert "2 retrainings were begun in the last month, at most 2 (retrainings_a_month)" in decision.reason
    assert check(MOVED, (True,), retrained=26, retrainings=1).verdict == "retrain"
    never = DriftPolicy(retrainings_a_month=0)
    assert check(MOVED, (True,), policy=never).verdict == "harmless"


def test_a_budget_that_failures_used_up_is_an_alarm_for_who_owns_the_retraining() -> None:
    decision = check(MOVED, (True,), retrainings=2, past=Past(failed=2))
    assert (decision.verdict, decision.evidence["owner"]) == ("alarm", "ML engineer")
    assert "2 of them failed" in decision.reason


@pytest.mark.parametrize(("until", "state", "verdict"), [
    (ago(31), "good", "harmless"), (ago(62), "good", "retrain"), (None, "good", "retrain"),
    (ago(31), "waiting", "retrain"),
], ids=["measured since it began", "measured before it began only", "nothing is mature", "too few labels"])
def test_drift_that_did_not_hurt_the_performance_of_a_cohort_since_it_began_is_harmless(until, state, verdict) -> None:
    past = Past(drift_since=ago(31), labelled_until=until)
    decision = check(MOVED, (True, False), past=past, performance=state)
    assert decision.verdict == verdict
    assert ("it did not hurt" in decision.reason) == (verdict == "harmless")


def test_the_cohort_that_performance_was_judged_by_is_the_one_its_signal_names() -> None:
    for cohort, verdict in (("2025-08-01", "harmless"), ("2025-07-01", "retrain")):
        told = {**GOOD, "performance": Signal("performance", "good", "fine", {"cohort": cohort})}
        past = Past(drift_since=ago(31), labelled_until=ago(0))  # a newer one has its first labels
        assert decide(MOVED, list(told.values()), (True,), POLICY, last_retrain=None, retrainings=0, now=NOW,
                      past=past).verdict == verdict


def test_the_cohort_of_the_check_at_which_the_drift_began_counts_whatever_the_hour_of_its_load() -> None:
    """A signal names its cohort by the date; a live source is loaded at three in the morning, not at midnight."""
    for hours, verdict in ((3, "harmless"), (27, "retrain")):  # that cohort's own check; the one of the day after
        told = {**GOOD, "performance": Signal("performance", "good", "fine", {"cohort": "2025-08-01"})}
        past = Past(drift_since=ago(31) + timedelta(hours=hours))
        assert decide(MOVED, list(told.values()), (True,), POLICY, last_retrain=None, retrainings=0,
                      now=NOW + timedelta(hours=3), past=past).verdict == verdict


@pytest.mark.parametrize(("states", "kind", "window"), [
    ({"performance": "bad"}, "performance", "combined"), ({"concept": "bad"}, "concept", "new"),
    ({"performance": "bad", "concept": "bad"}, "concept", "new"),
])
@pytest.mark.parametrize("report", [STILL, MOVED], ids=["inputs still", "inputs moved once"])
def test_bad_performance_or_concept_retrains_at_once_with_the_window_of_its_kind(report, states, kind, window) -> None:
    decision = check(report, **states)
    assert (decision.verdict, decision.evidence["kind"], decision.evidence["window"]) == ("retrain", kind, window)
    assert decision.evidence["changed_since"] == (SINCE if "concept" in states else None)
    for name in states:
        assert f"{name} is bad, by numbers" in decision.reason


@pytest.mark.parametrize("state", ["performance", "concept"])
@pytest.mark.parametrize(("given", "said"), [
    ({"retrained": 10, "past": Past(outcome="kept", in_vain=1)}, "retrained 10 days ago, cool-down 25 days"),
    ({"retrainings": 2}, "2 retrainings were begun in the last month"),
    ({"retrained": 40, "past": Past(outcome="champion", champion_judged=True)}, "and that after the retraining of"),
    ({"retrained": 40, "past": Past(outcome="kept", in_vain=2)}, "the last 2 retrainings gave no better model"),
    ({"retrained": 40, "past": Past(outcome="unfinished", in_vain=1)}, "has been under way for 40 days"),
], ids=["cool-down", "budget", "bad again", "in vain", "does not end"])
def test_where_a_retraining_cannot_be_or_did_not_help_a_person_is_called(state, given, said) -> None:
    decision = check(MOVED, (True, True), **given, **{state: "bad"})
    assert decision.verdict == "alarm"
    assert said in decision.reason
    assert f"For the {decision.evidence['owner']}: " in decision.reason
    assert decision.evidence["kind"] == state


@pytest.mark.parametrize("past", [
    Past(outcome="champion", champion_judged=True), Past(outcome="kept", in_vain=2),
], ids=["bad again", "in vain"])
@pytest.mark.parametrize(("days", "cooldown", "verdict"), [
    (74, 25, "alarm"), (75, 25, "retrain"), (400, 25, "retrain"), (29, 0, "alarm"), (30, 0, "retrain"),
])
def test_what_a_retraining_of_long_ago_gave_says_nothing_of_one_of_now(past, days, cooldown, verdict) -> None:
    policy = DriftPolicy(cooldown_days=cooldown)
    assert check(retrained=days, past=past, policy=policy, performance="bad").verdict == verdict


def test_a_version_that_waits_for_approval_calls_who_may_give_it() -> None:
    decision = check(retrained=3, past=Past(outcome="waits for a person"), concept="bad")
    assert (decision.verdict, decision.evidence["why"], decision.evidence["owner"]) == (
        "alarm", "approval", "ML engineer")


@pytest.mark.parametrize(("past", "verdict"), [
    (Past(outcome="replaced"), "harmless"), (Past(outcome="replaced", champion_judged=True), "retrain"),
    (Past(outcome="champion"), "harmless"), (Past(outcome="on trial", champion_judged=True), "harmless"),
    (Past(outcome="champion", champion_judged=True, recovered=frozenset({"performance"})), "retrain"),
    (Past(outcome="champion", champion_judged=True, recovered=frozenset({"concept"})), "alarm"),
    (Past(outcome="kept", in_vain=1), "retrain"), (Past(outcome="rolled back", in_vain=1), "retrain"),
], ids=["replaced, not judged yet", "replaced", "not judged yet", "on trial",
        "was good since", "another part was good since", "kept once", "rolled back once"])
def test_a_retraining_that_cannot_have_shown_yet_answers_and_one_that_wore_off_is_repeated(past, verdict) -> None:
    assert check(retrained=40, past=past, performance="bad").verdict == verdict


@pytest.mark.parametrize(("past", "state", "verdict"), [
    (Past(labelled_until=ago(31)), "performance", "harmless"),
    (Past(labelled_until=ago(31), failed=1), "performance", "harmless"),
    (Past(labelled_until=ago(31), champion_judged=True), "performance", "retrain"),
    (Past(), "performance", "retrain"),
    (Past(labelled_until=ago(31)), "concept", "retrain"),
], ids=["a champion's before it", "and a retraining failed", "its own", "nobody's", "concept"])
def test_a_champion_that_no_retraining_made_does_not_answer_for_the_labels_of_one_before_it(
    past, state, verdict
) -> None:
    decision = check(past=past, **{state: "bad"})
    assert decision.verdict == verdict
    if verdict == "harmless":
        assert (decision.evidence["why"], decision.evidence["kind"]) == ("answered", "performance")
        assert "by the labels of a champion before this one" in decision.reason


def test_a_new_champions_concept_is_found_bad_by_its_own_labels_only() -> None:
    """Its stream begins with it, so there is nothing to wait for."""
    assert check(retrained=40, past=Past(outcome="champion"), concept="bad").verdict == "alarm"
    good_once = Past(outcome="champion", recovered=frozenset({"concept"}))
    assert check(retrained=40, past=good_once, concept="bad").verdict == "retrain"


@pytest.mark.parametrize(("states", "owner", "said"), [
    ({"quality": "bad"}, "data engineer", "the data is bad, so what moved is no drift"),
    ({"labels": "bad"}, "data engineer", "labels are missing, so nothing is learnt"),
    ({"labels": "broken"}, "data engineer", "cannot judge labels"),
    ({"performance": "broken"}, "data scientist", "cannot judge performance"),
    ({"concept": "broken"}, "data scientist", "cannot judge concept"),
    ({"quality": "broken"}, "data engineer", "cannot judge quality"),
])
@pytest.mark.parametrize("report", [STILL, MOVED])
def test_bad_data_missing_labels_and_broken_parts_are_alarms_whatever_else_asks_to_retrain(
    report, states, owner, said
) -> None:
    for others in ({}, {"concept": "bad"}, {"performance": "bad"}):
        decision = check(report, (True, True), **{**others, **states})
        assert (decision.verdict, decision.evidence["owner"]) == ("alarm", owner)
        assert said in decision.reason
        for name in set(others) - set(states):
            assert f"besides, {name} is bad" in decision.reason


def test_what_moved_in_bad_data_is_no_flag_for_later_checks() -> None:
    assert check(MOVED, quality="bad").evidence["flagged"] == 0
    assert check(MOVED, quality="broken").evidence["flagged"] == 0
    assert check(MOVED, labels="bad").evidence["flagged"] == 1


def test_drift_that_cannot_be_judged_is_an_alarm() -> None:
    decision = check(CRASHED, (True, True))
    assert decision.verdict == "alarm"
    assert "cannot judge drift: 0 current rows, needs 200" in decision.reason


def test_a_memory_that_cannot_be_read_is_an_alarm_of_the_platform_and_comes_first() -> None:
    decision = check(MOVED, (True, True), past=Past(fault="PlatformError: no such table"), quality="bad")
    assert (decision.verdict, decision.evidence["owner"], decision.evidence["why"]) == (
        "alarm", "ML engineer", "memory")
    assert decision.reason.startswith("the memory cannot be read: PlatformError: no such table; the data is bad")
    assert not {"flags", "budget_left", "cooldown_left_days"} & set(decision.evidence)  # nobody knows them


@pytest.mark.parametrize("lost", NAMES)
def test_a_part_that_nobody_looked_at_or_that_spoke_twice_is_broken(lost: str) -> None:
    for signals in ([one for one in GOOD.values() if one.name != lost], [*GOOD.values(), GOOD[lost]]):  # type: ignore[index]
        decision = decide(STILL, signals, (), POLICY, last_retrain=None, retrainings=0, now=NOW)
        assert (decision.verdict, decision.evidence[lost]) == ("alarm", "broken")


def test_too_early_is_no_alarm() -> None:
    waiting = dict.fromkeys(NAMES, "waiting")
    assert check(STILL, **waiting).verdict == "nothing"
    assert check(MOVED, (True,), **waiting).verdict == "retrain"


def test_of_every_combination_none_retrains_on_what_is_broken_or_bad_data_and_harm_never_reads_as_nothing() -> None:
    states = ("good", "bad", "waiting", "broken")
    pasts = (Past(), Past(fault="locked"), Past(outcome="kept", in_vain=1), Past(outcome="champion"))
    seen = set()
    for parts in itertools.product(states, repeat=4):
        for report, past, last in itertools.product((STILL, MOVED, LIGHT, CRASHED), pasts, (None, 10, 40)):
            if (last is None) != (past.outcome is None):
                continue
            told = dict(zip(NAMES, parts, strict=True))
            decision = check(report, (True,), retrained=last, past=past, **told)
            seen.add(decision.verdict)
            unsound = ("broken" in parts or told["quality"] == "bad" or told["labels"] == "bad" or past.fault
                       or report.problem)
            if unsound:
                assert decision.verdict == "alarm", (told, report, past)
            if told["performance"] == "bad" or told["concept"] == "bad":
                assert decision.verdict != "nothing"
            if decision.verdict == "alarm":
                assert decision.evidence["owner"]
                assert decision.evidence["step"]
            if decision.verdict == "retrain":
                assert last != 10
                assert decision.evidence["kind"] in ("data", "concept", "performance")
    assert seen == {"nothing", "harmless", "retrain", "alarm"}


@pytest.mark.parametrize(("flags", "began"), [
    ([True, True, True], 2), ([True, False, True, False, False, True], 2), ([True], 0), ([True, False, False, True], 0),
    ([False, False, True], None),
])
def test_drift_began_at_the_first_flag_of_the_run_that_lasts(flags: list[bool], began: int | None) -> None:
    dated = [(ago(30 * number), flag) for number, flag in enumerate(flags)]
    assert drift_began(dated, POLICY) == (None if began is None else dated[began][0])


@pytest.mark.parametrize(("days", "counted"), [
    (7, [0, 7, 14]), (1, list(range(20))), (0, list(range(20))), (30, [0]),
], ids=["weekly", "daily", "each", "fewer than one apart"])
def test_checks_count_that_are_so_many_days_apart_the_newest_first(days: int, counted: list[int]) -> None:
    nightly = [(ago(number), number % 7 == 0) for number in range(20)]
    apart = checks_apart(nightly, DriftPolicy(days_between_flags=days))
    assert apart == [nightly[number] for number in counted]


def test_a_check_some_hours_early_on_its_day_counts_as_of_that_day() -> None:
    dated = [(NOW, True), (ago(7) + timedelta(hours=5), True)]
    assert checks_apart(dated, POLICY) == dated


def test_the_owner_is_the_charters() -> None:
    decision = decide(replace(STILL, problem="?"), list(GOOD.values()), (), POLICY, last_retrain=None, retrainings=0,
                      now=NOW, owner=lambda name: f"who owns {name}")
    assert decision.evidence["owner"] == "who owns drift"
