"""A shop in which two releases meet: real features, labels and pipelines; who was silent for long leaves."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import skops.io

from feature_repo.contract import CONTRACT
from models.contract import Contract
from models.decision import Decision
from models.training.estimators import fit_pipeline
from tasks.data.lake import write_partition
from tasks.data.sources import Sources, TableSource
from tasks.features.snapshots import build_snapshot, read_labels
from tasks.release import releases, rollouts
from tasks.release.rollouts import RolloutRow
from tasks.state import now, record_decision
from tests.tasks.conftest import Shop, day, make_shop

PEOPLE = [f"c{number:04}" for number in range(1200)]
CUT = "2024-02-01"
MATURE = "2024-03-08"  # 30 days of horizon and 5 of label delay after the cut, and a day
FITTED: dict[tuple[str, bool], Any] = {}  # by contract, and whether wrong
CONTACTS = ("customer_id", "contacted_at", "arrived_at")


@dataclass
class World:
    """A shop with an order of everybody in January; who had been silent for long orders no more."""

    shop: Shop
    orders_only: Contract
    stays: np.ndarray  # (n,) bool

    def pipeline(self, contract: Contract, *, wrong: bool = False) -> Any:
        """Fitted on the cut itself; a wrong one takes those who leave for those who stay."""
        known = (contract.fingerprint, wrong)
        if known in FITTED:
            return FITTED[known]
        rows = self.snapshot(contract)
        left = ~self.stays[[int(entity[1:]) for entity in rows[contract.entity_key]]]
        FITTED[known] = fit_pipeline("logistic", rows.to_pandas(), (left != wrong).astype(int), contract,
                                     random_state=0)
        return FITTED[known]

    def snapshot(self, contract: Contract, cut: str = CUT) -> pl.DataFrame:
        return pl.read_parquet(build_snapshot(contract, None, home=self.shop.home, engine=self.shop.engine,
                                              cut=day(cut)))

    def release(self, name: str, contract: Contract, pipeline: Any) -> str:
        """A Bento's payload in the store, and the release in our state."""
        folder = self.shop.home.bentoml / "bentos" / "churn" / name / "src" / "release"
        write_release(folder, contract, pipeline, self.shop, self.snapshot(contract).head(10).to_pandas())
        release_id = f"churn:{name}"
        releases.register_release(self.shop.engine, release_id=release_id, model_version=name, run_id="run",
                                  fingerprint=contract.fingerprint, as_of=CUT, auc=0.8, monthly_value=1)
        return release_id

    def promote(self, release_id: str, *, at: str = CUT, ledger: bool = True) -> RolloutRow:
        engine = self.shop.engine
        opened = rollouts.open_new(engine, release_id=release_id, strategy="basic", who="ada", why="test")
        assert rollouts.close(engine, opened, state="champion", reason="test")
        if ledger:
            record_decision(engine, Decision("release", "release", "test", {"rollout_id": opened.rollout_id}),
                            as_of=day(at), subject=release_id)
        return rollouts.read_rollout(engine, opened.rollout_id)

    def contact(self, *people: str) -> None:
        folder = self.shop.home.landing / "contacts"
        folder.mkdir(parents=True, exist_ok=True)
        rows = ["c0000,2023-12-01,2023-12-01", *(f"{one},2024-02-05,2024-02-05" for one in people)]
        (folder / "a.csv").write_text("\n".join([",".join(CONTACTS), *rows]) + "\n", encoding="utf-8")

    def log(
        self, release_id: str, rows: pl.DataFrame, probability: Sequence[float], *, role: str = "served",
        cut: str = CUT, at: str | None = None,
    ) -> None:
        """Shipped predictions of these rows of a snapshot."""
        features = [name for name in rows.columns if name not in ("customer_id", "event_timestamp",
                                                                  "created_timestamp", "eligible")]
        moment = datetime.fromisoformat(at or now())
        frame = pl.DataFrame({
            "at": [moment] * len(rows), "request_id": [uuid.uuid4().hex for _ in range(len(rows))],
            "row": [0] * len(rows), "attempt": [1] * len(rows), "release_id": release_id, "model_version": "1",
            "entity": rows["customer_id"], "features_as_of": [day(cut)] * len(rows), "probability": probability,
            "action": "leave", "why": "no_value", "expected_value": 0.0, "degraded": [[]] * len(rows),
            "features": [json.dumps(row) for row in rows.select(features).iter_rows(named=True)], "route": "get",
            "role": role,
        }).with_columns(pl.col("at", "features_as_of").dt.cast_time_unit("us"),
                        pl.col("degraded").cast(pl.List(pl.String)), pl.col("row", "attempt").cast(pl.Int32))
        folder = self.shop.home.lake / "predictions" / f"date={moment:%Y-%m-%d}"
        write_partition(frame, folder / f"part-{uuid.uuid4().hex}.parquet")


