"""The key metrics of each role: asked for by the charter, claimed by it, measured on the test rows, met or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from models.charter import Charter
from models.evaluation.bootstrap import Interval
from models.team import DEFAULT_VIEWS, MEASURES, KeyMetricName

UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class KeyMetric:
    """One number one role looks at."""

    role: str
    name: KeyMetricName
    asked: float | None  # level by the charter's `metrics`
    claimed: float | None  # by the charter's business case
    measured: Interval

    @property
    def label(self) -> str:
        return MEASURES[self.name].label

    @property
    def met(self) -> bool | None:
        """Does the measured value reach what is asked? None where nothing is; what is not known does not."""
        return None if self.asked is None else self._reaches(self.measured.value)

    @property
    def surely_met(self) -> bool | None:
        """The same of the interval's worse end."""
        if self.asked is None:
            return None
        return self._reaches(self.measured.low if MEASURES[self.name].higher_is_better else self.measured.high)

    @property
    def verdict(self) -> str:
        """In words: what stands in the reports."""
        if self.met is None:
            return "not asked"
        if not isfinite(self.measured.value):
            return "not met: not measured"
        if not self.met:
            return "not met"
        return "met" if self.surely_met else "met, though its interval reaches past the level"

    @property
    def text(self) -> str:
        """One line: `ROC AUC 0.701 (asked: at least 0.750)`."""
        asked = "" if self.asked is None else f" (asked: {self.asked_text})"
        return f"{self.label} {self.show(self.measured.value)}{asked}"

    @property
    def asked_text(self) -> str:
        if self.asked is None:
            return "–"
        return f"at {'least' if MEASURES[self.name].higher_is_better else 'most'} {self.show(self.asked)}"

    @property
    def claimed_text(self) -> str:
        return "–" if self.claimed is None else self.show(self.claimed)

    @property
    def measured_text(self) -> str:
        if not isfinite(self.measured.value):
            return "not measured"
        ends = (self.measured.low, self.measured.high)
        shown = " to ".join(self.show(end) for end in ends) if all(map(isfinite, ends)) else "interval not known"
        return f"{self.show(self.measured.value)} ({shown})"

    def show(self, level: float) -> str:
        """A level in the metric's own form."""
        return MEASURES[self.name].form.format(level) if isfinite(level) else "not measured"

    def _reaches(self, level: float) -> bool:
        # Written so that a level that is not a number fails.
        if self.asked is None:
            return False
        return level >= self.asked if MEASURES[self.name].higher_is_better else level <= self.asked


def key_metrics(scores: Mapping[str, Interval], charter: Charter) -> tuple[KeyMetric, ...]:
    """Every metric a role looks at or asks for, role by role in the order of the team.

    Args:
        scores: of an evaluation, by name; `value` is money a cut. What is missing is shown as not measured.
    """
    months = charter.problem.snapshot_every_months
    value = scores.get("value", UNKNOWN)
    known = {**scores, "value_a_month": Interval(value.value / months, value.low / months, value.high / months)}
    found = []
    for role in [*DEFAULT_VIEWS, *(role for role in charter.metrics if role not in DEFAULT_VIEWS)]:
        asked = charter.metrics.get(role, {})
        seen = DEFAULT_VIEWS.get(role, ())
        for name in [*seen, *(name for name in asked if name not in seen)]:
            found.append(KeyMetric(role, name, asked.get(name), _claimed(name, charter), known.get(name, UNKNOWN)))
    return tuple(found)


def _claimed(name: KeyMetricName, charter: Charter) -> float | None:
    """What the business case says the metric is; None where it says nothing."""
    value = charter.value
    if name == "churners_found":
        return value.share_found
    if name == "lift":
        return value.share_found / (value.contact_budget / value.customers)
    return charter.claim_a_month if name == "value_a_month" else None
