"""A second project on the same features: what a customer will spend in the next 90 days."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.contract import Contract


@dataclass(frozen=True)
class Project:
    """What is predicted, from which features of the contract's view, and what it must beat."""

    name: str
    description: str
    sql: str  # file in feature_repo/: entity key and target, for $cut, $window_end and $as_of
    target: str
    horizon_days: int
    baseline: str  # the feature that says "as before"
    reads: tuple[str, ...]

    def features(self, contract: Contract) -> list[str]:
        """What it reads of a contract; nothing where that lacks the baseline."""
        known = contract.feature_names
        return [name for name in self.reads if name in known] if self.baseline in known else []

    def service_name(self, contract: Contract) -> str:
        """The Feast feature service of this project and contract."""
        return f"{self.name}_{contract.fingerprint}"

    def text(self) -> str:
        return (Path(__file__).parent / self.sql).read_text(encoding="utf-8")


VALUE: Final = Project(
    name="value",
    description="what predicts the money a customer will spend in the next 90 days",
    sql="value.sql",
    target="value_90d",
    horizon_days=90,
    baseline="spend_90d",
    reads=("recency_days", "first_order_days", "orders_30d", "orders_90d", "orders_180d", "orders_total", "spend_30d",
           "spend_90d", "spend_180d", "spend_total", "mean_order", "mean_gap_days", "gap_variation_180d",
           "overdue_ratio", "age_years", "plan"),
)
