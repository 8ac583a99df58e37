"""The promotion gate: candidate against champion on the same later-in-time rows, judged on money.

Promoted only if it surely earns more by the charter's margin (models/gates/earnings.py) and every floor holds
(models/gates/floors.py). Where contacted rows are left out, every figure counts the others with their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from models.charter import Charter, Value
from models.cuts import first_sufficient
from models.decision import Decision
from models.evaluation.metrics import Metrics, Ranked, measure
from models.gates.earnings import judge_against_champion, judge_first
from models.gates.floors import HeldOut, first_fault

__all__ = ["best_baseline", "judge_against_champion", "judge_first", "judge_promotion", "wait_after_change"]


def judge_promotion(
    rows: HeldOut,
    *,
    metrics: Metrics,
    baselines: Mapping[str, np.ndarray],
    charter: Charter,
    segments: tuple[str, ...],
    random_state: int,
    first: bool,
) -> Decision:
    """The whole gate: money first, then every floor; one that does not hold keeps the champion.

    Args:
        metrics: what was said of the candidate; shown where the rows are refused, else these rows themselves decide.
        baselines: scores of the rows by single columns; the first model's opponent is the best on these rows.
        segments: columns whose levels `rows` must have.
        first: nothing is champion. Else missing champion scores mean no.
    """
    limits, weight = charter.promotion, rows.weight
    metrics = _measured(rows, charter.value) or metrics
    if first:
        column, baseline = best_baseline(rows, baselines)
        decision = judge_first(
            rows.y, rows.candidate, baseline, rows.entities, baseline_column=column, metrics=metrics,
            limits=limits, random_state=random_state, weight=weight,
        )
    else:
        decision = judge_against_champion(
            rows.y, rows.candidate, rows.champion, rows.entities, metrics=metrics, limits=limits, value=charter.value,
            random_state=random_state, weight=weight,
        )
    if "gain_low" not in decision.evidence:  # refused before anything could be compared
        return decision
    fault, seen = first_fault(rows, limits, charter.value, segments=segments,
                              protected=charter.requirements.protected)
    evidence = {**decision.evidence, **seen}
    if decision.verdict == "promote" and fault is not None:
        return Decision("promotion", "keep", f"{fault}; {decision.reason}", evidence)
    return Decision("promotion", decision.verdict, decision.reason, evidence)


def best_baseline(rows: HeldOut, baselines: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """The one that ranks these rows best: by luck sometimes, which makes it the harder to beat.

    One without a score for each row comes before all others, for `judge_first` refuses it; so does having none.
    """
    y = np.asarray(rows.y, dtype=float)
    weight = None if rows.weight is None or len(rows.weight) != len(y) else rows.weight

    def ranks(name: str) -> float:
        score = baselines[name]
        if len(score) != len(y) or np.isnan(score).any():
            return np.inf
        seen = Ranked.of(score).auc(y, weight)
        return -1.0 if np.isnan(seen) else seen

    best = max(baselines, key=ranks, default="(none)")
    return best, baselines.get(best, np.empty(0))


def wait_after_change(charter: Charter, *, changed_at: datetime | None, first_event: datetime,
                      as_of: datetime) -> Decision | None:
    """`wait` until two mature cuts lie after a change of the concept: one to train on, one to test on.

    Args:
        changed_at: from when on customers behave otherwise; None: they do not.
    """
    if changed_at is None:
        return None
    until = first_sufficient(charter.problem, first_event=first_event, not_before=changed_at)
    if as_of >= until:
        return None
    return Decision(
        "promotion", "wait",
        f"the concept changed on {changed_at:%Y-%m-%d}: two mature cuts after it are needed, to train on one and test "
        f"on the other, and there are on {until:%Y-%m-%d}; the champion stays until then",
        {"changed_at": changed_at.isoformat(), "waits_until": until.isoformat()},
    )


def _measured(rows: HeldOut, value: Value) -> Metrics | None:
    """The candidate's metrics on these very rows, with their weights; None where the gate refuses the rows anyway."""
    y, weight = np.asarray(rows.y, dtype=float), rows.weight
    lengths = {len(y), len(rows.candidate), len(rows.entities), len(y if weight is None else weight)}
    if lengths != {len(y)} or not 0 < y.sum() < len(y) or (weight is not None and not (weight > 0).all()):
        return None
    return measure(y, rows.candidate, rows.entities, value=value, weight=weight)
