"""A tiny but real release for tests: contract, fitted pipeline, golden rows, and a Feast store to read from."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from sklearn.pipeline import Pipeline

from models.charter import Charter
from models.contract import Check, Column, Contract
from models.serving.features_online import online_config
from models.serving.scorer import feature_frame
from models.training.estimators import EstimatorName, make_pipeline

AS_OF = datetime(2025, 1, 1, tzinfo=UTC)
VIEW = "features_tiny"
SALT = "tiny"
KEY = b"0123456789abcdef0123456789abcdef"
CHARTER: dict[str, Any] = {
    "name": "tiny",
    "problem": {"horizon_days": 30, "first_as_of": "2025-01-01"},
    "value": {"customers": 100, "monthly_churners": 10, "share_found": 0.5, "share_who_stay": 0.5,
              "worth_of_saved": 60, "cost_of_contact": 4, "contact_budget": 10, "holdout_share": 0},
    "requirements": {"max_feature_age_days": 35},
}


def tiny_contract() -> Contract:
    """Two numbers (one a count, one that may be null) and a word."""
    at_least_zero = Check("greater_than_or_equal_to(0)", "accuracy", "visits is below 0")
    return Contract(
        entity_key="member_id", label="left", tables=(), sql={},
        snapshot=(
            Column("member_id", "string", "entity_key", "id", "who"),
            Column("active", "bool", "eligible", "flag", "may be scored"),
            Column("visits", "int64", "numeric", "count", "visits in 30 days", checks=(at_least_zero,)),
            Column("spend", "float64", "numeric", "currency", "spent in 30 days", nullable=True),
            Column("tier", "string", "categorical", "tier", "what was bought", nullable=True,
                   categories=("gold", "silver")),
        ),
    )


def tiny_rows(count: int = 200) -> pd.DataFrame:
    """Rows of the tiny contract's features, some of them missing."""
    rng = np.random.default_rng(3)
    rows = pd.DataFrame({
        "visits": rng.poisson(4, count).astype("float64"),
        "spend": rng.gamma(2, 20, count),
        "tier": rng.choice(np.array(["gold", "silver", None], dtype=object), count),
    })
    rows.loc[::9, "spend"] = np.nan
    return rows


def tiny_pipeline(rows: pd.DataFrame, estimator: EstimatorName = "logistic") -> Pipeline:
    """A model as training makes one, for which few visits mean churn."""
    pipeline: Pipeline = make_pipeline(estimator, tiny_contract(), random_state=7)
    return pipeline.fit(feature_frame(rows, tiny_contract()), (rows["visits"] < 4).astype(int))


def write_payload(
    folder: Path, *, golden_off_by: float = 0.0, estimator: EstimatorName = "logistic", explanations: int = 3,
    **manifest: Any,
) -> Path:
    """Write a release as training hands it over; `golden_off_by` spoils the third golden row."""
    folder.mkdir(parents=True, exist_ok=True)
    contract, rows = tiny_contract(), tiny_rows()
    pipeline = tiny_pipeline(rows, estimator)
    skops.io.dump(pipeline, folder / "pipeline.skops")
    (folder / "contract.json").write_text(contract.to_json(), encoding="utf-8")
    charter = Charter.model_validate(CHARTER | {"requirements": {**CHARTER["requirements"],
                                                                 "explanations": explanations}})
    (folder / "charter.json").write_text(charter.model_dump_json(), encoding="utf-8")
    document = {"model_version": "3", "run_id": "r1", "as_of": AS_OF.isoformat(), "fingerprint": contract.fingerprint,
                "feature_service": contract.service_name, "feature_view": VIEW, "threshold": 0.3,
                "holdout_salt": SALT, "estimator": estimator, **manifest}
    (folder / "release.json").write_text(json.dumps(document), encoding="utf-8")
    golden = rows.head(20).assign(expected_probability=pipeline.predict_proba(rows.head(20))[:, 1])
    golden.loc[2, "expected_probability"] += golden_off_by
    golden.to_parquet(folder / "golden.parquet")
    rows.to_parquet(folder / "reference.parquet")
    return folder


def write_store(
    folder: Path, *, drop: str | None = None, online: str | None = None, project: str = "churn"
) -> tuple[str, Path]:
    """Apply and fill a Feast store with members `m1`, `m2` and `gone`; returns registry URL and online file.

    `m1` visits rarely, `m2` often, `gone` is not active and has no spend; `drop` leaves a field out, `online`
    is another store than a file in the folder.
    """
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Bool, Float64, Int64, String

    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({
        "member_id": ["m1", "m2", "gone"], "active": [True, True, False], "visits": [1, 9, 2],
        "spend": [12.5, 80.0, None], "tier": ["gold", "silver", None],
        "event_timestamp": pd.Series([AS_OF] * 3).astype("datetime64[us, UTC]"),
        "created_timestamp": pd.Series([AS_OF] * 3).astype("datetime64[us, UTC]"),
    })
    frame.to_parquet(folder / "snapshot.parquet")
    registry, file = f"sqlite:///{folder}/registry.db", folder / "online.db"
    store = FeatureStore(config=RepoConfig(
        project=project, provider="local", registry={"registry_type": "sql", "path": registry},
        online_store=online_config(online or str(file), seconds=5), offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
    ))
    types = {"active": Bool, "visits": Int64, "spend": Float64, "tier": String}
    member = Entity(name="member_id", join_keys=["member_id"], value_type=ValueType.STRING)
    source = FileSource(path=str(folder / "snapshot.parquet"), timestamp_field="event_timestamp",
                        created_timestamp_column="created_timestamp")
    view = FeatureView(name=VIEW, entities=[member], source=source, online=True,
                       schema=[Field(name=name, dtype=dtype) for name, dtype in types.items() if name != drop])
    store.apply([member, view, FeatureService(name=tiny_contract().service_name, features=[view])])
    store.write_to_online_store(VIEW, frame.drop(columns=[drop] if drop else []), allow_registry_cache=False)
    return registry, file
