import numpy as np
import pytest

from models.serving.scorer import feature_frame
from models.training.estimators import make_pipeline
from models.training.importance import permutation_importance
from tests.models.training.fit_data import CONTRACT, rows


def test_the_column_that_carries_the_model_has_nearly_all_and_the_shares_sum_to_one():
    frame = rows()
    pipeline = make_pipeline("logistic", CONTRACT, random_state=1).fit(feature_frame(frame, CONTRACT), frame["left"])
    found = permutation_importance(pipeline, frame, CONTRACT, random_state=1)
    assert found["silent"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    assert found == permutation_importance(pipeline, frame, CONTRACT, random_state=1)


def test_a_model_that_ranks_nobody_has_no_importance_at_all():
    frame = rows().assign(silent=1.0, noise=1.0, tier="a")
    pipeline = make_pipeline("logistic", CONTRACT, random_state=1).fit(feature_frame(frame, CONTRACT), frame["left"])
    assert set(permutation_importance(pipeline, frame, CONTRACT, random_state=1).values()) == {0.0}
    assert np.unique(pipeline.predict_proba(feature_frame(frame, CONTRACT))[:, 1]).size == 1
