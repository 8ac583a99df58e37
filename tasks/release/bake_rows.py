"""Rows of a bake. Reads the prediction log in the lake, batch scores, snapshots and two Bentos; returns frames.

A row is a customer and a cut: what the champion said of them after its promotion, and what the release before
would have said. Each customer once, at the first cut they were scored at.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import pandas as pd
import polars as pl
import sqlalchemy as sa

from models.contract import Contract
from models.serving.payload import Payload
from models.serving.scorer import predict
from tasks.features.snapshots import build_snapshot
from tasks.home import MEMORY_LIMIT, Home
from tasks.monitoring.truth_rows import CUT, batch_rows, served_rows

RESCORED: Final = timedelta(days=1)  # a batch scored by wall time is of data loaded shortly before


def champion_rows(
    home: Home, contract: Contract, *, release_id: str, promoted: datetime, promoted_wall: datetime, until: datetime
) -> pl.DataFrame:
    """What the champion said since its promotion: each customer at the first cut, the logged row before the batch's.

    Args:
        promoted: platform clock; `promoted_wall` is the same moment by wall time, which the log is written in.
        until: cuts after it are not taken.

    Returns:
        Entity key, cut, `champion` (the probability), `features` (JSON; null for a row of the batch); sorted by both.
    """
    ours = pl.col("release_id") == release_id
    # A batch scored by wall time is of data loaded shortly before.
    taken = pl.col(CUT).is_between(promoted - RESCORED, until)
    both = pl.concat([
        served_rows(home, contract.entity_key, since=promoted_wall).filter(ours, pl.col(CUT) <= until),
        batch_rows(home, contract.entity_key).filter(ours, taken),
    ]).select(contract.entity_key, CUT, pl.col("probability").alias("champion"), "features", "at").collect()
    return (both.sort(CUT, contract.entity_key, pl.col("features").is_null(), "at", nulls_last=True,
                      maintain_order=True)
            .unique(contract.entity_key, keep="first", maintain_order=True).drop("at"))


def previous_probability(
    rows: pl.DataFrame, previous: Payload, champion: Contract, *, home: Home, engine: sa.Engine,
    memory_limit: str = MEMORY_LIMIT,
) -> np.ndarray:
    """What the previous release says of the champion's rows, shape (n,); NaN where it lacks their features.

    A release of the same contract reads the logged features. One of another contract reads its own snapshot of
    that cut, for its features may mean something else by the same name; only a row that no snapshot has (a caller
    gave the features) is read from the log, where that holds all it needs.
    """
    probability = np.full(len(rows), np.nan)
    logged = rows["features"].is_not_null().to_numpy()
    if previous.contract.fingerprint == champion.fingerprint:
        _fill(probability, np.flatnonzero(logged), _given(rows.filter(logged)), previous)
    for cut in rows.filter(np.isnan(probability))[CUT].unique().sort():
        here = np.flatnonzero((rows[CUT] == cut).to_numpy() & np.isnan(probability))
        path = build_snapshot(previous.contract, None, home=home, engine=engine, cut=cut, memory_limit=memory_limit)
        own = pl.read_parquet(path).with_columns(pl.col(previous.contract.entity_key).cast(pl.String))
        wanted = pl.DataFrame({previous.contract.entity_key: rows[champion.entity_key].gather(here), "_place": here})
        joined = wanted.join(own, on=previous.contract.entity_key, how="inner", maintain_order="left")
        _fill(probability, joined["_place"].to_numpy(), joined.to_pandas(), previous)
    left = np.flatnonzero(logged & np.isnan(probability))
    if len(left):
        _fill(probability, left, _given(rows[left]), previous)
    return probability


def _given(rows: pl.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([json.loads(text) for text in rows["features"]])


def _fill(probability: np.ndarray, places: np.ndarray, features: pd.DataFrame, payload: Payload) -> None:
    if len(places) and set(payload.contract.feature_names) <= set(features.columns):
        probability[places] = predict(payload.pipeline, features, payload.contract)
