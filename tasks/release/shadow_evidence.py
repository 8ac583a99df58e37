"""Evidence of a shadow. Reads the access log and the prediction log; counts what the shadow answered too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from models.errors import DataError
from models.gates.shadow import ShadowCounts
from tasks.home import Home
from tasks.release.prediction_lines import RequestSample, Scored, read_scored
from tasks.release.router_lines import Line, read_lines

UNDER_WAY: Final = timedelta(seconds=10)  # a copy is answered later than the client, within the time limit of a batch
SCORING: Final = ("customer", "score", "score-customer")  # routes of the router that ask for a score


@dataclass(frozen=True)
class ShadowEvidence:
    """Counts, and what the shadow wrote; `answered` is request id -> customer, of each customer's first request if the
    shadow wrote of it."""

    counts: ShadowCounts
    answered: Mapping[str, str] = field(default_factory=dict)
    scored: Scored = field(default_factory=lambda: Scored(set(), {}))
    fault: str | None = None


def read_shadow(
    home: Home, rollout_id: str, *, shadow_id: str, champion_id: str, since: datetime,
    start: Mapping[str, Any] | None = None, now: datetime | None = None,
) -> ShadowEvidence:
    """Count the requests of one rollout that the champion answered with a score while it was mirrored.

    Args:
        start: where in both logs the shadow began (`opening_evidence`).
    """
    until = f"{(now or datetime.now(UTC)) - UNDER_WAY:%Y-%m-%dT%H:%M:%S}"
    sample, first = RequestSample(), dict[str, str]()  # of customers: their first request
    try:
        for line in read_lines(home, rollout_id, start or {}):
            if _scored_by(line, champion_id) and str(line.get("ts")) < until:
                sample.add(line["request_id"])
                if line.get("customer"):
                    first.setdefault(line["customer"], line["request_id"])
    except DataError as error:
        return ShadowEvidence(ShadowCounts(), fault=str(error))
    asked, firsts = sample.ids, set(first.values())
    try:
        scored = read_scored(home, {shadow_id, champion_id}, asked | firsts, since=since, in_full=firsts,
                             start=start or {})
    except OSError as error:
        return ShadowEvidence(ShadowCounts(),
                              fault=f"no evidence: the prediction log cannot be read ({error.strerror})")
    own, champion = scored[shadow_id], scored[champion_id]
    both = [(own.requests[request_id], champion.requests[request_id]) for request_id in first.values()
            if request_id in own.requests and request_id in champion.requests]
    counts = ShadowCounts(
        requests=len(asked), missing=sum(request_id not in own.written for request_id in asked),
        customers=len(first), customers_missing=sum(request_id not in own.written for request_id in first.values()),
        score_difference=_mean([abs(one.probabilities[0] - other.probabilities[0]) for one, other in both]),
        decisions_differ=_mean([float(one.actions[0] != other.actions[0]) for one, other in both]))
    answered = {request_id: customer for customer, request_id in first.items() if request_id in own.written}
    fault = (f"no evidence: of {len(asked)} requests the champion answered none stands in the prediction log"
             if asked and not champion.written else None)
    return ShadowEvidence(counts, answered, own, fault)


def _scored_by(line: Line, champion_id: str) -> bool:
    return bool(line.get("shadow") and line["code"] == 200 and line.get("request_id")
                and line.get("answered_by") == champion_id and str(line.get("route")) in SCORING)


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
