"""Whether the API answers. Asks it by Envoy's address as a client would; raises an alarm where nobody answers for long.

Envoy that is dead or hangs writes no log, and at night nobody else asks.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from models.charter import Charter
from models.decision import Decision
from tasks.monitoring.silence import API, GATE, open_silence, raise_alarm, well
from tasks.release.rollouts import champion

QUESTION: Final = "/openapi.json"  # of the champion, for anybody, with or without a key
PATIENCE: Final = 5.0  # seconds, more than Envoy takes for all its tries
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # our own address needs no proxy


@dataclass(frozen=True)
class Missed:
    """Questions in a row that nobody answered."""

    count: int = 0
    since: float = 0.0  # monotonic seconds of the first: a machine that sleeps asks nothing


def fault_of(api: str) -> str | None:
    """Why the API did not answer one question, or None: it did. A status below 500 is an answer."""
    try:
        with _OPENER.open(f"{api.rstrip('/')}{QUESTION}", timeout=PATIENCE) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        return f"it says {error.code}" if error.code >= 500 else None
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({type(getattr(error, 'reason', error)).__name__})"
    return None


def watch_api(engine: sa.Engine, charter: Charter, api: str, missed: Missed) -> tuple[Missed, list[Decision]]:
    """Ask once; an alarm after `alarms.least_asked` questions in a row without an answer that took
    `alarms.champion_silence_minutes` at least, so that a restart is none.

    Args:
        api: its address, without a path.
        missed: what the call before returned.

    Returns:
        What to hand to the next call, and what was new, which stands in the ledger then.
    """
    serving, opened = champion(engine), open_silence(engine, API)
    if serving is None:
        return Missed(), [well(engine, API, "nothing serves", opened)] if opened else []
    fault, passed = fault_of(api), time.monotonic()
    if fault is None:
        return Missed(), [well(engine, API, "the API answers", opened)] if opened else []
    missed = Missed(missed.count + 1, missed.since if missed.count else passed)
    minutes, limit = (passed - missed.since) / 60, charter.alarms.champion_silence_minutes
    if opened or missed.count < charter.alarms.least_asked or minutes < limit:
        return missed, []
    return missed, [raise_alarm(engine, Decision(GATE, "alarm", (
        f"the API at {api} answered none of {missed.count} questions in {minutes:.1f} minutes (limit {limit:g}), the "
        f"last: {fault}. Look at envoy and the champion {serving.release_id} in `make status`, then `make run`"), {
        "part": API, "owner": charter.owner(API), "asked": missed.count, "limit_minutes": limit,
        "release_id": serving.release_id}), API)]
