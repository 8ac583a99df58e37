"""A model on made-up customers for tests of the card: contract, charter, rows, scores and their evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from models.charter import Charter
from models.contract import Column, Contract
from models.evaluation.evaluate import evaluate_scores
from models.evaluation.result import Evaluation
from models.evaluation.segments import segment_levels

CONTRACT = Contract(
    entity_key="member_id", label="left", tables=(), sql={},
    snapshot=(
        Column("member_id", "string", "entity_key", "id", "who"),
        Column("active", "bool", "eligible", "flag", "may be scored"),
        Column("silent", "float64", "numeric", "days", "days since the last visit", sign=1, owner="data engineer",
               group="recency", reason="no visit for {value} days", reason_low="a visit {value} days ago",
               segment=True),
        Column("visits", "float64", "numeric", "count", "visits in 30 days", sign=-1, owner="data engineer",
               group="frequency", reason="{value} visits", reason_low="only {value} visits"),
        Column("tier", "string", "categorical", "tier", "what was bought", nullable=True, segment=True,
               categories=("gold", "silver", "<script>alert(1)</script>")),
    ),
)
CHARTER: dict[str, Any] = {
    "name": "club", "problem": {"horizon_days": 30, "first_as_of": "2025-01-01", "eligible_within_days": 60},
    "value": {"customers": 1200, "monthly_churners": 240, "share_found": 0.4, "share_who_stay": 0.5,
              "price_a_month": 70, "discounted_price": 60, "cost_of_contact": 4, "contact_budget": 200},
    "requirements": {"compliance": ["A score never raises a price."], "protected": ["tier"],
                     "running_cost_a_month": 100, "budget_a_month": 2000},
    "metrics": {"data scientist": {"auc": 0.7, "brier": 0.05}, "stakeholder": {"value_a_month": 1000}},
}


def charter(**requirements: Any) -> Charter:
    return Charter.model_validate({**CHARTER, "requirements": {**CHARTER["requirements"], **requirements}})


def made_rows(count: int = 1200, seed: int = 5) -> pd.DataFrame:
    """Who was silent for long leaves; one tier is called like a script."""
    rng = np.random.default_rng(seed)
    silent = rng.gamma(2, 10, count)
    return pd.DataFrame({
        "member_id": [f"m{number}" for number in range(count)], "active": True, "silent": silent,
        "visits": rng.poisson(np.clip(8 - silent / 8, 0.2, None)).astype(float),
        "tier": rng.choice(np.array([*CONTRACT.features[-1].categories, None], dtype=object), count,
                           p=[0.45, 0.4, 0.1, 0.05]),
        "left": (rng.random(count) < 1 / (1 + np.exp(-(silent - 32) / 8))).astype(int),
    })


def scores_of(rows: pd.DataFrame) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-(rows["silent"] - 32) / 8)))


def evaluation(rows: pd.DataFrame | None = None) -> Evaluation:
    rows = made_rows() if rows is None else rows
    return evaluate_scores(rows["left"].to_numpy(), scores_of(rows), rows["member_id"].to_numpy(),
                           value=charter().value, segments=segment_levels(rows, CONTRACT), resamples=100,
                           random_state=1)
