from __future__ import annotations

import numpy as np
import pytest

from models.evaluation.bootstrap import interval
from models.evaluation.delong import auc_gain
from models.evaluation.metrics import Ranked, auc


def world(seed: int = 0, rows: int = 1500):
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=rows) - 1.5
    y = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    return y, logit + rng.normal(size=rows), logit + rng.normal(size=rows), np.arange(rows)


def test_the_value_is_the_area_under_the_curve_with_ties_and_weights():
    y, score, _, entities = world()
    score = score.round(1)  # many ties
    weight = np.random.default_rng(1).random(len(y))
    assert auc_gain(y, score, None, entities)[0] == pytest.approx(auc(y, score), abs=1e-12)
    assert auc_gain(y, score, None, entities, weight)[0] == pytest.approx(
        Ranked.of(score).auc(y.astype(float), weight), abs=1e-12)


@pytest.mark.parametrize("copies", [1, 4])
def test_the_standard_error_is_that_of_the_bootstrap_and_copies_of_a_customer_do_not_lessen_it(copies):
    y, one, other, entities = (np.repeat(part, copies) for part in world())
    gain, error = auc_gain(y, one, other, entities)
    ours, theirs, labels = Ranked.of(one), Ranked.of(other), y.astype(float)
    found = interval(lambda weight: ours.auc(labels, weight) - theirs.auc(labels, weight), entities, confidence=0.95,
                     resamples=800, random_state=0)
    assert gain == pytest.approx(found.value, abs=1e-12)
    assert 2 * 1.96 * error == pytest.approx(found.high - found.low, rel=0.08)


def test_the_same_scores_differ_by_nothing_surely_and_one_class_says_nothing():
    y, one, _, entities = world()
    assert auc_gain(y, one, one, entities) == (0, 0)
    assert np.isnan(auc_gain(np.ones(5), one[:5], None, entities[:5])).all()
