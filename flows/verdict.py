"""The promotion gate's verdict on a candidate: gathers what it is judged on, and says where it waits.

The judging is `models.gates.promotion`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
import sqlalchemy as sa

from flows.context import Context
from models.contract import Contract
from models.decision import Decision
from models.errors import PipelineError, describe
from models.evaluation.result import Evaluation
from models.evaluation.segments import segment_levels
from models.gates.floors import HeldOut, scoring_ms
from models.gates.promotion import judge_promotion, wait_after_change
from models.serving.scorer import predict
from models.training.contacts import contacted_left_out, row_weights
from models.training.fit import Candidate, TrainingConfig
from tasks.clock import as_utc
from tasks.features.snapshots import first_event
from tasks.monitoring.events import LOOK_BACK
from tasks.release import rollouts
from tasks.scoring.score import champion_probability
from tasks.state import LedgerRow, read_decisions

DEFAULT_CONFIG = TrainingConfig()
SAME = 1e-9  # at most so far apart: two figures of one model on the same rows
CONCEPT = "concept"  # `kind` in the evidence of a drift decision, and the name of that signal in it


def judge(
    context: Context, candidate: Candidate, test: pd.DataFrame, evaluation: Evaluation | None = None, *,
    config: TrainingConfig = DEFAULT_CONFIG,
) -> Decision:
    """`promote`, `keep` or `wait`: against the champion on the same rows, or where there is none the best column.

    Args:
        test: the rows `candidate.probability` is of, with their weights where contacted ones were left out.
        evaluation: of the same rows; one that says another AUC is of other rows, and the answer is no.
    """
    waiting = must_wait(context, config)
    if waiting is not None:
        return waiting
    contract, charter = context.contract, context.charter
    champion, why_not = _champion(context, test)
    segments = segment_levels(test, contract)
    protected = charter.requirements.protected
    baselines = {candidate.baseline.column: candidate.baseline.score(test), **candidate.baselines}
    rows = HeldOut(
        y=test[contract.label].to_numpy(dtype=float),
        candidate=candidate.probability,
        champion=champion,
        entities=test[contract.entity_key].to_numpy(),
        weight=row_weights(test),
        segments=segments,
        protected=segment_levels(test, parted_by(contract, protected)),
        scoring_ms=scoring_ms(candidate.pipeline, test, contract) if len(test) else None,
    )
    decision = judge_promotion(
        rows, metrics=candidate.metrics, baselines=baselines, charter=charter,
        segments=tuple(column.name for column in contract.features if column.segment),
        random_state=config.random_state, first=rollouts.champion(context.engine) is None,
    )
    return _with_context(decision, rows, predict(candidate.pipeline, test, contract), evaluation, why_not)


def parted_by(contract: Contract, columns: tuple[str, ...]) -> Contract:
    """The contract with just these as segment columns: protected ones are cut into levels the same way."""
    return replace(contract, snapshot=tuple(replace(column, segment=column.name in columns)
                                            for column in contract.snapshot))


def must_wait(context: Context, config: TrainingConfig = DEFAULT_CONFIG) -> Decision | None:
    """`wait`, where the concept changed so lately that two mature cuts after it are not there yet; else None."""
    changed = [moment for moment in (config.not_before, concept_changed_at(context.engine, context.as_of)) if moment]
    if not changed:
        return None
    first = first_event(context.contract, home=context.home, engine=context.engine, as_of=context.as_of)
    return wait_after_change(context.charter, changed_at=max(changed), first_event=first, as_of=context.as_of)


def concept_changed_at(engine: sa.Engine, as_of: datetime) -> datetime | None:
    """Since when customers behave otherwise, by the ledger: drift decisions of kind `concept`; None: they do not.

    Their evidence says `changed_since`. Without it, the moment is that of the first check in a row to see it since a
    model was last promoted: a change that every check still sees would otherwise put the end of waiting off for ever.
    A check that found the concept good ends it.
    """
    promoted = max((when for row in read_decisions(engine, gate="promotion", limit=LOOK_BACK)
                    if row.decision.verdict == "promote" and (when := _known_at(row, as_of))), default=None)
    since: datetime | None = None
    for row in read_decisions(engine, gate="drift", limit=LOOK_BACK):
        evidence, when = row.decision.evidence, _known_at(row, as_of)
        if when is None:
            continue
        if evidence.get(CONCEPT) == "good":
            break
        if evidence.get("kind") != CONCEPT:
            continue
        if since is not None and promoted is not None and when <= promoted:
            break
        if evidence.get("changed_since"):
            return as_utc(datetime.fromisoformat(str(evidence["changed_since"])))
        since = when if since is None else min(since, when)
    return since


def _known_at(row: LedgerRow, as_of: datetime) -> datetime | None:
    """When a decision was taken; None where that is not said, or later than `as_of`."""
    when = None if row.as_of is None else datetime.fromisoformat(row.as_of)
    return when if when is not None and when <= as_of else None


def _champion(context: Context, test: pd.DataFrame) -> tuple[np.ndarray | None, str | None]:
    """The champion's scores of the test rows, and why there are none where it should have given them."""
    try:
        return champion_probability(test, context.contract, home=context.home, engine=context.engine), None
    except PipelineError as error:  # a release that cannot be read is an answer: nothing can be compared
        return None, describe(error)


def _with_context(
    decision: Decision, rows: HeldOut, shipped: np.ndarray, evaluation: Evaluation | None, why_not: str | None
) -> Decision:
    """The verdict with what is known beside it; where something else than these scores was evaluated or ships: no.

    Args:
        shipped: what the pipeline that would be released says of the rows.
        why_not: why the champion gave no scores.
    """
    evidence, reason = dict(decision.evidence), decision.reason
    if rows.weight is not None and np.isfinite(rows.weight).all():
        evidence |= {"contacted_left_out": contacted_left_out(rows.weight), "largest_weight": float(rows.weight.max())}
        reason += f"; {evidence['contacted_left_out']:,} contacted customers left out, the others weighed for them"
    fault = None if why_not is None else f"{reason} ({why_not})"
    if decision.verdict == "promote" and fault is None:
        fault = _other_model(rows, shipped) or _other_evaluation(rows, evaluation, evidence["candidate_auc"])
    return Decision("promotion", "keep" if fault else decision.verdict, fault or reason, evidence)


def _other_model(rows: HeldOut, shipped: np.ndarray) -> str | None:
    apart = float(np.abs(shipped - rows.candidate).max())
    if apart <= SAME:
        return None
    return (f"the model that would ship is not the one that was judged: its scores of the test rows are up to "
            f"{apart:.3g} apart")


def _other_evaluation(rows: HeldOut, evaluation: Evaluation | None, auc: float | int | str | None) -> str | None:
    if evaluation is None:
        return None
    seen = evaluation.scores["auc"].value
    if evaluation.rows == len(rows.y) and abs(seen - float(auc or "nan")) <= SAME:
        return None
    return (f"the evaluation is of other rows or another model: AUC {seen:.6f} of {evaluation.rows:,} rows, the gate "
            f"has {auc:.6f} of {len(rows.y):,}")
