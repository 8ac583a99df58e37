"""A small experiment for the tests of tracking, registration and reproduction: a world of two numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.charter import Charter
from models.contract import Column, Contract
from models.cuts import CutPlan
from models.decision import Decision
from models.training.fit import Candidate, TrainingConfig, fit_candidate, split_rows
from tasks.home import Home
from tasks.training.provenance import Provenance
from tasks.training.record import Dataset, Record

CUTS = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3)]
PLAN = CutPlan(train=tuple(CUTS[:2]), test=(CUTS[2],))
AS_OF = datetime(2024, 5, 1, tzinfo=UTC)
CONTRACT = Contract("id", "left", (), (
    Column("id", "string", "entity_key", "id", "who"),
    Column("eligible", "bool", "eligible", "flag", "may be scored"),
    Column("silent", "float64", "numeric", "days", "since the last visit", minimum=0),
    Column("noise", "float64", "numeric", "count", "nothing"),
), {})
CHARTER = Charter(
    name="test", problem={"horizon_days": 30},
    value={"customers": 100, "monthly_churners": 20, "share_found": 0.5, "share_who_stay": 0.5, "worth_of_saved": 10,
           "contact_budget": 40},
)
CONFIG = TrainingConfig(trials=2)
WINS = Decision("promotion", "promote", "better by 10 a cut", {"gain": 10.0})
LOSES = Decision("promotion", "keep", "equal", {"gain": 0.0})
MADE_WITH = Provenance("abc", True, "clean", {"models/training/fit.py": "111"}, "222", {"numpy": "2.0"}, "3.11",
                       "Linux")


@cache
def rows() -> pd.DataFrame:
    """Each of 200 customers at three cuts; who has been silent leaves."""
    rng = np.random.default_rng(1)
    frames = []
    for cut in CUTS:
        silent = rng.gamma(2, 10, 200)
        frames.append(pd.DataFrame({
            "id": [f"c{number:03d}" for number in range(200)], "event_timestamp": cut,
            "left": (rng.random(200) < 1 / (1 + np.exp(-(silent - 30) / 6))).astype(int),
            "silent": silent, "noise": rng.normal(size=200),
        }))
    return pd.concat(frames, ignore_index=True)


@cache
def candidate() -> Candidate:
    train, test = split_rows(rows(), PLAN)
    return fit_candidate(train, test, CONTRACT, CHARTER, CONFIG)


def record(**changes: Any) -> Record:
    """A record whose parts are of the types and shapes of a real one."""
    return Record(**{
        "run_id": "r1", "hypothesis": "silence tells", "as_of": AS_OF, "config": CONFIG, "charter": CHARTER,
        "contract": CONTRACT, "dataset": Dataset("d1", AS_OF.isoformat(), ()), "cuts": PLAN,
        "training_set": "a.parquet", "content": "c1", "snapshots": {"2024-01-01": "s1"}, "provenance": MADE_WITH,
        "rows": {"train": 400, "test": 200},
        "metrics": {"auc": 0.8123456789012345, "lift": float("nan")}, "search": {"finished": 2},
        **changes,
    })


def home_of(folder: Path | str) -> Home:
    return Home(Path(folder), CHARTER.name)
