"""Scoring stage. Reads snapshots and the champion's Bento; writes one partition of scores an `as_of`.

In chunks: what it holds does not grow with the customers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.errors import DataError
from models.serving.payload import load_payload
from models.serving.scorer import CHUNK_ROWS, predict
from tasks.data.lake import beside, snapshot_partition, stamp
from tasks.features.snapshots import build_snapshot
from tasks.home import MEMORY_LIMIT, Home
from tasks.release import package, rollouts
from tasks.scoring.chunks import scored_chunks
from tasks.scoring.ranking import write_ranked
from tasks.state import read_decisions

NO_CHAMPION_YET: Final = "no release is champion yet"
LEAST_SCORED: Final = 0.99  # share of the eligible: what is scored of fewer is not what the champion sees


@dataclass(frozen=True)
class Scored:
    """What the champion scores at an `as_of`."""

    release_id: str
    payload: Path
    current: pd.DataFrame  # eligible rows: the contract's features and `churn_probability`


def scores_partition(home: Home, as_of: datetime) -> Path:
    return home.lake / "scores" / f"as_of={stamp(as_of)}.parquet"


def serving_contracts(home: Home, engine: sa.Engine, *, besides: Contract) -> list[Contract]:
    """The contracts that differ from `besides` of all who may answer: champion, candidate, and the champion before
    while it is kept warm. Their views must stay fresh too."""
    found: dict[str, Contract] = {}
    for rollout in (rollouts.champion(engine), rollouts.open_rollout(engine), rollouts.warm_champion(engine)):
        if rollout is not None:
            text = (package.bento_payload(home, rollout.release_id) / "contract.json").read_text(encoding="utf-8")
            contract = Contract.from_json(text)
            found[contract.fingerprint] = contract
    return [contract for name, contract in sorted(found.items()) if name != besides.fingerprint]


def champion_probability(
    test: pd.DataFrame, contract: Contract, *, home: Home, engine: sa.Engine
) -> np.ndarray | None:
    """The champion's score of each test row, shape (n,), by its own features; None where nothing is champion.

    NaN where the champion's snapshot lacks the row.
    """
    champion = rollouts.champion(engine)
    if champion is None:
        return None
    payload = load_payload(package.bento_payload(home, champion.release_id))
    rows = test
    if payload.contract.fingerprint != contract.fingerprint:
        cuts = sorted(test["event_timestamp"].unique())
        frames = [
            pl.read_parquet(build_snapshot(payload.contract, None, home=home, engine=engine,
                                           cut=pd.Timestamp(cut).to_pydatetime())).to_pandas()
            for cut in cuts
        ]
        keys = [contract.entity_key, "event_timestamp"]
        own = pd.concat(frames).assign(_found=True)
        rows = test[keys].merge(own, on=keys, how="left")
        found = rows["_found"].notna().to_numpy()
        probability = np.full(len(rows), np.nan)
        probability[found] = predict(payload.pipeline, rows[found], payload.contract)
        return probability
    return predict(payload.pipeline, rows, payload.contract)


def awaits_first_champion(home: Home, engine: sa.Engine) -> bool:
    """Whether nothing is champion and nothing ever was: by rollouts, the ledger, and the scores in the lake."""
    folder = home.lake / "scores"
    return not (
        rollouts.any_champion(engine) or (folder.exists() and any(folder.iterdir()))
        or any(row.decision.verdict == "release" for row in read_decisions(engine, gate="release", limit=None)))


def score_snapshot(
    *, charter: Charter, home: Home, engine: sa.Engine, as_of: datetime, memory_limit: str = MEMORY_LIMIT,
    chunk_rows: int = CHUNK_ROWS, progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Score everybody in the snapshot of `as_of` with the champion: probability, decision, why, expected value, rank.

    A decision is the API's, by the release's threshold; `within_budget` marks the first contacts the budget has
    room for. Who is not eligible or held out is marked so, and left.

    The same `as_of` and champion give the same bytes.

    Args:
        memory_limit: what DuckDB may hold, "4GB"; it changes no byte.
        chunk_rows: rows that are scored at once.
        progress: called after each chunk with the rows scored so far and all there are.

    Raises:
        DataError: nothing is champion, or the snapshot is damaged.
    """
    from threadpoolctl import threadpool_limits

    champion = rollouts.champion(engine)
    if champion is None:
        raise DataError("cannot score: no release is champion. Run `make run` first")
    payload = load_payload(package.bento_payload(home, champion.release_id))
    contract = payload.contract
    snapshot = build_snapshot(contract, None, home=home, engine=engine, cut=as_of, memory_limit=memory_limit)
    path = scores_partition(home, as_of)
    with beside(path) as file, threadpool_limits(limits=1):  # releases answer beside it: see `fit.py`
        write_ranked(
            scored_chunks(snapshot, payload, chunk_rows=chunk_rows, progress=progress), file, contract=contract,
            release_id=champion.release_id, as_of=as_of, contact_budget=charter.value.contact_budget, home=home,
            memory_limit=memory_limit,
        )
    return path


def read_scored(home: Home, engine: sa.Engine, as_of: datetime) -> Scored:
    """The eligible rows the champion scored at `as_of`, with their features.

    Raises:
        DataError: nothing is champion, or it has not scored this `as_of`, or too few of the customers.
    """
    champion = rollouts.champion(engine)
    if champion is None:
        raise DataError("cannot check: no release is champion. Run `make run` first")
    path = scores_partition(home, as_of)
    folder = package.bento_payload(home, champion.release_id)
    contract = Contract.from_json((folder / "contract.json").read_text(encoding="utf-8"))
    snapshot = snapshot_partition(home, contract.fingerprint, as_of)
    if not path.exists() or not snapshot.exists():
        raise DataError(f"cannot check as of {as_of:%Y-%m-%d}: nothing was scored then. Run the score flow first")
    scores = pl.read_parquet(path).filter(pl.col("release_id") == champion.release_id)
    if scores.is_empty():
        raise DataError(f"cannot check as of {as_of:%Y-%m-%d}: the scores are of another release than "
                        f"{champion.release_id}. Run the score flow again")
    eligible = pl.read_parquet(snapshot).filter(pl.col(contract.eligible))
    known = scores.filter(pl.col("churn_probability").is_finite()).select(contract.entity_key, "churn_probability")
    rows = eligible.join(known, on=contract.entity_key, how="inner", validate="1:1")
    if len(rows) < LEAST_SCORED * len(eligible):
        raise DataError(f"cannot check as of {as_of:%Y-%m-%d}: {len(rows):,} of {len(eligible):,} eligible customers "
                        f"have a score, {LEAST_SCORED:.0%} must. Run the score flow again")
    return Scored(champion.release_id, folder, rows.select(*contract.feature_names, "churn_probability").to_pandas())
