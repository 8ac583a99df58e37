"""The sample world lived through: months of loads and batches by one champion that is never retrained."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl

from examples.shop.generate import write_world
from examples.shop.law import World
from feature_repo.contract import CONTRACT, RAW_TABLES, Snapshot
from models.charter import load_charter
from models.decision import Decision
from models.training.estimators import fit_pipeline
from tasks.data.ingest import ingest_sources
from tasks.data.sources import load_sources
from tasks.features.snapshots import build_snapshots, read_labels
from tasks.home import Home
from tasks.monitoring.truth import TruthReport, follow_truth
from tasks.release import releases, rollouts
from tasks.scoring.score import score_snapshot
from tasks.state import open_state, record_decision
from tests.tasks.conftest import REPO, Shop
from tests.tasks.release.bake_world import write_release

TRAIN = range(5, 11)  # months; the champion is released in month 12
RELEASED = 12


@dataclass
class Life:
    """The shop, and what its truth really is."""

    shop: Shop
    law: World

    @property
    def truth(self) -> dict[int, dict[str, Any]]:
        """By month, what `examples.shop.truth` wrote: churn rate, AUC of who knows the law, of the law before."""
        path = self.shop.home.landing / "truth" / "truth.json"
        return {one["month"]: one for one in json.loads(path.read_text(encoding="utf-8"))["months"]}

    def ingest(self, month: int) -> datetime:
        shop, as_of = self.shop, self.law.cut(month)
        ingest_sources(shop.sources, shop.contract, RAW_TABLES, charter=shop.charter, home=shop.home,
                       engine=shop.engine, root=REPO, as_of=as_of)
        return as_of

    def live(self, month: int) -> TruthReport:
        """Load, score, and follow the truth of one month."""
        shop, as_of = self.shop, self.ingest(month)
        score_snapshot(charter=shop.charter, home=shop.home, engine=shop.engine, as_of=as_of)
        return self.follow(as_of)

    def follow(self, as_of: datetime) -> TruthReport:
        shop = self.shop
        return follow_truth(shop.home, shop.engine, shop.charter, shop.contract, as_of=as_of)


def begin_life(folder: Path, law: World) -> Life:
    """The world's files, the load of month 12, and a champion trained on what was mature then."""
    home = Home(folder)
    write_world(home.landing, law)
    charter = load_charter(REPO / "charter.yaml")
    charter = charter.model_copy(update={"promotion": charter.promotion.model_copy(update={"least_auc": 0.7})})
    sources = load_sources(REPO / "feature_repo/sources.yaml", CONTRACT, variables={"CHURN_HOME": str(folder)})
    contract = CONTRACT.effective(sources.tables, eligible_within_days=charter.problem.eligible_within_days)
    life = Life(Shop(home, open_state(home.state_url), charter, contract, sources), law)
    as_of = life.ingest(RELEASED)
    pipeline, golden = _fit(life, [law.cut(month) for month in TRAIN], as_of)
    write_release(home.bentoml / "bentos/churn/v1/src/release", contract, pipeline, life.shop, golden)
    engine = life.shop.engine
    releases.register_release(engine, release_id="churn:v1", model_version="1", run_id="run",
                              fingerprint=contract.fingerprint, as_of=f"{as_of:%Y-%m-%d}", auc=0.8, monthly_value=1)
    opened = rollouts.open_new(engine, release_id="churn:v1", strategy="basic", who="ada", why="test")
    assert rollouts.close(engine, opened, state="champion", reason="test")
    record_decision(engine, Decision("release", "release", "test", {"rollout_id": opened.rollout_id}), as_of=as_of,
                    subject="churn:v1")
    return life


def _fit(life: Life, cuts: Sequence[datetime], as_of: datetime) -> tuple[Any, pd.DataFrame]:
    shop = life.shop
    paths = build_snapshots(shop.contract, Snapshot, home=shop.home, engine=shop.engine, cuts=cuts)
    labels = read_labels(shop.contract, problem=shop.charter.problem, home=shop.home, engine=shop.engine, cuts=cuts,
                         as_of=as_of)
    rows = pl.concat([pl.read_parquet(path) for path in paths]).filter(pl.col(shop.contract.eligible)).join(
        labels, on=[shop.contract.entity_key, "event_timestamp"], how="inner").to_pandas()
    pipeline = fit_pipeline("logistic", rows, rows[shop.contract.label].astype(int), shop.contract, random_state=0)
    return pipeline, rows.head(10)


def print_life(folder: Path, law: World, *, until: int) -> Life:
    """One line a month, for who looks at it."""
    life = begin_life(folder, law)
    for month in range(RELEASED, until + 1):
        begun = time.process_time()
        report = life.live(month)
        print(f"month {month:2d}: labels {report.labels.state}, performance {report.performance.state} "
              f"({time.process_time() - begun:.1f} CPU s): {report.performance.reason}", flush=True)
    return replace(life)
