"""Sections of the model card that bound it: use, limits, law and protected columns, people."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isnan
from typing import TYPE_CHECKING

from models.card.document import Block, Bullets, Section, Table, Text
from models.card.key_metrics import KeyMetric

if TYPE_CHECKING:
    from models.card.model_card import ModelCard


def use_section(card: ModelCard) -> Section:
    """What it is for and what it is not for."""
    problem, value, requirements = card.charter.problem, card.charter.value, card.charter.requirements
    told = (f"A score may be given with its {requirements.explanations} strongest reasons." if requirements.explanations
            else "Scores are given without reasons.")
    above = "not known" if isnan(card.threshold) else f"{card.threshold:.3f} or more"
    return Section("What it is for", (
        Text(f"To choose which customers to contact before they leave: at each cut the {value.contact_budget:,} with "
             f"the most to gain, of those whose probability is {above}. {value.holdout_share:.0%} "
             f"are held out and never contacted, so that what contacts do can be measured. {told}"),
        Bullets((
            "It is not for prices, credit, refusals, or anything a customer has to fear.",
            "It does not say who changes their mind when contacted, only who is likely to leave if nothing is done.",
            f"It does not say when within the {problem.horizon_days} days somebody leaves.",
            "It is not for other markets or products than those in its data.",
        )),
    ))


def limits_section(card: ModelCard, metrics: Sequence[KeyMetric]) -> Section:
    """What is known to be weak, from its own figures; then what holds for every such model."""
    requirements, value = card.charter.requirements, card.charter.value
    return Section("Limits", (
        Bullets(tuple(_own_limits(card, metrics)), empty="Its own figures show no limit beyond those below."),
        Bullets((
            f"Features older than {requirements.max_feature_age_days:g} days mark an answer as degraded.",
            "The test is one stretch of the past. When customers change, it is no longer true; the drift check looks "
            "for that.",
            f"That {value.share_who_stay:.0%} of the churners contacted stay, and bring {value.worth_of_saved:,.10g} a "
            "month each, is the charter's assumption; no score here measures it.",
        )),
    ))


def _own_limits(card: ModelCard, metrics: Sequence[KeyMetric]) -> list[str]:
    found = card.evaluation
    limits = [f"{one.label} does not reach what the {one.role} asks: {one.text}." for one in metrics
              if one.met is False]
    limits += [f"{one.label} reaches what the {one.role} asks, but its interval does not: {one.measured_text}."
               for one in metrics if one.met and not one.surely_met]
    if found is None:
        return [*limits, "It was not evaluated."]
    slope = found.scores.get("calibration_slope")
    if slope is None or not isfinite(slope.value):
        limits.append("Whether its probabilities can be taken at their word is not known.")
    elif not slope.low <= 1 <= slope.high:
        limits.append(f"Its probabilities are {'too sure of themselves' if slope.value < 1 else 'too cautious'}: slope "
                      f"{slope.value:.2f}, interval [{slope.low:.2f}, {slope.high:.2f}].")
    if found.worst is not None:
        limits.append(f"It ranks worst in {found.worst}.")
    if found.silent_segments:
        names = [one.name for one in found.silent_segments]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        limits.append(f"Nothing can be said of {', '.join(names[:6])}{more}: too few rows.")
    silent = card.charter.problem.eligible_within_days
    if silent:
        limits.append(f"It knows nothing of customers whose last event is more than {silent} days old.")
    if card.contract.absent:
        limits.append(f"The source has no table {', '.join(card.contract.absent)}: what would follow from it is "
                      "missing.")
    return limits


def law_section(card: ModelCard) -> Section:
    """Compliance notes, and what was measured of the protected columns."""
    requirements, limits = card.charter.requirements, card.charter.promotion
    promotion = card.promotion
    seen = {name: value for name, value in (promotion.evidence if promotion else {}).items()
            if value is not None and any(name.endswith(f".{column}") for column in requirements.protected)}
    blocks: list[Block] = [Bullets(requirements.compliance, empty="The charter names no compliance note.")]
    if requirements.protected:
        inside = [name for name in requirements.protected if name in card.contract.feature_names]
        used = f" The model uses {', '.join(inside)}." if inside else " The model uses none of them."
        blocks.append(Text(
            f"Protected columns: {', '.join(requirements.protected)}.{used} Between any two of their levels the share "
            f"contacted may differ by {limits.max_contact_gap:.0%} and the share of churners found by "
            f"{limits.max_found_gap:.0%}; else the promotion gate refuses."))
        blocks.append(Table(("measured by the gate", "value"), tuple(
            (name, f"{value:,.4g}" if isinstance(value, float) else str(value)) for name, value in seen.items()),
            empty="The gate recorded no comparison of them for this model."))
    else:
        blocks.append(Text("The charter protects no column: whether groups of people are treated alike was not looked "
                           "at, beyond the segments above."))
    return Section("Law, policy and protected columns", tuple(blocks))


def people_section(card: ModelCard) -> Section:
    """Who may use it, and who answers for what."""
    charter = card.charter
    value, needs = charter.value, charter.requirements
    asked = {role: ", ".join(f"{name} {level:g}" for name, level in levels.items())
             for role, levels in charter.metrics.items()}
    roles = tuple((role, work, asked.get(role, "–")) for role, work in charter.roles.items())
    gates = ("data", "promotion", "release", "canary", "drift", "retrain", "go")
    budget = "no limit is set" if needs.budget_a_month is None else f"the limit is {needs.budget_a_month:,.0f}"
    return Section("Who may use it, and who answers for it", (
        Text("The team below. Scores and reasons are personal data: only who decides about contacts sees those of "
             "named customers."),
        Table(("role", "answers for", "level asked"), roles),
        Text("Gates: " + "; ".join(f"{gate}: {charter.owner(gate)}" for gate in gates) + "."),
        Text(f"Cost: {charter.contacts_a_month:,.0f} contacts a month at {value.cost_of_contact:,.10g} and "
             f"{needs.running_cost_a_month:,.0f} for running are {charter.cost_a_month:,.0f} a month; {budget}."),
    ))