def write_release(folder: Path, contract: Contract, pipeline: Any, shop: Shop, golden: pd.DataFrame) -> None:
    folder.mkdir(parents=True)
    skops.io.dump(pipeline, folder / "pipeline.skops")
    (folder / "contract.json").write_text(contract.to_json(), encoding="utf-8")
    (folder / "charter.json").write_text(shop.charter.model_dump_json(), encoding="utf-8")
    (folder / "release.json").write_text(json.dumps({
        "model_version": "1", "run_id": "run", "as_of": CUT, "fingerprint": contract.fingerprint,
        "feature_service": contract.service_name, "feature_view": contract.view_name, "threshold": 0.3,
        "holdout_salt": shop.charter.name, "estimator": "logistic", "importance": {}}), encoding="utf-8")
    features = golden[contract.feature_names]
    probability = pipeline.predict_proba(features)[:, 1]
    features.assign(expected_probability=probability).to_parquet(folder / "golden.parquet")
    features.assign(churn_probability=probability).to_parquet(folder / "reference.parquet")


def make_world(folder: Path) -> World:
    """A new one, loaded as of the cut, with its snapshots."""
    world = describe_world(folder)
    shop = world.shop
    shop.write("customers", *(f"{one},2024-01-01,2023-06-01,1980,basic,search,2024-01-01" for one in PEOPLE))
    shop.write("orders", *(f"a{one},{one},2024-01-{31 - days:02},1,10.00,2024-01-31"
                           for one, days in zip(PEOPLE, _silent(), strict=True)),
               *(f"b{one},{one},2024-02-20,1,10.00,2024-02-20"
                 for one, stay in zip(PEOPLE, world.stays, strict=True) if stay))
    world.contact()
    shop.ingest(CUT)
    for contract in (shop.contract, world.orders_only):
        world.snapshot(contract)
    return world


def copy_world(made: Path, folder: Path) -> World:
    """The same world in another folder."""
    shutil.copytree(made, folder, dirs_exist_ok=True)
    world = describe_world(folder)
    shutil.copytree(made / "landing", folder / "landing", dirs_exist_ok=True)
    return world


def describe_world(folder: Path) -> World:
    """The world of a folder that holds one; its first source files are written anew."""
    shop = make_shop(folder)
    tables = {**shop.sources.tables, "contacts": TableSource(
        path=str(shop.home.landing / "contacts/*.csv"), columns={name: name for name in CONTACTS})}
    shop.sources = Sources(tables=tables)
    shop.contract = CONTRACT.effective(tables, eligible_within_days=60)
    stays = np.random.default_rng(1).random(len(PEOPLE)) < 1 / (1 + np.exp((_silent() - 16) / 4))
    return World(shop, CONTRACT.effective(["orders"], eligible_within_days=60), stays)


def _silent() -> np.ndarray:
    return np.random.default_rng(0).integers(2, 28, len(PEOPLE))


def labels_of(world: World, as_of: str = MATURE) -> pl.DataFrame:
    return read_labels(world.shop.contract, problem=world.shop.charter.problem, home=world.shop.home,
                       engine=world.shop.engine, cuts=[day(CUT)], as_of=day(as_of))
