"""The model card of a version: what it is for, how well it does, for whom it does worst, and who answers for it.

The parts follow Mitchell et al., Model Cards for Model Reporting (2019), section 4: details, intended use, factors,
metrics, evaluation and training data, analyses, ethical considerations, caveats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from models.card.document import Banner, Document, Section, Text
from models.card.facts import (
    data_section,
    importance_section,
    pictures_section,
    provenance_section,
    scores_section,
    segments_section,
    verdicts_section,
)
from models.card.key_metrics import key_metrics
from models.card.limits import law_section, limits_section, people_section, use_section
from models.card.views import views_blocks
from models.charter import Charter
from models.contract import Contract
from models.decision import Decision
from models.evaluation.result import Evaluation


@dataclass(frozen=True)
class Verdict:
    """A row of the ledger: a decision, and when it fell."""

    decision: Decision
    at: str  # ISO 8601
    as_of: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """Everything a card says. What is not known is said to be unknown, never left out."""

    version: str | None  # None: it was not registered
    as_of: datetime
    charter: Charter
    contract: Contract
    estimator: str
    threshold: float
    evaluation: Evaluation | None
    verdicts: Sequence[Verdict]  # oldest first
    importance: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)  # what it is compared with -> money a cut
    data: Mapping[str, str] = field(default_factory=dict)  # fact -> text
    quality: str | None = None  # the scorecard's line
    provenance: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    reasons: Sequence[str] = ()  # of example customers, a sentence each
    plots: Mapping[str, bytes] = field(default_factory=dict)  # name -> PNG
    hypothesis: str = ""

    @property
    def title(self) -> str:
        version = f"version {self.version}" if self.version else "a model that was not registered"
        return f"Model card: {self.charter.name}, {version}"

    @property
    def promotion(self) -> Decision | None:
        """The gate's verdict, the last one where there are several."""
        return next((one.decision for one in reversed(self.verdicts) if one.decision.gate == "promotion"), None)


def card_document(card: ModelCard) -> Document:
    """The card as a document; `models.card.document` writes it as HTML or Markdown."""
    problem, promotion = card.charter.problem, card.promotion
    metrics = key_metrics(card.evaluation.scores if card.evaluation else {}, card.charter)
    verdict = (Banner("The promotion gate has given no verdict on this model.", False) if promotion is None else
               Banner(f"Promotion gate: {promotion.verdict}: {promotion.reason}", promotion.verdict == "promote"))
    hypothesis = (Text(f"Hypothesis: {card.hypothesis}"),) if card.hypothesis else ()
    lead = (f"Says for each customer how likely they churn within {problem.horizon_days} days; a {card.estimator} "
            f"model of {len(card.contract.features)} features, trained on what was known at {card.as_of:%Y-%m-%d}.")
    return Document(card.title, lead, (
        Section("Verdict", (verdict, *hypothesis)),
        Section("Three views of it", views_blocks(metrics, card.charter)),
        use_section(card),
        data_section(card),
        scores_section(card),
        pictures_section(card),
        segments_section(card),
        importance_section(card),
        limits_section(card, metrics),
        law_section(card),
        people_section(card),
        verdicts_section(card),
        provenance_section(card),
    ))
