"""Silence. Reads our state and Envoy's log; writes an alarm to the ledger where somebody did not work who should have.

One alarm a silence, in the name of the role that owns the part, and one `well` when it is heard again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import sqlalchemy as sa

from models.charter import Charter
from models.decision import Decision
from tasks.home import Home
from tasks.maturity import DEPLOYMENT, MANUAL, read_level
from tasks.monitoring.heartbeats import PARTS, SilentPart, ahead, due_parts, last_beats, silent_parts
from tasks.monitoring.orders import dates_unanswered
from tasks.release.rollouts import champion
from tasks.release.routing import STABLE_ARM, access_log
from tasks.state import LedgerRow, read_decisions, record_decision

GATE: Final = "silence"
CHAMPION: Final = "champion"
API: Final = "api"  # asked by `tasks.monitoring.api_question`
RETRAIN: Final = "retrain"
LEAST_ASKED_DATES: Final = 3  # dates of orders without a retraining: one may be lost or meet another that runs
QUESTIONS: Final = "docs"  # the route of the watchdog's own: they ask for no prediction
TAIL_BYTES: Final = 4 << 20  # of the access log: some 10,000 requests
NEXT_STEP: Final = {
    "ingest": "Look at the worker in `make status` and the last run of ingest in Prefect",
    "features": "Look at the last run of features in Prefect",
    "score": "Look at the last run of score in Prefect",
    "ship": "Look at the last run of ship in Prefect: until it runs, truth joins nothing new",
    "monitor": "Look at the last run of monitor in Prefect: until it runs, drift goes unseen",
    "labels": "Look at the last run of monitor in Prefect, and at the feed of the sources",
}


def watched_level(home: Home) -> int:
    """The level by which parts are due; where it cannot be read the highest: there most is due."""
    level = read_level(home)
    return DEPLOYMENT if level.fault else level.number


def watch_silence(
    home: Home, engine: sa.Engine, charter: Charter, *, maturity: int = 3, at: datetime | None = None
) -> list[Decision]:
    """Look once; returns what was new, which stands in the ledger then.

    Args:
        maturity: CHURN_MATURITY.
        at: wall time, UTC; None: now.
    """
    at = at or datetime.now(UTC)
    silent = {one.part: one for one in silent_parts(engine, charter, maturity=maturity, at=at)}
    due, beats, said = due_parts(engine, maturity=maturity), last_beats(engine), []
    for part in PARTS:
        opened = open_silence(engine, part)
        if part in silent and opened is None:
            said.append(_alarm(engine, charter, silent[part]))
        elif part not in silent and opened is not None:
            last = beats.get(part)
            if part not in due:
                said.append(well(engine, part, f"{part} is not due any more", opened))
            elif last is not None and datetime.fromisoformat(opened.at) < last.at and not ahead(last.at, at):
                said.append(well(engine, part, f"{part} did its work again at {last.at:%Y-%m-%d %H:%M} UTC", opened))
    return [*said, *_watch_champion(home, engine, charter, at),
            *_watch_retraining(engine, charter, at, due=maturity > MANUAL)]


def open_silence(engine: sa.Engine, subject: str) -> LedgerRow | None:
    """The alarm of a part that nothing has answered since."""
    newest = next(iter(read_decisions(engine, gate=GATE, subject=subject, limit=1)), None)
    return newest if newest and newest.decision.verdict == "alarm" else None


def open_silences(engine: sa.Engine) -> list[LedgerRow]:
    """The open alarms of all parts, of the champion, of the API and of retraining."""
    return [row for part in (*PARTS, CHAMPION, API, RETRAIN) if (row := open_silence(engine, part)) is not None]


def _alarm(engine: sa.Engine, charter: Charter, silent: SilentPart) -> Decision:
    owner = charter.owner(silent.part)
    has = f"since {silent.since:%Y-%m-%d %H:%M} UTC" if silent.ever else (
        f"ever; it is due since {silent.since:%Y-%m-%d %H:%M} UTC")
    decision = Decision(GATE, "alarm", (
        f"{silent.part} has not done its work {has}: {silent.hours:.1f} hours of a running platform (limit "
        f"{silent.limit_hours:g}). {NEXT_STEP[silent.part]}"), {
        "part": silent.part, "owner": owner, "since": silent.since.isoformat(), "hours": round(silent.hours, 2),
        "limit_hours": silent.limit_hours})
    return raise_alarm(engine, decision, silent.part)


def well(engine: sa.Engine, part: str, reason: str, opened: LedgerRow) -> Decision:
    """Answer an open alarm."""
    decision = Decision(GATE, "well", f"{reason}; the alarm of {opened.at[:16]} is over",
                        {"part": part, "alarm": opened.decision_id})
    record_decision(engine, decision, as_of=None, subject=part)
    return decision


def raise_alarm(engine: sa.Engine, decision: Decision, subject: str) -> Decision:
    """Write it down by its number, so that two watchdogs write one alarm."""
    before = len(read_decisions(engine, gate=GATE, subject=subject, limit=None))
    record_decision(engine, decision, as_of=None, subject=subject,
                    decision_id=f"{GATE}-{subject}-{before}")
    return decision


def _watch_champion(home: Home, engine: sa.Engine, charter: Charter, at: datetime) -> list[Decision]:
    serving, opened = champion(engine), open_silence(engine, CHAMPION)
    if serving is None:
        return [well(engine, CHAMPION, "nothing serves", opened)] if opened else []
    if opened and opened.decision.evidence.get("release_id") != serving.release_id:
        return [well(engine, CHAMPION, f"{serving.release_id} is champion now", opened)]
    minutes, limit = charter.alarms.champion_silence_minutes, charter.alarms.least_asked
    since = at - timedelta(minutes=minutes)
    asked, answered = _asked_and_answered(access_log(home), since, serving.release_id)
    if answered:
        return [well(engine, CHAMPION, f"{serving.release_id} answers", opened)] if opened else []
    if opened or asked < limit:
        return []
    decision = Decision(GATE, "alarm", (
        f"the champion {serving.release_id} was asked {asked:,} times in {minutes:g} minutes and answered nothing "
        f"(limit: some answer to {limit} requests). Look at its log in run/logs, then `make rollback` or `make run`"), {
        "part": CHAMPION, "owner": charter.owner(CHAMPION), "since": since.isoformat(), "asked": asked,
        "limit_minutes": minutes, "release_id": serving.release_id})
    return [raise_alarm(engine, decision, CHAMPION)]


def _watch_retraining(engine: sa.Engine, charter: Charter, at: datetime, *, due: bool) -> list[Decision]:
    """Retrainings that checks ask for, date after date, and none begins; the checks go on asking meanwhile."""
    opened, dates = open_silence(engine, RETRAIN), dates_unanswered(engine, at) if due else []
    if opened:
        return [] if dates else [well(engine, RETRAIN, "no retraining is asked for that does not begin", opened)]
    if len(dates) < LEAST_ASKED_DATES:
        return []
    decision = Decision(GATE, "alarm", (
        f"a retraining was asked for on {len(dates)} dates since {dates[0]:%Y-%m-%d}, and none began. Look at the runs "
        "of retrain in Prefect (is there none: at its triggers and the worker) and at `make why-retrain`; the next "
        "check asks again"), {
        "part": RETRAIN, "owner": charter.owner(RETRAIN), "since": dates[0].isoformat(), "dates": len(dates)})
    return [raise_alarm(engine, decision, RETRAIN)]


def _asked_and_answered(log: Path, since: datetime, release_id: str) -> tuple[int, int]:
    """Requests that were the champion's to answer since a moment, and how many of them it answered.

    A 404 for a customer nobody knows is an answer; what another release answered in its place is none.
    """
    asked = answered = 0
    moment, cluster = since.strftime("%Y-%m-%dT%H:%M:%S"), f"{STABLE_ARM}/{release_id}/"
    for entry in _last_entries(log):
        if str(entry.get("ts", ""))[:len(moment)] < moment or entry.get("route") == QUESTIONS or not str(
                entry.get("cluster", "")).startswith(cluster):
            continue
        asked += 1
        code = entry.get("code")
        answered += entry.get("answered_by") == release_id and isinstance(code, int) and 0 < code < 500
    return asked, answered


def _last_entries(log: Path) -> Iterator[dict[str, Any]]:
    try:
        file = log.open("rb")
    except FileNotFoundError:  # no request ever
        return
    with file:
        place = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
        file.seek(place)
        if place:
            file.readline()
        for line in file:
            try:
                entry = orjson.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry
