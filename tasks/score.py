"""Scoring stage. Reads snapshots and the champion's Bento; writes one partition of scores an `as_of`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.errors import DataError
from models.payload import load_payload
from models.scorer import decide_all, predict
from tasks import package, rollouts
from tasks.home import Home
from tasks.lake import snapshot_partition, stamp, write_partition
from tasks.snapshots import build_snapshot


@dataclass(frozen=True)
class Scored:
    """What the champion scores at an `as_of`."""

    release_id: str
    payload: Path
    current: pd.DataFrame  # eligible rows: the contract's features and `churn_probability`


def scores_partition(home: Home, as_of: datetime) -> Path:
    return home.lake / "scores" / f"as_of={stamp(as_of)}.parquet"


def serving_contracts(home: Home, engine: sa.Engine, *, besides: Contract) -> list[Contract]:
    """The contracts of champion and canary that differ from `besides`: their views must stay fresh too."""
    found: dict[str, Contract] = {}
    for rollout in (rollouts.champion(engine), rollouts.open_rollout(engine)):
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


def score_snapshot(*, charter: Charter, home: Home, engine: sa.Engine, as_of: datetime) -> Path:
    """Score everybody in the snapshot of `as_of` with the champion: probability, decision, why, expected value, rank.

    A decision is the API's, by the release's threshold; `within_budget` marks the first contacts the budget has
    room for.

    The same `as_of` and champion give the same bytes.

    Raises:
        DataError: nothing is champion.
    """
    champion = rollouts.champion(engine)
    if champion is None:
        raise DataError("cannot score: no release is champion. Run `make run` first")
    payload = load_payload(package.bento_payload(home, champion.release_id))
    contract = payload.contract
    rows = pl.read_parquet(build_snapshot(contract, None, home=home, engine=engine, cut=as_of))
    probability = predict(payload.pipeline, rows.to_pandas(), contract)
    entities = rows[contract.entity_key].to_list()
    answers = decide_all(probability, entities, rows[contract.eligible].to_list(), payload.policy)
    scores = pl.DataFrame({
        contract.entity_key: entities,
        "churn_probability": probability,
        "decision": [answer.decision for answer in answers],
        "why": [answer.why for answer in answers],
        "expected_value": [answer.expected_value for answer in answers],
        "release_id": champion.release_id,
        "as_of": as_of,
    })
    # First who is contacted, last who has left already; within each by what a contact would bring.
    standing = pl.when(decision="contact").then(0).when(pl.col("why") == "not_eligible").then(2).otherwise(1)
    scores = scores.sort(
        standing, "expected_value", contract.entity_key, descending=[False, True, False]
    ).with_row_index("rank", offset=1)
    # The threshold was chosen before this cut: where it lets more through than the budget, the first ones by rank go.
    scores = scores.with_columns(
        ((pl.col("decision") == "contact") & (pl.col("rank") <= charter.value.contact_budget)).alias("within_budget")
    )
    path = scores_partition(home, as_of)
    write_partition(scores, path)
    return path


def read_scored(home: Home, engine: sa.Engine, as_of: datetime) -> Scored:
    """The eligible rows the champion scored at `as_of`, with their features.

    Raises:
        DataError: nothing is champion, or it has not scored this `as_of`.
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
    rows = pl.read_parquet(snapshot).filter(pl.col(contract.eligible)).join(
        scores.select(contract.entity_key, "churn_probability"), on=contract.entity_key, how="inner")
    return Scored(champion.release_id, folder, rows.select(*contract.feature_names, "churn_probability").to_pandas())
