"""What no score can be taken of, refused before any is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.errors import DataError


def refuse_unusable(
    y: np.ndarray, probability: np.ndarray, weight: np.ndarray, columns: Mapping[str, np.ndarray]
) -> None:
    """Refuse what no score can be taken of.

    Raises:
        DataError: see `models.evaluation.evaluate.evaluate_scores`.
    """
    for name, values in {"probability": probability, "weight": weight, **columns}.items():
        if len(values) != len(y):
            raise DataError(f"cannot evaluate: {len(values):,} values of {name} for {len(y):,} labels. Score the same "
                            "rows that the labels are of")
    if not len(y):
        raise DataError("cannot evaluate: there are no rows. Hold out a cut with mature labels")
    if not np.isin(y, (0, 1)).all():
        raise DataError(f"cannot evaluate: {int((~np.isin(y, (0, 1))).sum()):,} of {len(y):,} labels are neither 0 nor "
                        "1. Leave out rows without a mature label")
    if not 0 < y.sum() < len(y):
        raise DataError(f"cannot evaluate: {int(y.sum()):,} of {len(y):,} rows churned, and it takes both classes. "
                        "Take a longer range, or look at the label")
    bad = ~((probability >= 0) & (probability <= 1))
    if bad.any():
        raise DataError(f"cannot evaluate: {int(bad.sum()):,} of {len(y):,} probabilities lie outside [0, 1] or are no "
                        f"number (first: {probability[bad][0]}). Look at the features of those rows")
    if probability.min() == probability.max():
        raise DataError(f"cannot evaluate: all {len(y):,} probabilities are {probability[0]:.6g}, which ranks nobody. "
                        "Look whether the model found any feature that varies")
    if not ((weight >= 0) & np.isfinite(weight)).all() or not min((weight * y).sum(), (weight * (1 - y)).sum()) > 0:
        raise DataError("cannot evaluate: weights must be numbers of at least 0 that leave both classes. Look at who "
                        "was contacted")
