"""Why did it retrain, or not? Reads the ledger and rollouts: each check with its verdict, and what followed from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from models.charter import Charter
from models.gates.retraining import NAMES
from models.gates.retraining_check import GATE
from tasks.clock import data_now
from tasks.monitoring.events import LOOK_BACK, refusal
from tasks.monitoring.waiting import waits_until
from tasks.release import releases, rollouts
from tasks.state import LedgerRow, acted_on, read_decisions

CHECKS: Final = 24  # shown: of monthly checks two years


@dataclass(frozen=True)
class Check:
    """The last check of a day, and what followed from any retrain decision of that day."""

    row: LedgerRow
    repeats: int  # checks of that day before it
    followed: tuple[str, ...]

    @property
    def date(self) -> str:
        return (self.row.as_of or self.row.at)[:10]

    @property
    def verdict(self) -> str:
        return self.row.decision.verdict

    @property
    def signals(self) -> tuple[tuple[str, str, str], ...]:
        """Name, state and reason of each part; a check of before there were any says so."""
        evidence = self.row.decision.evidence
        return tuple((name, str(evidence.get(name, "not looked at")), str(evidence.get(f"{name}_reason", "")))
                     for name in NAMES)

    @property
    def counts(self) -> tuple[str, str, str]:
        """Flags, days of cool-down left, retrainings of the budget left: as text."""
        evidence = self.row.decision.evidence
        flags = f"{evidence['flags']} of {evidence.get('of_checks', '?')}" if "flags" in evidence else "?"
        left = evidence.get("cooldown_left_days")
        return flags, "?" if left is None else f"{float(left):.0f}", str(evidence.get("budget_left", "?"))


def read_checks(engine: sa.Engine, charter: Charter, *, limit: int = CHECKS) -> tuple[Check, ...]:
    """The last checks, one a day of the platform clock, oldest first.

    Raises:
        PlatformError: the ledger cannot be read.
    """
    days: dict[str, list[LedgerRow]] = {}
    for row in read_decisions(engine, gate=GATE, limit=LOOK_BACK):
        days.setdefault((row.as_of or row.at)[:10], []).append(row)
    answers = read_decisions(engine, gate="retrain", limit=LOOK_BACK)
    now = data_now(engine, charter)
    return tuple(Check(days[day][0], len(days[day]) - 1, _followed(engine, charter, days[day], answers, now))
                 for day in sorted(days)[-limit:])


def _followed(
    engine: sa.Engine, charter: Charter, rows: Sequence[LedgerRow], answers: Sequence[LedgerRow], now: datetime
) -> tuple[str, ...]:
    """What became of the retrain decisions of a day, in the order it happened."""
    ordered = [row for row in rows if row.decision.verdict == "retrain"]
    ids = {row.decision_id for row in ordered}
    found = [answer for answer in reversed(answers) if answer.decision.evidence.get("decision_id") in ids]
    lines = [_line(engine, answer) for answer in found]
    if ordered and not any(answer.decision.verdict == "accept" for answer in found):
        lines.append(_open(engine, charter, ordered[0], now))
    return tuple(dict.fromkeys(lines))  # a wait that was answered often is one line


def _line(engine: sa.Engine, answer: LedgerRow) -> str:
    """One answer of `retrain`, with what the version is now."""
    decision, evidence = answer.decision, answer.decision.evidence
    if decision.verdict == "accept":
        window = f", window {evidence['window']}" if evidence.get("window") else ""
        since = f" from {evidence['not_before']} on" if evidence.get("not_before") else ""
        return f"retrained at {(answer.as_of or answer.at)[:10]}{window}{since}"
    if decision.verdict == "wait":
        return f"waits until {str(evidence.get('waits_until'))[:10]}"
    version = evidence.get("model_version")
    return f"{decision.reason}{_now(engine, str(version)) if version else ''}"


def _now(engine: sa.Engine, version: str) -> str:
    release = releases.release_of_version(engine, version)
    state = rollouts.last_state(engine, release.release_id) if release else None
    return f"; version {version} is now: {state or 'not released'}"


def _open(engine: sa.Engine, charter: Charter, row: LedgerRow, now: datetime) -> str:
    """Why nothing came of a retrain decision so far."""
    if acted_on(engine, row.decision_id):
        return "taken up, and nothing more is known: its run was ended"
    fault = refusal(row, engine, charter.drift, now)
    if fault is not None:
        return f"not acted on, and it will not be: {fault}"
    until = waits_until(engine, row)
    if until is not None and until > now:
        return f"open: the first check from {until:%Y-%m-%d} on asks again"
    return "open: nobody has acted on it yet; every check asks again"


def story(checks: Sequence[Check]) -> str:
    """The same as text, oldest first."""
    lines = []
    for check in checks:
        flags, cooldown, budget = check.counts
        again = f" (checked {check.repeats + 1} times)" if check.repeats else ""
        lines.append(f"{check.date}  {check.verdict}{again}: {check.row.decision.reason}")
        lines.append(f"            {', '.join(f'{name} {state}' for name, state, _ in check.signals)}; flags {flags}, "
                     f"cool-down left {cooldown} days, budget left {budget}")
        lines += [f"            -> {line}" for line in check.followed]
    return "\n".join(lines)
