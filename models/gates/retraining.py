"""Nothing, harmless, retrain, or a person: one check weighed with what is remembered of the ones before it.

Order of the questions, the first that applies answers: can all of it be judged; is the data sound; are the labels
there; does the model do badly or do customers behave otherwise; has what it sees moved, for long, where it matters, and
did that hurt. What cannot be judged is an alarm, never an "all is well". docs/monitoring.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from models.decision import Decision
from models.gates.drift import DriftReport
from models.gates.retraining_check import Check, Evidence, Kind, Past
from models.gates.signals import Name, Signal
from models.limits import DriftPolicy
from models.team import DEFAULT_OWNERS

MOST_IN_VAIN: Final = 2  # retrainings in a row that gave no better model: then more of the same is no answer
COOLDOWNS_REMEMBERED: Final = 3  # for so long, what the last retraining gave says what one of now would give
LEAST_DAYS_REMEMBERED: Final = 30
NAMES: Final[tuple[Name, ...]] = get_args(Name)
WINDOWS: Final[Mapping[Kind, str]] = {"data": "combined", "performance": "combined", "concept": "new"}
NOTHING_BEFORE: Final = Past()


def decide(
    report: DriftReport,
    signals: Sequence[Signal],
    earlier_flags: Sequence[bool],
    policy: DriftPolicy,
    *,
    last_retrain: datetime | None,
    retrainings: int,
    now: datetime,
    past: Past = NOTHING_BEFORE,
    owner: Callable[[str], str] = DEFAULT_OWNERS.__getitem__,
) -> Decision:
    """`nothing`, `harmless`, `retrain` or `alarm`, with what it rests on as evidence.

    Args:
        signals: labels, performance, concept and quality, once each; a part that nobody looked at is broken.
        earlier_flags: whether each earlier check flagged; of those that count
            (`checks_apart`), newest first.
        last_retrain: platform clock of the last retraining that did not fail; None: there was none.
        retrainings: how many were begun in the month before `now`, failed ones too.
        now: platform clock, time zone aware like the other moments.
        owner: the role that owns a gate or an alarm (`Charter.owner`).

    Returns:
        Evidence `kind` (data, concept, performance) and `window` of a retraining, `changed_since` of a concept, `owner`
        and `step` of an alarm, `why` of what is harmless; `flagged` is what later checks count.
    """
    seen = _by_name(signals)
    sound = report.problem is None and seen["quality"].state in ("good", "waiting")
    flags = (bool(report.mattering) and sound, *earlier_flags)[: policy.of_checks]
    check = Check(report, seen, flags, policy, last_retrain, retrainings, now, past, owner)
    check.evidence.update(_evidence(check))
    faults = _faults(check)
    if faults:
        return check.alarm(faults)
    if seen["concept"].state == "bad":
        return _answer_harm(check, "concept")
    if seen["performance"].state == "bad":
        return _answer_harm(check, "performance")
    return _answer_drift(check)


def _by_name(signals: Sequence[Signal]) -> dict[str, Signal]:
    """One signal a part; none, or two that may contradict each other, is a broken one."""
    found: dict[str, Signal] = {}
    for name in NAMES:
        told = [one for one in signals if one.name == name]
        said = "nobody looked at it" if not told else f"{len(told)} parts speak for it"
        found[name] = told[0] if len(told) == 1 else Signal(name, "broken", said)
    return found


def _evidence(check: Check) -> Evidence:
    report, policy, days = check.report, check.policy, check.days_since()
    concept = check.signals["concept"]
    states: Evidence = {}
    for name, signal in check.signals.items():
        states |= {name: signal.state, f"{name}_reason": signal.reason}
    return states | {
        "flagged_columns": ",".join(column.name for column in report.flagged),
        "mattering_columns": ",".join(column.name for column in report.mattering),
        "max_psi": round(report.max_psi, 4), "rows": report.rows, "reference_rows": report.reference_rows,
        "flagged": int(check.flags[0]), "flags_needed": policy.flags_to_act, "of_checks": policy.of_checks,
        **({} if check.past.fault else {
            "flags": sum(check.flags), "checks": len(check.flags),
            "days_since_retrain": None if days is None else round(days, 2),
            "cooldown_left_days": 0 if days is None else round(max(0.0, policy.cooldown_days - days), 2),
            "champion_judged": int(check.past.champion_judged),
            "retrainings": check.retrainings, "budget_left": max(0, policy.retrainings_a_month - check.retrainings),
        }),
        "changed_since": concept.evidence.get("changed_since") if concept.state == "bad" else None,
    }


def _faults(check: Check) -> list[tuple[str, str]]:
    """What makes the rest worth nothing, the worst first: part and what is wrong."""
    found = []
    if check.past.fault:
        found.append(("memory", f"the memory cannot be read: {check.past.fault}"))
    if check.report.problem:
        found.append(("drift", f"cannot judge drift: {check.report.problem}"))
    found += [(name, f"cannot judge {name}: {one.reason}") for name, one in check.signals.items()
              if one.state == "broken"]
    for name, text in (("quality", "the data is bad, so what moved is no drift"),
                       ("labels", "labels are missing, so nothing is learnt or judged by them")):
        if check.signals[name].state == "bad":
            found.append((name, f"{text}: {check.signals[name].reason}"))
    if found:
        found += [(name, f"besides, {name} is bad: {check.signals[name].reason}") for name in ("performance", "concept")
                  if check.signals[name].state == "bad"]
    return found


def _answer_harm(check: Check, kind: Literal["concept", "performance"]) -> Decision:
    """The model does badly, or customers behave otherwise: retrain, or where that cannot be or did not help, a person.

    No k of n: each of these two signals is bad only by a limit that is surely crossed.
    """
    policy, past = check.policy, check.past
    both = [name for name in ("concept", "performance") if check.signals[name].state == "bad"]
    what = "; ".join(f"{name} is bad: {check.signals[name].reason}" for name in both)
    own_to_come = kind == "performance" and past.labelled_until is not None and not past.champion_judged
    if check.last_retrain is None and own_to_come:
        return check.says("harmless", f"{what}; answered: that is by the labels of a champion before this one, whose "
                                      "own are not mature yet", why="answered", kind=kind)
    answered = _answer_by_the_last(check, kind, what)
    if answered is not None:
        return answered
    if check.retrainings >= policy.retrainings_a_month:
        part = "retrain" if past.failed else kind
        return check.alarm([(part, f"{what}; no retraining can answer it: {check.budget()}")], kind=kind)
    return check.says("retrain", f"{what}; {check.count()}{check.last()}{check.moved('; moved: ')}", kind=kind,
                      window=WINDOWS[kind])


def _answer_by_the_last(check: Check, kind: Literal["concept", "performance"], what: str) -> Decision | None:
    """What the last retraining means for a harm seen now; None: nothing, another one may be asked for.

    A champion that came after it, by whatever way, ends what it means; so does a long time.
    """
    past, policy, days = check.past, check.policy, check.days_since()
    if check.last_retrain is None or days is None:
        return None
    the_last = f"the retraining of {check.last_retrain:%Y-%m-%d}"
    own_labels_to_come = not past.champion_judged and kind == "performance"  # a concept is found bad by its own labels
    waits = {
        "unfinished": "is under way" if days < max(policy.cooldown_days, 1) else None,
        "on trial": "made a model that is on trial",
        "champion": "made the champion, whose first labels are not mature yet" if own_labels_to_come else None,
        "replaced": "was followed by another champion, whose first labels are not mature yet"
                    if own_labels_to_come else None,
    }.get(past.outcome or "")
    if waits:
        return check.says("harmless", f"{what}; answered: {the_last} {waits}", why="answered", kind=kind)
    if past.outcome == "waits for a person":
        return check.alarm([("approval", f"{what}; {the_last} made a version that waits for a person")], kind=kind)
    if past.outcome == "unfinished":
        return check.alarm([("retrain", f"{what}; {the_last} has been under way for {days:.0f} days")], kind=kind)
    if days >= max(COOLDOWNS_REMEMBERED * policy.cooldown_days, LEAST_DAYS_REMEMBERED):
        return None
    if past.outcome == "champion" and kind not in past.recovered:
        return check.alarm([(kind, f"{what}; and that after {the_last}, whose model is champion")], kind=kind)
    if past.in_vain >= MOST_IN_VAIN:
        return check.alarm([(kind, f"{what}; the last {past.in_vain} retrainings gave no better model (that of "
                                   f"{check.last_retrain:%Y-%m-%d}: {past.outcome})")], kind=kind)
    if days < policy.cooldown_days:
        return check.alarm([(kind, f"{what}; no retraining can answer it: {check.cooldown()} (it ended: "
                                   f"{past.outcome})")], kind=kind)
    return None


def _answer_drift(check: Check) -> Decision:
    """Neither performance nor concept is bad: what the model sees may have moved."""
    report, policy, past = check.report, check.policy, check.past
    aside, states = check.aside(), check.states()
    if not report.mattering:
        text = (f"no column of {len(report.columns)} that matters moved: largest PSI {report.max_psi:.3f} (limit "
                f"{policy.least_psi}), {report.rows:,} rows against {report.reference_rows:,}{aside}; {states}")
        if not report.flagged:
            return check.says("nothing", text)
        light = any(not column.ages for column in report.flagged)
        return check.says("harmless", text, why="light" if light else "ages", kind="data")
    moved, count = check.moved("moved: ") + aside, check.count()
    if sum(check.flags) < policy.flags_to_act:
        return check.says("harmless", f"{count}; {moved}; {states}", why="not persistent", kind="data")
    since = past.drift_since or check.now
    performance, until = check.signals["performance"], _judged_cohort(check)
    if performance.state == "good" and until is not None and until.date() >= since.date():  # a signal tells no hours
        told = (f"{count}, and it did not hurt: performance is good up to the cohort of {until:%Y-%m-%d}, the drift "
                f"began by {since:%Y-%m-%d} ({performance.reason}); {moved}")
        return check.says("harmless", told, why="performance good", kind="data", drift_since=since.isoformat())
    if check.last_retrain is not None and (check.days_since() or 0.0) < policy.cooldown_days:
        return check.says("harmless", f"{count}, {check.cooldown()}; {moved}; {states}", why="cool-down", kind="data")
    if check.retrainings >= policy.retrainings_a_month:
        if past.failed:
            told = f"{count}; no retraining can answer it: {check.budget()}; {moved}"
            return check.alarm([("retrain", told)], kind="data")
        return check.says("harmless", f"{count}, {check.budget()}; {moved}; {states}", why="budget", kind="data")
    return check.says("retrain", f"{count}{check.last()}; {moved}; {states}", kind="data", window=WINDOWS["data"])


def _judged_cohort(check: Check) -> datetime | None:
    """The cohort performance was judged by, as its signal says; else the newest one that has labels."""
    said = check.signals["performance"].evidence.get("cohort")
    if said is None:
        return check.past.labelled_until
    moment = datetime.fromisoformat(str(said))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def checks_apart(flags: Sequence[tuple[datetime, bool]], policy: DriftPolicy) -> list[tuple[datetime, bool]]:
    """The checks that count towards k of n: the newest, then each that is `days_between_flags` older than the last.

    Checks of successive nights see nearly the same customers: what is chance in one is in the next ones too.

    Args:
        flags: date and flag of each distinct check, newest first, this one included.
    """
    found: list[tuple[datetime, bool]] = []
    for when, flagged in flags:
        if not found or (found[-1][0].date() - when.date()).days >= policy.days_between_flags:
            found.append((when, flagged))
    return found


def drift_began(flags: Sequence[tuple[datetime, bool]], policy: DriftPolicy) -> datetime | None:
    """The date of the first flag of the drift that lasts until now; None: the newest checks are calm.

    It ends, going back, at more calm checks in a row than acting allows within its n.

    Args:
        flags: date and flag of each check that counts, newest first, this one included.
    """
    began, calm = None, 0
    for when, flagged in flags:
        calm = 0 if flagged else calm + 1
        if calm > policy.of_checks - policy.flags_to_act:
            break
        began = when if flagged else began
    return began
