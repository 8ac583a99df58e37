from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import pytest

from models.card.document import to_html, to_markdown
from models.card.model_card import ModelCard, Verdict, card_document
from models.decision import Decision
from models.evaluation.bootstrap import Interval
from tests.card_model import CONTRACT, charter, evaluation

PNG = b"\x89PNG\r\n\x1a\n"
PROMOTED = Decision("promotion", "promote", "first model: AUC 0.801 against 0.700", {
    "gain_low": 0.05, "contact_gap.tier": 0.123456, "test_rows": 1200})


@cache
def evaluated():
    return evaluation()


def card(**changes) -> ModelCard:
    whole = ModelCard(
        version="3", as_of=datetime(2025, 1, 1, tzinfo=UTC), charter=charter(), contract=CONTRACT,
        estimator="logistic", threshold=0.31, evaluation=evaluated(), importance={"silent": 0.9, "tier": 0.1},
        baselines={"nobody": 0.0, "everyone": -120.0}, data={"dataset version": "66a2c660d7b6"},
        quality="0.996 overall",
        verdicts=(Verdict(Decision("go", "go", "design: enough"), "2025-01-01T10:00:00"),
                  Verdict(PROMOTED, "2025-01-01T10:01:00")),
        provenance={"code": "abc123 (clean)"}, params={"C": "0.1"}, reasons=("Scored 90%: no visit for 61 days.",),
        plots={"roc": PNG}, hypothesis="Silence tells.")
    return replace(whole, **changes)


def text(made: ModelCard) -> str:
    return to_markdown(card_document(made)).replace("\\", "").replace("\u00a0", " ")


def test_the_card_has_every_section_of_a_model_card():
    titles = [section.title for section in card_document(card()).sections]
    assert titles == [
        "Verdict", "Three views of it", "What it is for", "Data", "Scores", "Pictures", "Segments", "What it looks at",
        "Limits", "Law, policy and protected columns", "Who may use it, and who answers for it", "Verdicts",
        "Where it comes from"]


@pytest.mark.parametrize("said", [
    "Promotion gate: promote: first model: AUC 0.801", "Hypothesis: Silence tells.", "66a2c660d7b6", "0.996 overall",
    "A score never raises a price.", "Protected columns: tier. The model uses tier.", "contact_gap.tier | 0.1235",
    "no visit for 61 days", "days since the last visit", "more of it, more churn", "abc123 (clean)", "logistic",
    "whose probability is 0.310 or more", "everyone | -120", "promotion: data scientist", "the limit is 2,000",
    "go | stakeholder | go | design: enough",
])
def test_what_is_known_stands_in_both_forms(said):
    assert said in text(card())
    page = to_html(card_document(card())).replace("</td><td>", " | ").replace("</th><td>", " | ")
    assert said in page


def test_every_score_stands_with_its_interval():
    made = text(card())
    auc = evaluated().scores["auc"]
    assert f"ROC AUC | {auc.value:.3f} | [{auc.low:.3f}, {auc.high:.3f}]" in made
    for label in ("average precision", "Brier score", "log loss", "calibration slope", "lift", "churners found",
                  "value a cut"):
        assert f"| {label} |" in made


def test_the_worst_segment_is_named_marked_and_a_limit():
    worst = evaluated().worst
    assert f"The worst is {worst}" in text(card()).replace("&lt;", "<").replace("&gt;", ">")
    assert f"**{worst.name}**" in text(card())
    assert f"It ranks worst in {worst.name}" in text(card())


def test_the_three_views_say_what_is_asked_claimed_measured_and_met():
    """240 x 40 % x 50 % = 48 saved at 60 are 2,880 a month; 200 contacts at 4 cost 800."""
    made = text(card())
    assert "48 customers saved at 60 a month each at the discounted price are 2,880 a month, 2,080 once" in made
    assert "(16,800 a month at full price)" in made
    assert "| stakeholder | money a month, contacts paid | at least +1,000 | +2,080 |" in made
    assert "1 of 3 levels asked are not met: Brier score" in made
    assert "Brier score does not reach what the data scientist asks" in made


def test_a_value_called_like_a_script_is_shown_and_never_run():
    page = to_html(card_document(card(hypothesis="<script>alert(2)</script>")))
    assert "<script" not in page
    assert "tier: &lt;script&gt;alert(1)" in page  # the segment
    assert "&lt;script&gt;alert(2)" in page
    assert "<script" not in text(card(hypothesis="<script>alert(2)</script>"))


def test_what_is_not_known_is_said_to_be_unknown():
    made = text(card(version=None, evaluation=None, verdicts=(), importance={}, baselines={}, data={}, quality=None,
                     provenance={}, params={}, reasons=(), plots={}, hypothesis="", threshold=float("nan"),
                     charter=charter(compliance=[], protected=[])))
    for said in ("a model that was not registered", "The promotion gate has given no verdict",
                 "No evaluation was recorded",
                 "No segment was evaluated", "No plot was recorded", "no scorecard was recorded", "No importance was",
                 "The ledger has no verdict on it", "it cannot be reproduced", "names no compliance note",
                 "The charter protects no column", "It was not evaluated", "3 of 3 levels asked are not met"):
        assert said in made, said
    assert not re.search(r"\bnan\b", made, re.IGNORECASE)


def test_a_card_without_interval_or_calibration_says_so():
    nan = float("nan")
    spoilt = replace(evaluated(), scores={**evaluated().scores, "auc": Interval(0.8, nan, nan),
                                          "calibration_slope": Interval(nan, nan, nan)})
    made = text(card(evaluation=spoilt))
    assert "ROC AUC | 0.800 | not known" in made
    assert "Whether its probabilities can be taken at their word is not known." in made


def test_probabilities_that_are_too_sure_are_a_limit():
    steep = replace(evaluated(), scores={**evaluated().scores, "calibration_slope": Interval(0.6, 0.5, 0.7)})
    assert "too sure of themselves: slope 0.60, interval [0.50, 0.70]" in text(card(evaluation=steep))


def test_a_charter_that_wants_no_explanations_shows_none():
    made = text(card(charter=charter(explanations=0)))
    assert "no visit for 61 days" not in made
    assert "Scores are given without reasons." in made


def test_a_refused_model_has_a_card_that_says_no():
    page = to_html(card_document(card(verdicts=(Verdict(Decision("promotion", "keep", "equal"), "2025-01-01T10:00"),))))
    assert '<p class="banner bad">Promotion gate: keep: equal</p>' in page
