"""Who answers for what: the roles of a team, the owner of each gate, alarm and deployment, and what each role asks.

Every charter gets these defaults; its `team`, `owners` and `metrics` replace them key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

KeyMetricName = Literal["auc", "average_precision", "brier", "log_loss", "churners_found", "lift", "value_a_month"]

ENGINEER, SCIENTIST, ML_ENGINEER = "data engineer", "data scientist", "ML engineer"
EXPERT, STAKEHOLDER = "subject-matter expert", "stakeholder"

DEFAULT_TEAM: Final[Mapping[str, str]] = {
    ENGINEER: "sources, data quality, features, erasure and retention",
    SCIENTIST: "the model, its evaluation, drift",
    ML_ENGINEER: "the platform, releases and rollouts",
    EXPERT: "who is contacted, and with which offer",
    STAKEHOLDER: "the money, and go or no-go",
}
# Every gate of `models.decision.VERDICTS`, every alarm of `make status` and every deployment of prefect.yaml; a gate
# and a deployment of the same name have the same owner.
DEFAULT_OWNERS: Final[Mapping[str, str]] = {
    # gates
    "data": ENGINEER, "promotion": SCIENTIST, "smoke": ML_ENGINEER, "canary": ML_ENGINEER, "release": ML_ENGINEER,
    "shadow": ML_ENGINEER, "pause": ML_ENGINEER, "bake": ML_ENGINEER,
    "drift": SCIENTIST, "retrain": ML_ENGINEER, "erasure": ENGINEER, "retention": ENGINEER, "value": SCIENTIST,
    "study": SCIENTIST, "silence": ML_ENGINEER,
    "go": STAKEHOLDER,
    "approval": ML_ENGINEER,
    # alarms
    "platform": ML_ENGINEER, "labels": ENGINEER, "champion": ML_ENGINEER, "api": ML_ENGINEER,
    # deployments
    "promote": ML_ENGINEER, "rollback": ML_ENGINEER, "resume": ML_ENGINEER,
    "approve": ML_ENGINEER, "announce": ML_ENGINEER,
    "lifecycle": ML_ENGINEER, "ingest": ENGINEER, "redrive": ENGINEER, "features": ENGINEER, "backfill": ENGINEER,
    "ship": ENGINEER,
    "train": SCIENTIST, "score": SCIENTIST, "monitor": SCIENTIST, "reproduce": SCIENTIST,
    "card": SCIENTIST,
}


@dataclass(frozen=True)
class Measure:
    """A key metric in words."""

    label: str
    higher_is_better: bool
    form: str  # format of a level: "{:.1%}"


MEASURES: Final[Mapping[KeyMetricName, Measure]] = {
    "auc": Measure("ROC AUC", True, "{:.3f}"),
    "average_precision": Measure("average precision", True, "{:.3f}"),
    "brier": Measure("Brier score", False, "{:.3f}"),
    "log_loss": Measure("log loss", False, "{:.3f}"),
    "churners_found": Measure("churners found among the customers contacted", True, "{:.1%}"),
    "lift": Measure("lift over contacting at random", True, "{:.2f}"),
    "value_a_month": Measure("money a month, contacts paid", True, "{:+,.0f}"),
}
# What each role looks at, asked for or not.
DEFAULT_VIEWS: Final[Mapping[str, tuple[KeyMetricName, ...]]] = {
    SCIENTIST: ("auc", "brier"), EXPERT: ("churners_found", "lift"), STAKEHOLDER: ("value_a_month",),
}
