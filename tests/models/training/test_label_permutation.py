from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.training.label_permutation import permuted_auc
from tests.models.training.leak_world import CONTRACT, N, rows

HALF = np.arange(N) < N // 2


def test_the_pipelines_of_this_project_learn_nothing_from_shuffled_labels():
    found = permuted_auc(rows(), CONTRACT, HALF, random_state=1)
    assert found.keys() == {"logistic", "boosting"}
    for seen in found.values():
        assert seen.low <= 0.5 <= seen.high
        assert seen.high - seen.low < 0.2


def test_the_width_is_that_of_chance():
    """Three shuffles of scores without relation: 200 times over, the mean strays as far as the interval says."""
    noise = np.random.default_rng(0)
    aucs, widths = zip(*((one.value, one.high - one.low) for one in (
        permuted_auc(rows(), CONTRACT, HALF, fitters={"noise": lambda _, held: noise.random(len(held))},
                     random_state=seed)["noise"] for seed in range(200))), strict=True)
    assert np.std(aucs) * 2 * 3.9 == pytest.approx(np.mean(widths), rel=0.2)


def test_labels_are_dealt_anew_within_each_cut_only():
    seen: list[pd.DataFrame] = []

    def look(fitted: pd.DataFrame, held_out: pd.DataFrame) -> np.ndarray:
        seen.append(pd.concat([fitted, held_out]))
        return np.arange(len(held_out))

    frame = rows()
    permuted_auc(frame, CONTRACT, HALF, fitters={"look": look}, random_state=1)
    shuffled = seen[0]
    per_cut = frame.groupby("event_timestamp")["left"].sum()
    assert shuffled.groupby("event_timestamp")["left"].sum().equals(per_cut)
    assert (shuffled["left"].to_numpy() != frame["left"].to_numpy()).mean() > 0.2
    assert shuffled["silent"].equals(frame["silent"])
