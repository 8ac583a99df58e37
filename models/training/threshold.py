"""The decision threshold: whom to contact, so that the expected profit is greatest within the contact budget."""

from __future__ import annotations

import numpy as np

from models.charter import Value


def break_even(value: Value) -> float:
    """The churn probability at which a contact is expected to bring just what it costs; above 1 none ever does."""
    return value.cost_of_contact / (value.share_who_stay * value.worth_of_saved)


def best_threshold(probability: np.ndarray, value: Value, weight: np.ndarray | None = None) -> float:
    """The threshold in [0, 1] with the greatest expected profit that contacts the budget at most.

    With calibrated probabilities each contact above `break_even` adds to the profit (Elkan, The Foundations of
    Cost-Sensitive Learning, 2001), so the best is as low as break-even and the budget allow. Customers of one score
    are contacted all or none; where the best score alone is held by more than the budget, the threshold lies above it.

    Args:
        probability: calibrated, of the customers of one cut that the model has not seen, shape (n,).
        weight: how many customers each of them stands for; None: one.
    """
    even = min(break_even(value), 1.0)
    order = np.argsort(-probability, kind="stable")
    falling = probability[order]
    contacts = np.cumsum(np.ones(len(order)) if weight is None else weight[order])
    if not len(falling) or contacts[-1] <= value.contact_budget:
        return even
    ends = np.flatnonzero(np.r_[falling[1:] != falling[:-1], True])  # the last of each run of equal scores
    fit = ends[contacts[ends] <= value.contact_budget]
    lowest = falling[fit[-1]] if len(fit) else np.nextafter(falling[0], 2.0)
    return float(min(max(lowest, even), 1.0))
