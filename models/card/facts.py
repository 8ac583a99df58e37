"""Sections of the model card that report: data, scores, pictures, segments, importance, verdicts, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Final

from models.card.document import Block, Bullets, Picture, Section, Table, Text
from models.evaluation.bootstrap import Interval

if TYPE_CHECKING:
    from models.card.model_card import ModelCard

WORDS: Final[Mapping[str, tuple[str, str]]] = {  # score -> label, how to read it
    "auc": ("ROC AUC", "chance that a churner ranks above one who stays; 0.5 is chance"),
    "average_precision": ("average precision", "precision over all ranks; the churn rate is chance"),
    "brier": ("Brier score", "mean squared error of the probability; lower is better"),
    "log_loss": ("log loss", "lower is better"),
    "calibration_slope": ("calibration slope", "1 is calibrated, below 1 too sure of itself"),
    "calibration_intercept": ("calibration intercept", "0 is calibrated, above 0 too few churners expected"),
    "lift": ("lift", "churn rate of those contacted over that of all"),
    "churners_found": ("churners found", "share of all churners among those contacted"),
    "value": ("value a cut", "money the contacts would have brought, their cost paid"),
}
PICTURES: Final[Mapping[str, str]] = {
    "roc": "ROC curve: churners found against stayers contacted, with the band of its bootstrap.",
    "calibration": "Calibration: of customers given a probability, the share who left. On the diagonal is right.",
    "gain": "Gain: churners found by contacting the first so many; the contact budget is marked.",
    "profit": "Profit by number of contacts; the contact budget is marked.",
    "segments": "AUC of each segment, with its interval.",
    "importance": "Importance: share of the ranking lost when a feature is shuffled.",
}
NO_BREAK: Final = "\u00a0"  # an interval stays on one line
MOST_FEATURES: Final = 15
SIGNS: Final = {1: "more of it, more churn", -1: "more of it, less churn", 0: "not stated"}


def data_section(card: ModelCard) -> Section:
    """Which data trained it and which judged it."""
    problem, found = card.charter.problem, card.evaluation
    silent = problem.eligible_within_days
    eligible = (f"customers whose last event is at most {silent} days old" if silent else "every customer known")
    rows = [*card.data.items()]
    if found is not None:
        share = found.churners / max(found.rows, 1)
        rows.append(("test rows", f"{found.rows:,}, of them {found.churners:,} churners ({share:.1%})"))
    rows.append(("quality of the last load", card.quality or "not known: no scorecard was recorded"))
    return Section("Data", (
        Text(f"A row is a customer at a cut: features of what was known before it, and the label: whether they "
             f"churned within {problem.horizon_days} days from it. In it are {eligible}. Training cuts end their label "
             f"windows before the test cut begins, and a label counts {problem.maturity.days} days after its cut."),
        Table(("fact", "value"), tuple(rows), empty="No fact about the data was recorded."),
    ))


def scores_section(card: ModelCard) -> Section:
    """Every score with its interval, and what it is compared with."""
    found = card.evaluation
    if found is None:
        return Section("Scores", (Text("No evaluation was recorded: nothing is known of how good this model is."),))
    rows = tuple(
        (label, _number(name, found.scores[name].value), _interval(name, found.scores[name]), meaning)
        for name, (label, meaning) in WORDS.items() if name in found.scores)
    blocks: list[Block] = [
        Text(f"Measured once, on rows later than all training rows; {found.confidence:.0%} intervals by bootstrap over "
             f"customers. {found.contacted:,} customers are within the contact budget."),
        Table(("score", "value", f"{found.confidence:.0%} interval", "how to read it"), rows),
    ]
    if card.baselines:
        value = found.scores.get("value")
        compared = {_simpler(name): money for name, money in card.baselines.items()}
        if value is not None:
            compared["this model"] = value.value
        blocks += [Text("Money a cut, beside what is simpler:"), Table(
            ("who is contacted", "money a cut"),
            tuple((name, _number("value", money)) for name, money in sorted(
                compared.items(), key=lambda item: -item[1] if isfinite(item[1]) else float("inf"))))]
    return Section("Scores", tuple(blocks))


def pictures_section(card: ModelCard) -> Section:
    """The plots, in the order of `PICTURES`."""
    order = [*(name for name in PICTURES if name in card.plots), *(name for name in card.plots if name not in PICTURES)]
    pictures = tuple(Picture(card.plots[name], PICTURES.get(name, name)) for name in order)
    return Section("Pictures", pictures or (Text("No plot was recorded."),))


def segments_section(card: ModelCard) -> Section:
    """The scores of each level of the contract's segment columns; the worst is marked and named."""
    found = card.evaluation
    segments = list(found.all_segments()) if found else []
    if not segments:
        return Section("Segments", (
            Text("No segment was evaluated: how the model does for parts of the customers is not known."),))
    worst = found.worst if found else None
    rows = tuple(
        (one.name, f"{one.rows:,}", f"{one.churners:,}",
         *(("–", "–") if one.silent else (
             _number("auc", one.scores["auc"].value), _interval("auc", one.scores["auc"]))),
         _number("brier", one.scores["brier"].value), f"{one.contacted:,.0f}",
         _number("churners_found", one.scores["churners_found"].value), one.silent) for one in segments)
    said = (f"The worst is {worst}." if worst else "None has rows enough to say which is the worst.")
    silent = sum(bool(one.silent) for one in segments)
    if silent:
        said += f" Of {len(segments)}, {silent} have too few rows to say anything."
    return Section("Segments", (
        Text(said),
        Table(("segment", "rows", "churners", "AUC", "interval", "Brier", "contacted", "churners found", "remark"),
              rows, marked=frozenset(number for number, one in enumerate(segments) if one is worst)),
    ))


