"""The sample world: what truth says of a model that is never retrained is what the world's law says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.shop.law import World
from tests.tasks.monitoring.truth_world import RELEASED, begin_life

pytestmark = pytest.mark.service  # months of a world: too slow for `make check`
LAW = World(customers=1500, months=18, data_drift_month=18, concept_drift_month=14)


def test_auc_falls_with_the_first_cohort_after_the_concept_drift_as_the_law_says(tmp_path: Path) -> None:
    life = begin_life(tmp_path, LAW)
    limits = life.shop.charter.monitoring.model_copy(update={"least_auc": 0.78})
    life.shop.charter = life.shop.charter.model_copy(update={"monitoring": limits})
    reports = [life.live(month) for month in range(RELEASED, 18)]
    # Cohort 12 is mature in month 14, 13 in 15: until then it waits, and the first changed cohort is 14.
    assert [one.performance.state for one in reports] == ["waiting", "waiting", "good", "good", "bad", "bad"]
    assert [one.labels.state for one in reports] == ["waiting", "waiting", "good", "good", "good", "good"]
    mature = {month: one for month, one in zip(range(RELEASED, 18), reports[-1].cohorts, strict=True) if one.measured}
    assert sorted(mature) == [12, 13, 14, 15]
    for month, cohort in mature.items():
        law, whole = life.truth[month], cohort.measured.whole
        assert (cohort.rows, cohort.coverage) == (pytest.approx(law["eligible"], abs=3), 1)
        assert whole.churn_rate == pytest.approx(law["churn_rate"], abs=0.002)
        # The model knows the law from before the drift from data alone: a little less than who wrote it.
        assert -0.02 < law["auc_frozen"] - whole.score("auc").value < 0.04
    assert life.truth[14]["auc_best"] - mature[14].measured.whole.score("auc").high > 0.03
