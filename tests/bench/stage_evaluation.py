"""What an evaluation costs: nine scores with intervals, against scikit-learn called once a score and resample.

    python -m tests.bench.stage_evaluation
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from models.charter import load_charter
from models.evaluation.bootstrap import customer_weights
from models.evaluation.evaluate import evaluate_scores
from models.evaluation.ranks import rank, realised_value
from tests.bench.bench_data import REPO

LIMITS: Final = {5_000: 0.5, 100_000: 10.0}  # CPU seconds for 200 resamples
RESAMPLES: Final = 200
NAIVE_RESAMPLES: Final = 10  # of scikit-learn's, counted twenty times: each costs the same


def world(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities that are nearly true, and customers, one a row."""
    rng = np.random.default_rng(7)
    logit = rng.normal(-2.3, 1.3, rows)
    y = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(float)
    return y, 1 / (1 + np.exp(-(1.2 * logit + 0.3))), np.array([f"c{number:07d}" for number in range(rows)])


def naive(y: np.ndarray, probability: np.ndarray, entities: np.ndarray) -> None:
    """The nine scores of each resample by scikit-learn's own functions."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    value = load_charter(REPO / "charter.yaml").value
    order, odds = rank(probability, entities), np.log(probability / (1 - probability))[:, None]
    for weight in customer_weights(entities, resamples=NAIVE_RESAMPLES, random_state=1):
        for score in (roc_auc_score, average_precision_score, brier_score_loss, log_loss):
            score(y, probability, sample_weight=weight)
        LogisticRegression(C=np.inf).fit(odds, y, sample_weight=weight)  # slope and intercept
        realised_value(y, order, value, weight)  # and with the same top K, lift and churners found


def rows() -> list[str]:
    """One line of a bench table for each size."""
    value, lines = load_charter(REPO / "charter.yaml").value, []
    evaluate_scores(*world(500), value=value, random_state=1)  # imports are not counted
    naive(*world(500))
    for size, limit in LIMITS.items():
        given = world(size)
        start = time.process_time()
        evaluate_scores(*given, value=value, resamples=RESAMPLES, random_state=1)
        ours = time.process_time() - start
        start = time.process_time()
        naive(*given)
        theirs = (time.process_time() - start) * RESAMPLES / NAIVE_RESAMPLES
        lines.append(f"{f'evaluation, {size:,} rows':<27} {f'{ours:.2f} CPU s':>20}   at most {limit:g} ({RESAMPLES} "
                     f"resamples, 9 scores and 4 curves; scikit-learn once a score: {theirs:,.1f})  "
                     f"{'ok' if ours <= limit else 'missed'}")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))
