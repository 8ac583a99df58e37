"""Training-serving skew. Reads what a release answered and scores the same rows in batch; writes these batch scores.

The batch scores of a date lie in the lake, the features there come from the snapshot and not from the online
store: so a row that went online wrong is seen. Features that a caller gave are scored again as they were given.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Set
from datetime import datetime
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from models.errors import PipelineError
from models.gates.canary_counts import Skew
from models.limits import Rollout
from tasks.data.lake import stamp, write_partition
from tasks.home import Home
from tasks.release import package
from tasks.release.prediction_lines import Scored, ScoredRequest, first_requests

TINY = 1e-9


def read_skew(
    home: Home, engine: sa.Engine, *, release_id: str, rollout_id: str, limits: Rollout, answered: Mapping[str, str],
    sample: Set[str], first_of_stage: int, scored: Scored,
) -> Skew:
    """Compare each customer's first scored request of the rollout with the release's own batch score.

    Args:
        answered: request id -> customer, in order: each customer's first, of each stage if of several.
        sample: requests the release answered; few of them may lack a line.
        first_of_stage: where in it the present stage begins.
        scored: what the release wrote of these requests.
    """
    missing = sum(request_id not in scored.written for request_id in sample)
    if missing > limits.max_missing_share * len(sample):
        return Skew(fault=f"{missing} of {len(sample)} requests {release_id} answered have no line in the prediction "
                          f"log (limit {limits.max_missing_share:.0%})")
    first = {customer: request_id for customer, request_id in first_requests(answered).items()
             if request_id in scored.requests}
    try:
        batch = batch_scores(home, engine, release_id=release_id, rollout_id=rollout_id,
                             scored={request_id: scored.requests[request_id] for request_id in first.values()})
    except (PipelineError, OSError) as error:
        return Skew(fault=f"no batch scores of {release_id} to compare with: {error}")
    compared = {customer for customer, request_id in first.items()
                if len(batch.get(request_id, ())) == len(scored.requests[request_id].probabilities)}
    apart, online_sum, batch_sum, rows = 0, 0.0, 0.0, 0
    for customer in compared:
        online, own = scored.requests[first[customer]].probabilities, batch[first[customer]]
        apart += any(not abs(_logit(one) - _logit(other)) <= limits.max_skew_logit
                     for one, other in zip(online, own, strict=True))
        online_sum, batch_sum, rows = online_sum + sum(online), batch_sum + sum(own), rows + len(own)
    in_stage = {customer for at, (request_id, customer) in enumerate(answered.items())
                if at >= first_of_stage and request_id in scored.written}
    return Skew(len(compared & in_stage), len(compared), apart, online_sum / max(rows, 1), batch_sum / max(rows, 1),
                fault=_too_few(len(first) - len(compared), len(first), release_id, limits))


def _too_few(without: int, customers: int, release_id: str, limits: Rollout) -> str | None:
    """Who is in no snapshot of the date that was answered for cannot be compared: a few at most may be."""
    return (f"{without} of {customers} customers {release_id} answered have no batch score of their row to compare "
            f"with (limit {limits.max_missing_share:.0%})" if without > limits.max_missing_share * customers else None)


def batch_scores(
    home: Home, engine: sa.Engine, *, release_id: str, rollout_id: str, scored: Mapping[str, ScoredRequest]
) -> dict[str, list[float]]:
    """Request id -> the release's own probability of each of its rows; without those a snapshot does not hold.

    Raises:
        PipelineError: the release or a snapshot cannot be read.
    """
    found: dict[str, list[float]] = {}
    by_date: dict[datetime, dict[str, float]] = {}
    given: dict[str, ScoredRequest] = {}
    for request_id, one in scored.items():
        if one.as_of is None:
            given[request_id] = one
            continue
        if one.as_of not in by_date:
            by_date[one.as_of] = snapshot_scores(home, engine, release_id=release_id, as_of=one.as_of)
        if one.entity in by_date[one.as_of]:
            found[request_id] = [by_date[one.as_of][one.entity]] * len(one.probabilities)
    return found | _rescored(home, release_id=release_id, rollout_id=rollout_id, given=given)


def snapshot_scores(home: Home, engine: sa.Engine, *, release_id: str, as_of: datetime) -> dict[str, float]:
    """Entity -> the release's probability by its own snapshot of a date; scored once, then read."""
    path = home.lake / "batch-scores" / release_id.replace(":", "-") / f"as_of={stamp(as_of)}.parquet"
    if not path.exists():
        import pyarrow as pa
        from threadpoolctl import threadpool_limits

        from models.serving.payload import load_payload
        from tasks.features.snapshots import build_snapshot
        from tasks.scoring.chunks import SLIM, scored_chunks

        payload = load_payload(package.bento_payload(home, release_id))
        snapshot = build_snapshot(payload.contract, None, home=home, engine=engine, cut=as_of)
        with threadpool_limits(limits=1):  # as the batch flow scores: in chunks, and releases answer beside it
            scores = pa.Table.from_batches(scored_chunks(snapshot, payload), schema=SLIM)
        write_partition(pl.DataFrame(scores.select(["entity", "churn_probability"]).rename_columns(
            [payload.contract.entity_key, "churn_probability"])), path)
    entity, probability = pl.read_parquet(path).get_columns()
    return dict(zip(entity.cast(pl.String).to_list(), probability.to_list(), strict=True))


def _rescored(
    home: Home, *, release_id: str, rollout_id: str, given: Mapping[str, ScoredRequest]
) -> dict[str, list[float]]:
    """Features that callers gave, scored again in one batch; kept by request id, so that a look scores what is new."""
    if not given:
        return {}
    path = rollouts_folder(home) / f"{rollout_id}.rescored.json"
    known: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    new = {request_id: one for request_id, one in given.items() if request_id not in known}
    if new:
        known |= _score(home, release_id, new)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        beside.write_text(json.dumps(known), encoding="utf-8")
        beside.rename(path)
    return {request_id: known[request_id] for request_id in given}


def _score(home: Home, release_id: str, new: Mapping[str, ScoredRequest]) -> dict[str, list[float]]:
    import pandas as pd

    from models.serving.payload import load_payload
    from models.serving.scorer import predict

    payload = load_payload(package.bento_payload(home, release_id))
    rows = [row for one in new.values() for row in one.features]
    probabilities = iter(predict(
        payload.pipeline, pd.DataFrame(rows, columns=payload.contract.feature_names), payload.contract).tolist())
    return {request_id: [next(probabilities) for _ in one.features] for request_id, one in new.items()}


def rollouts_folder(home: Home) -> Path:
    """Where the pictures of the rollouts lie."""
    return home.serving / "rollouts"


def _logit(probability: float) -> float:
    clipped = min(max(probability, TINY), 1 - TINY)
    return math.log(clipped / (1 - clipped))
