"""Performance on mature labels: do they come, and does the model still hold what promotion asked of it?

Judged by cohort of prediction date, the newest that is mature and large enough; it does not speak for predictions after
it that are many. *Bad* is only what chance does not explain: the whole interval over customers lies beyond the floor.
Never on labels that are not mature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from models.evaluation.cohort import CONFIDENCE, Cohort, Measured, worst_of
from models.evaluation.result import LEAST_OF_EACH
from models.gates.signals import Name, Signal
from models.limits import Monitoring, PromotionGate

Evidence = dict[str, float | int | str | None]
MOST_TOO_SMALL: Final = 3  # mature cohorts without one that is large enough: from then on that is no matter of waiting


@dataclass(frozen=True)
class Floors:
    """What a cohort must hold."""

    least_auc: float
    max_brier: float
    least_customers: int

    @staticmethod
    def of(limits: Monitoring, promotion: PromotionGate) -> Floors:
        """The charter's own; where it says none, the promotion gate's."""
        return Floors(
            promotion.least_auc if limits.least_auc is None else limits.least_auc,
            promotion.max_brier if limits.max_brier is None else limits.max_brier,
            limits.least_customers,
        )


def judge_labels(
    cohorts: Sequence[Cohort], limits: Monitoring, *, as_of: datetime, lost: Sequence[datetime] = ()
) -> Signal:
    """Whether the label feed brings what it should, by the newest mature cohort of enough customers.

    Where no cohort has enough, or smaller ones after it have enough together, these are taken together.

    Args:
        cohorts: newest last.
        lost: cuts of predictions whose labels are due and that no cohort holds.
    """
    mature = _mature(cohorts, as_of)
    large = [one for one in mature if one.rows >= limits.least_customers]
    fault = _lost("labels", lost, (large or mature)[-1:])
    if fault or not mature:
        return fault or _waiting("labels", cohorts)
    since = [one for one in mature if large and one.cut > large[-1].cut]
    together = sum(one.rows for one in since) >= limits.least_customers
    judged = since if together else large[-1:] or mature
    rows, labelled = (sum(getattr(one, name) for one in judged) for name in ("rows", "labelled"))
    churned, coverage = sum(one.churners for one in judged), labelled / rows if rows else 0.0
    which = f"the cohort of {judged[-1].cut:%Y-%m-%d}" if len(judged) == 1 else f"the {len(judged)} mature cohorts"
    which += f" since {large[-1].cut:%Y-%m-%d}" if together else ""
    before = large[-2].labelled if len(large) > 1 and not together else None
    evidence: Evidence = {
        "cohort": f"{judged[-1].cut:%Y-%m-%d}", "rows": rows, "labelled": labelled, "coverage": round(coverage, 4),
        "least_label_coverage": limits.least_label_coverage, "labelled_before": before,
        "churn_rate": round(churned / labelled, 4) if labelled else None,
        "cohorts_without_enough_labels": sum(one.coverage < limits.least_label_coverage for one in mature),
        "smaller_since": 0 if together else len(since),
    }
    seen = f"{labelled:,} of {rows:,} customers of {which} have a label ({coverage:.1%})"
    if not labelled:
        return Signal("labels", "broken", f"no label has come for {which}, mature since {judged[-1].mature_at:%Y-%m-%d}"
                      f" ({rows:,} customers): the label feed is silent", evidence)
    if coverage < limits.least_label_coverage:
        return Signal("labels", "bad", f"{seen}, at least {limits.least_label_coverage:.0%} are asked: the label feed "
                      "is incomplete", evidence)
    if rows >= limits.least_customers and churned in (0, labelled):
        what = "left" if churned else "stayed"
        return Signal("labels", "broken", f"all {labelled:,} labels of {which} say that the customer {what}: the label "
                      "feed says nothing", evidence)
    return Signal("labels", "good", seen, evidence)


def judge_performance(
    cohorts: Sequence[Cohort], floors: Floors, *, protected: Sequence[str] = (), as_of: datetime,
    lost: Sequence[datetime] = (),
) -> Signal:
    """Whether the newest mature cohort with enough customers still holds the floors.

    Args:
        cohorts: newest last.
        protected: columns whose worst level is named too.
        lost: as of `judge_labels`.
    """
    mature = _mature(cohorts, as_of)
    fault = _lost("performance", lost, mature[-1:])
    if fault or not mature:
        return fault or _waiting("performance", cohorts)
    faulty = next((one for one in reversed(mature) if one.fault and one.rows >= floors.least_customers), None)
    judged = next((one for one in reversed(mature) if one.counted >= floors.least_customers), None)
    if faulty is not None and (judged is None or judged.cut < faulty.cut):
        return Signal("performance", "broken", f"the cohort of {faulty.cut:%Y-%m-%d} cannot be judged: {faulty.fault}",
                      {"cohort": f"{faulty.cut:%Y-%m-%d}", "coverage": round(faulty.coverage, 4)})
    if judged is None or judged.measured is None:
        most = max(one.counted for one in mature)
        seen = (f"none of {len(mature)} mature cohorts has {floors.least_customers:,} customers to judge by, the "
                f"largest has {most:,} (monitoring.least_customers)")
        return Signal("performance", "waiting" if len(mature) < MOST_TOO_SMALL else "broken", seen,
                      {"customers": most, "least_customers": floors.least_customers})
    since = [one for one in mature if one.cut > judged.cut]
    customers = sum(one.rows for one in since)
    if len(since) >= MOST_TOO_SMALL and customers >= floors.least_customers:
        return Signal("performance", "broken", (
            f"{len(since)} mature cohorts since that of {judged.cut:%Y-%m-%d}, with {customers:,} customers together, "
            f"have none of {floors.least_customers:,} to judge by (monitoring.least_customers): how right the model "
            "was since is not known"), {"cohort": f"{judged.cut:%Y-%m-%d}", "smaller_since": len(since)})
    signal = _judge(judged, judged.measured, floors, protected)
    return replace(signal, evidence={**signal.evidence, "smaller_since": len(since)})


def _judge(cohort: Cohort, measured: Measured, floors: Floors, protected: Sequence[str]) -> Signal:
    whole, which = measured.whole, f"the cohort of {cohort.cut:%Y-%m-%d}"
    evidence: Evidence = {
        "cohort": f"{cohort.cut:%Y-%m-%d}", "customers": whole.rows, "coverage": round(cohort.coverage, 4),
        "contacted_left_out": cohort.contacted, "releases": ", ".join(cohort.releases),
        "churn_rate": round(whole.churn_rate, 4), "mean_probability": round(whole.mean_probability, 4),
        "least_auc": floors.least_auc, "max_brier": floors.max_brier,
    }
    if whole.evaluation is None:
        return Signal("performance", "broken", f"{which} cannot be judged: {whole.fault}", evidence)
    for name in ("auc", "brier", "log_loss", "calibration_slope"):
        score = whole.score(name)
        evidence |= {f"{name}{end}": _rounded(value) for end, value in (
            ("", score.value), ("_low", score.low), ("_high", score.high))}
    for name, worst in (("worst_segment", whole.evaluation.worst),
                        ("worst_protected", worst_of(whole.evaluation, protected))):
        if worst is not None:
            evidence |= {name: worst.name, f"{name}_auc": _rounded(worst.scores["auc"].value)}
    auc, brier = whole.score("auc"), whole.score("brier")
    seen = (f"AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}] and Brier score {brier.value:.3f} [{brier.low:.3f}, "
            f"{brier.high:.3f}] on {whole.rows:,} customers of {which}")
    stayed = whole.rows - whole.evaluation.churners
    if min(whole.evaluation.churners, stayed) < LEAST_OF_EACH or not _finite(auc.low, auc.high, brier.low, brier.high):
        return Signal("performance", "broken", f"{which} cannot be judged: {whole.evaluation.churners:,} of "
                      f"{whole.rows:,} customers churned, {LEAST_OF_EACH} who churned and as many who stayed are asked",
                      evidence)
    beyond = [f"AUC is below {floors.least_auc:g}"] if auc.high < floors.least_auc else []
    beyond += [f"the Brier score is above {floors.max_brier:g}"] if brier.low > floors.max_brier else []
    if beyond:
        return Signal("performance", "bad", f"{seen}: surely {' and '.join(beyond)} ({CONFIDENCE:.0%} interval)",
                      evidence)
    return Signal("performance", "good", f"{seen}: floors are {floors.least_auc:g} and {floors.max_brier:g}", evidence)


def _mature(cohorts: Sequence[Cohort], as_of: datetime) -> list[Cohort]:
    return [one for one in cohorts if one.mature_at <= as_of and one.rows]


def _lost(name: Name, lost: Sequence[datetime], newest: Sequence[Cohort]) -> Signal | None:
    """That predictions have no truth though it is due; what newer truth has followed is no fault of today."""
    after = [cut for cut in sorted(lost) if not newest or cut > newest[-1].cut]
    if not after:
        return None
    others = f" (and on {len(after) - 1} date{'s' if len(after) > 2 else ''} before)" if len(after) > 1 else ""
    return Signal(name, "broken", (
        f"customers were scored on {after[-1]:%Y-%m-%d}{others}, their labels are due, and lake/truth has no row of "
        "them: restore lake/truth, or lake/scores and lake/predictions, from a backup"),
        {"lost": len(after), "newest_lost": f"{after[-1]:%Y-%m-%d}"})


def _waiting(name: Name, cohorts: Sequence[Cohort]) -> Signal:
    """Too early: no cohort is mature."""
    if not cohorts:
        return Signal(name, "waiting", "no prediction has been made whose truth could be waited for")
    first = cohorts[0]
    return Signal(name, "waiting", f"no label is mature yet: the first cohort, of {first.cut:%Y-%m-%d} with "
                  f"{first.rows:,} customers, is mature on {first.mature_at:%Y-%m-%d}",
                  {"cohort": f"{first.cut:%Y-%m-%d}", "rows": first.rows,
                   "mature_at": f"{first.mature_at:%Y-%m-%d}"})


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
