from __future__ import annotations

import re

import numpy as np
import pytest

from models.evaluation.ranks import auc
from models.training.contacts import WEIGHT
from models.training.fit import split_rows
from tasks.training.evaluate import evaluate_candidate, figures
from tests.tasks.training.experiment import CHARTER, CONFIG, CONTRACT, PLAN, candidate, rows

TEST = split_rows(rows(), PLAN)[1]


def test_every_figure_has_a_name_that_mlflow_takes_and_the_auc_is_that_of_the_test_rows():
    found = figures(candidate(), evaluate_candidate(candidate(), TEST, CONTRACT, CHARTER, CONFIG))
    assert [name for name in found if not re.fullmatch(r"[\w\-. /:]+", name)] == []
    assert found["auc"] == pytest.approx(auc(TEST["left"].to_numpy(float), candidate().probability), abs=1e-12)
    assert found["threshold"] == candidate().threshold
    assert {"baseline/auc", "baseline/value/everyone", "validation/log_loss/logistic", "importance/silent",
            "calibration/applied_slope"} <= set(found)


def test_the_weights_of_contacted_customers_count():
    weight = np.where(TEST["left"] == 1, 3.0, 1.0)
    plain = evaluate_candidate(candidate(), TEST, CONTRACT, CHARTER, CONFIG)
    weighed = evaluate_candidate(candidate(), TEST.assign(**{WEIGHT: weight}), CONTRACT, CHARTER, CONFIG)
    assert weighed.scores["brier"].value > plain.scores["brier"].value
