from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.evaluation.ranks import (
    Ranked,
    auc_of_runs,
    average_precision_of_runs,
    run_sums,
    taken_by_budget,
    tie_starts,
)

# Few distinct scores, so that ties are the rule; weights of none among them.
ROW = st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 5).map(float) | st.floats(0.01, 50))


def columns(rows: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, score, weight = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    return y, score / 6, weight


def both_classes(y: np.ndarray, weight: np.ndarray) -> bool:
    return bool((y * weight).sum() > 0 and ((1 - y) * weight).sum() > 0)


@given(st.lists(ROW, min_size=1, max_size=60))
def test_auc_and_average_precision_equal_scikit_learns_with_weights_and_ties(rows):
    y, score, weight = columns(rows)
    ranked = Ranked.of(score)
    if not both_classes(y, weight):
        assert np.isnan(ranked.auc(y, weight))
        assert np.isnan(ranked.average_precision(y, weight))
        return
    # scikit-learn takes rows without weight for thresholds of their own: they change nothing, and are left out.
    kept = weight > 0
    y, score, weight = y[kept], score[kept], weight[kept]
    expected = roc_auc_score(y, score, sample_weight=weight)
    assert Ranked.of(score).auc(y, weight) == pytest.approx(expected, abs=1e-12)
    assert ranked.auc(*(part for part in columns(rows)[::2])) == pytest.approx(expected, abs=1e-12)
    precision = average_precision_score(y, score, sample_weight=weight)
    assert Ranked.of(score).average_precision(y, weight) == pytest.approx(precision, abs=1e-12)
    assert ranked.average_precision(*(part for part in columns(rows)[::2])) == pytest.approx(precision, abs=1e-12)


@given(st.lists(ROW, min_size=2, max_size=40), st.integers(0, 2**31))
def test_many_sets_of_weights_give_what_each_gives_alone(rows, seed):
    y, score, _ = columns(rows)
    weights = np.random.default_rng(seed).integers(0, 4, (5, len(y))).astype(float)
    ranked = Ranked.of(score)
    ordered = weights[:, ranked.order]
    churned = ordered * y[ranked.order]
    runs = run_sums(churned, ranked.starts), run_sums(ordered - churned, ranked.starts)
    alone = [(ranked.auc(y, weight), ranked.average_precision(y, weight)) for weight in weights]
    together = np.stack([auc_of_runs(*runs), average_precision_of_runs(*runs)], axis=1)
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_runs_of_equal_scores_begin_where_the_score_changes():
    assert tie_starts(np.array([0.9, 0.9, 0.5, 0.1, 0.1])).tolist() == [0, 2, 3]
    assert run_sums(np.arange(5.0), np.array([0, 2, 3])).tolist() == [1, 2, 7]


EIGHTHS = st.integers(0, 160).map(lambda number: number / 8)  # add up without rounding


@given(st.lists(EIGHTHS, min_size=1), EIGHTHS.map(lambda share: 5 * share))
def test_the_top_k_holds_just_the_budget_and_leaves_nobody_before_the_last_out(weights, budget):
    weight = np.array(weights)
    taken = taken_by_budget(weight, budget)
    assert taken.sum() == pytest.approx(min(budget, weight.sum()))
    assert ((taken >= 0) & (taken <= weight)).all()
    in_part = np.flatnonzero((taken > 0) & (taken < weight))
    assert len(in_part) <= 1
    if len(in_part):
        assert not taken[in_part[0] + 1:].any()
