"""The parts of a check that read truth and labels, each guarded. Reads the lake and our state; a part that crashes is
a broken signal, which is an alarm, and the other parts still run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from prefect import get_run_logger

from models.charter import Charter
from models.contract import Contract
from models.errors import describe
from models.gates.signals import Name, Signal
from tasks.home import Home
from tasks.monitoring.concept import watch_concept
from tasks.monitoring.memory import Labelled
from tasks.monitoring.truth import TruthReport, cohorts_until, follow_truth


@dataclass(frozen=True)
class Truth:
    """What following the truth gave: the report, for the page, and the signals of labels and performance."""

    report: TruthReport | None  # None where it could not be followed
    labels: Signal
    performance: Signal


def guarded(name: Name, look: Callable[[], Signal]) -> Signal:
    """What a part saw; where it crashed, or answers for another part, that the part is broken."""
    try:
        signal = look()
        if signal.name != name:
            raise TypeError(f"the part {name} spoke of {signal.name}")
        return signal
    except Exception as error:
        get_run_logger().exception("the %s check crashed", name)
        return Signal(name, "broken", f"the {name} check crashed: {describe(error)}")


def follow(
    home: Home, engine: sa.Engine, charter: Charter, contract: Contract, *, as_of: datetime, memory_limit: str
) -> Truth:
    """Bring the truth up to date; where that crashes, labels and performance are broken."""
    try:
        report = follow_truth(home, engine, charter, contract, as_of=as_of, memory_limit=memory_limit)
    except Exception as error:
        get_run_logger().exception("the truth cannot be followed")
        fault = f"the truth cannot be followed: {describe(error)}"
        return Truth(None, Signal("labels", "broken", fault), Signal("performance", "broken", fault))
    return Truth(report, guarded("labels", lambda: report.labels), guarded("performance", lambda: report.performance))


def watch(
    home: Home, engine: sa.Engine, charter: Charter, *, release_id: str, payload: Path, as_of: datetime
) -> Signal:
    """Do customers behave otherwise than the release learnt?"""
    return guarded("concept", lambda: watch_concept(home, engine, charter, release_id=release_id, payload=payload,
                                                    as_of=as_of))


def labelled(home: Home, release_id: str | None, *, as_of: datetime) -> Labelled | Exception:
    """Which cohorts have their labels, of any release and of this one; or the error that hides it.

    A cohort is this one's where it scored most of those who have a label: a canary has a few customers in the cohort
    of the champion before it, and how well that cohort was predicted says nothing of it.
    """
    try:
        until, champion = None, False
        for cut, rows in cohorts_until(home, as_of, columns=["release_id", "label"]):
            releases = rows.drop_nulls("label")["release_id"]
            until = until or (None if releases.is_empty() else cut)
            champion = champion or (release_id is not None and 2 * (releases == release_id).sum() > len(releases))
            if until is not None and (champion or release_id is None):
                break
        return Labelled(until, champion)
    except Exception as error:
        get_run_logger().exception("the truth cannot be read")
        return error
