"""What a check remembers. Reads the ledger and rollouts, each time anew, and fails closed: what cannot be read, or
contradicts what is live, is a fault that the verdict turns into an alarm, never a memory that happens to be empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import sqlalchemy as sa

from models.charter import Charter
from models.errors import PlatformError, describe
from models.gates.retraining import checks_apart, drift_began
from models.gates.retraining_check import GATE, Past
from tasks.clock import data_now
from tasks.home import Home
from tasks.monitoring.events import LOOK_BACK
from tasks.monitoring.outcomes import in_vain, outcomes
from tasks.monitoring.retrainings import (
    begun_in_month,
    decision_of,
    end_the_dead,
    failed,
    last_of,
    read_retrainings,
    when,
)
from tasks.release import rollouts
from tasks.state import LedgerRow, read_decisions


@dataclass(frozen=True)
class Labelled:
    """Which cohorts have their labels, by the truth that was followed."""

    until: datetime | None = None  # newest cohort
    champion: bool = False  # one that the release under check scored, most of it, is among them


@dataclass(frozen=True)
class Memory:
    """What is remembered of earlier checks and retrainings of a release."""

    earlier_flags: tuple[bool, ...] = ()
    last_retrain: datetime | None = None
    retrainings: int = 0
    past: Past = field(default_factory=Past)


def recall(
    engine: sa.Engine, home: Home, charter: Charter, release_id: str | None, labelled: Labelled | Exception, *,
    flag: bool, now: datetime,
) -> Memory:
    """The memory for a check at `now`; where any of it cannot be read, none, and `past.fault` says why.

    A retraining that died is written down first: what has no end then is under way.
    """
    try:
        if isinstance(labelled, Exception):
            raise labelled
        _refuse_lost_ledger(engine)
        flags = checks_apart([(now, flag), *flags_by_day(engine, release_id, before=now)], charter.drift)
        latest = max(now, data_now(engine, charter))  # `now` may be an earlier date that is checked again
        end_the_dead(engine, home, now)
        checks = _known(read_decisions(engine, gate=GATE, limit=LOOK_BACK), now, latest)
        retrained = _known(read_retrainings(engine), now, latest)
        begun, gave_nothing, last = begun_in_month(retrained, now), failed(retrained), last_of(retrained)
        ended = outcomes(engine, retrained, now)
        since = [row.decision.evidence for row in checks
                 if release_id is not None and row.subject == release_id and last is not None and when(row) > last]
        recovered = frozenset(name for name in ("performance", "concept")
                              if any(_found_good(one, name) for one in since))
        past = Past(
            drift_since=drift_began(flags, charter.drift),
            failed=sum(decision_of(row) in gave_nothing for row in begun),
            outcome=ended[0] if ended else None, in_vain=in_vain(ended), recovered=recovered,
            labelled_until=labelled.until, champion_judged=labelled.champion,
        )
        return Memory(tuple(earlier for _, earlier in flags[1:]), last, len(begun), past)
    except Exception as error:
        return Memory(past=Past(fault=describe(error)))


def _known(rows: Sequence[LedgerRow], now: datetime, latest: datetime) -> list[LedgerRow]:
    """What was said up to `now`.

    Raises:
        PlatformError: something was said at a date that no part has reached by `latest`.
    """
    for row in rows:
        if when(row) > latest:
            raise PlatformError(f"cannot believe decision {row.decision_id} of the ledger ({row.decision.gate}): it is "
                                f"dated {when(row):%Y-%m-%d}, after now ({latest:%Y-%m-%d}). Restore our state from a "
                                "backup")
    return [row for row in rows if when(row) <= now]


def _found_good(evidence: Mapping[str, object], name: str) -> bool:
    """Whether a check of a release found it good: in performance by its own labels, not by those of one before it."""
    return evidence.get(name) == "good" and (name == "concept" or evidence.get("champion_judged") == 1)


def _refuse_lost_ledger(engine: sa.Engine) -> None:
    """A store makes the tables it lacks, so a ledger that was lost reads as an empty one: what is live says otherwise.

    Raises:
        PlatformError: a release is live, and the ledger has no verdict that made it so.
    """
    live = rollouts.champion(engine)
    if live is None or any(read_decisions(engine, gate=gate, limit=1) for gate in ("promotion", "smoke", "release")):
        return
    raise PlatformError(f"cannot trust the ledger: {live.release_id} is live, and no verdict stands there that made it "
                        "so. Restore our state from a backup")


def flags_by_day(engine: sa.Engine, release_id: str | None, *, before: datetime) -> list[tuple[datetime, bool]]:
    """Date and flag of each earlier check of this release, newest first.

    One entry a distinct day of `as_of`, its last verdict: repeating a check is no second check, and by wall time every
    run would be one. A repeated one in bad data says nothing of the rows that were checked before.
    """
    last: dict[date, tuple[datetime, bool]] = {}
    for row in reversed(read_decisions(engine, gate=GATE, subject=release_id, limit=LOOK_BACK)):
        day = when(row).date()
        if day not in last or row.decision.evidence.get("quality") != "bad":
            last[day] = (when(row), flagged(row))
    return [last[day] for day in sorted(last, reverse=True) if day < before.date()]


def flagged(row: LedgerRow) -> bool:
    """Whether a recorded check saw drift that matters; of before there was `flagged`, by the columns it names."""
    evidence = row.decision.evidence
    if "flagged" in evidence:
        return evidence["flagged"] == 1
    return row.decision.verdict in ("harmless", "retrain") and bool(evidence.get("mattering_columns"))


def previous_check(engine: sa.Engine, *, before: datetime) -> datetime | None:
    """Date of the last check of an earlier day, of whatever release; None: this is the first."""
    rows = read_decisions(engine, gate=GATE, limit=LOOK_BACK)
    return max((when(row) for row in rows if when(row).date() < before.date()), default=None)
