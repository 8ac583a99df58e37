"""A home with one finished training of `card_model` in a real MLflow store: what a card is made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import skops.io
import sqlalchemy as sa

from models.cuts import CutPlan
from models.decision import Decision
from models.serving.scorer import feature_frame, predict
from models.training.estimators import make_pipeline
from models.training.fit import TrainingConfig
from tasks.home import Home
from tasks.state import open_state, record_decision
from tasks.training.plots import draw_evaluation
from tasks.training.provenance import Provenance
from tasks.training.record import Dataset, Record, write_record
from tasks.training.tracking import Run, training_run
from tests.card_model import CONTRACT, charter, evaluation, made_rows

AS_OF = datetime(2025, 1, 1, tzinfo=UTC)
CUT = datetime(2024, 11, 1, tzinfo=UTC)


@dataclass
class Trained:
    """A store with one finished run that became version 1."""

    home: Home
    engine: sa.Engine
    run: Run


def make_trained(folder: Path) -> Trained:
    """A home in a folder, with a run that left everything and won as version 1."""
    home = Home(folder)
    engine = open_state(home.state_url)
    found, rows = evaluation(), made_rows()
    with training_run(home, charter(), name="train 2025-01-01") as run:
        write_record(run, Record(
            run_id=run.run_id, hypothesis="Silence tells.", as_of=AS_OF, config=TrainingConfig(), charter=charter(),
            contract=CONTRACT, dataset=Dataset("66a2c660d7b6", AS_OF.isoformat(), ()), cuts=CutPlan((CUT,), (AS_OF,)),
            training_set="set.parquet", content="0123456789abcdef", snapshots={},
            provenance=Provenance("abc123", True, "clean", lock="beef", libraries={"numpy": "2.2"}, python="3.11.2"),
            rows={"train": 5000, "test": len(rows)}, timings={"fit": 1.5},
            metrics={**found.as_metrics(), "importance/silent": 0.9, "baseline/value/silent": 7.0,
                     "threshold": 0.31},
            params={"estimator": "logistic", "model.C": 0.1},
        ))
        run.text(json.dumps(found.to_dict()), "evaluation.json")
        run.figures(draw_evaluation(found), "plots")
        payload = home.root / "payload"
        payload.mkdir()
        pipeline = make_pipeline("logistic", CONTRACT, random_state=1).fit(
            feature_frame(rows, CONTRACT), rows["left"])
        skops.io.dump(pipeline, payload / "pipeline.skops")
        (payload / "contract.json").write_text(CONTRACT.to_json())
        features = rows[CONTRACT.feature_names].head(40)
        features.assign(expected_probability=predict(pipeline, features, CONTRACT)).to_parquet(
            payload / "golden.parquet")
        features.assign(churn_probability=predict(pipeline, features, CONTRACT)).to_parquet(
            payload / "reference.parquet")
        run.folder(payload, "payload")
    run.client.create_registered_model("club")
    run.client.create_model_version("club", str(payload), run.run_id, description="**Hypothesis:** Silence tells.")
    record_decision(engine, Decision("go", "go", "design: enough data", {"stage": "design"}), subject="set.parquet",
                    as_of=AS_OF)
    record_decision(engine, Decision("promotion", "promote", "first model: better than one column", {
        "run_id": run.run_id, "model_version": "1"}), subject="1", as_of=AS_OF)
    return Trained(home, engine, run)