def importance_section(card: ModelCard) -> Section:
    """The features it leans on, and example reasons in words."""
    columns = {column.name: column for column in card.contract.features}
    ranked = sorted(card.importance.items(), key=lambda item: -item[1])
    shown = [(name, share) for name, share in ranked if share > 0][:MOST_FEATURES]
    rows = tuple(
        (name, f"{share:.1%}", columns[name].description if name in columns else "not in the contract",
         SIGNS[columns[name].sign] if name in columns else "", columns[name].owner if name in columns else "")
        for name, share in shown)
    left = len(card.contract.features) - len(shown)
    blocks: list[Block] = [
        Text("Share of the ranking (AUC) lost when a feature is shuffled, of the sum over all. Features that say the "
             f"same share it. {left} of {len(card.contract.features)} features are not shown: they carry less, or "
             "nothing."),
        Table(("feature", "share", "what it is", "stated direction", "owner"), rows,
              empty="No importance was recorded."),
    ]
    if card.charter.requirements.explanations and card.reasons:
        blocks += [Text("Reasons as the scores of three customers give them:"), Bullets(tuple(card.reasons))]
    return Section("What it looks at", tuple(blocks))


def verdicts_section(card: ModelCard) -> Section:
    """The ledger's rows about this version, and the gate's evidence."""
    rows = tuple((one.at[:16].replace("T", " "), one.decision.gate, card.charter.owner(one.decision.gate),
                  one.decision.verdict, one.decision.reason) for one in card.verdicts)
    bad = frozenset(number for number, one in enumerate(card.verdicts)
                    if one.decision.verdict in ("no go", "keep", "wait", "refuse", "roll back", "rolled back"))
    blocks: list[Block] = [Table(("when (UTC)", "gate", "owner", "verdict", "reason"), rows, marked=bad,
                                 empty="The ledger has no verdict on it.")]
    evidence = card.promotion.evidence if card.promotion else {}
    numbers = tuple((name, f"{value:,.6g}" if isinstance(value, float) else str(value))
                    for name, value in evidence.items() if value is not None)
    if numbers:
        blocks += [Text("What the promotion gate saw:"), Table(("evidence", "value"), numbers)]
    return Section("Verdicts", tuple(blocks))


def provenance_section(card: ModelCard) -> Section:
    """What it was made with, and its parameters."""
    params = tuple((name, value) for name, value in card.params.items())
    return Section("Where it comes from", (
        Table(("fact", "value"), tuple(card.provenance.items()),
              empty="Nothing was recorded: it cannot be reproduced."),
        Text("Parameters:"), Table(("parameter", "value"), params, empty="None was recorded."),
    ))


def _simpler(name: str) -> str:
    return name if name in ("nobody", "everyone") else f"by {name} alone"


def _number(name: str, value: float) -> str:
    if not isfinite(value):
        return "not known"
    if name == "value":
        return f"{value:+,.0f}"
    return f"{value:.1%}" if name == "churners_found" else f"{value:.3f}"


def _interval(name: str, found: Interval) -> str:
    if not (isfinite(found.low) and isfinite(found.high)):
        return "not known"
    return f"[{_number(name, found.low)}, {_number(name, found.high)}]".replace(" ", NO_BREAK)
