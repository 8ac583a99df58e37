"""Evaluation stage. Reads a candidate and held-out rows; answers with every figure a record holds of them."""

from __future__ import annotations

import pandas as pd

from models.charter import Charter
from models.contract import Contract
from models.evaluation.evaluate import evaluate_scores
from models.evaluation.result import Evaluation
from models.evaluation.segments import segment_levels
from models.training.contacts import row_weights
from models.training.fit import Candidate, TrainingConfig


def evaluate_candidate(
    candidate: Candidate, test: pd.DataFrame, contract: Contract, charter: Charter, config: TrainingConfig
) -> Evaluation:
    """Scores, curves and segments of the candidate on the test rows, with the gate's confidence."""
    return evaluate_scores(
        test[contract.label].to_numpy(dtype=float), candidate.probability, test[contract.entity_key].to_numpy(),
        value=charter.value, segments=segment_levels(test, contract), weight=row_weights(test),
        confidence=charter.promotion.confidence, random_state=config.random_state,
    )


def figures(candidate: Candidate, evaluation: Evaluation) -> dict[str, float]:
    """Every figure by the name it has in MLflow and in the record: what `reproduce` compares."""
    calibration = candidate.calibration
    return {
        **evaluation.as_metrics(), "threshold": candidate.threshold, "baseline/auc": candidate.baseline_auc,
        **{f"baseline/value/{name}": value for name, value in candidate.baseline_values.items()},
        **{f"validation/log_loss/{name}": loss for name, loss in candidate.validation_loss.items()},
        **({} if calibration is None else {
            "calibration/applied_slope": calibration.slope, "calibration/applied_intercept": calibration.intercept}),
        **{f"importance/{name}": share for name, share in candidate.importance.items()},
    }
