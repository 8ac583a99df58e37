from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.charter import Value
from models.gates.floors import HeldOut, first_fault
from models.limits import PromotionGate

VALUE = Value(customers=3000, monthly_churners=600, share_found=0.5, share_who_stay=0.5, worth_of_saved=50,
              cost_of_contact=4, contact_budget=600)
LIMITS = PromotionGate(least_segment_rows=200, least_segment_churners=20, max_contact_gap=0.15, max_found_gap=0.15)
ROWS = 3000
SEGMENTS, PROTECTED = ("region",), ("sex",)


def logistic(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


@pytest.fixture
def rows() -> HeldOut:
    """A candidate that says the truth, a champion that says it with noise; regions and sexes make no difference."""
    rng = np.random.default_rng(0)
    logit = rng.normal(size=ROWS) * 1.5 - 2
    return HeldOut(
        y=(rng.random(ROWS) < logistic(logit)).astype(float),
        candidate=logistic(logit),
        champion=logistic(logit + rng.normal(size=ROWS)),
        entities=np.array([f"c{number:05}" for number in range(ROWS)]),
        segments={"region": np.where(np.arange(ROWS) % 3, "south", "north")},
        protected={"sex": np.where(np.arange(ROWS) % 2, "f", "m")},
        scoring_ms=0.01,
    )


def fault(rows: HeldOut, limits: PromotionGate = LIMITS) -> str | None:
    return first_fault(rows, limits, VALUE, segments=SEGMENTS, protected=PROTECTED)[0]


def test_a_candidate_that_says_the_truth_holds_every_floor_and_the_evidence_has_each(rows):
    found, evidence = first_fault(rows, LIMITS, VALUE, segments=SEGMENTS, protected=PROTECTED)
    assert found is None
    assert evidence["calibration_slope"] == pytest.approx(1, abs=0.1)
    assert evidence["segments_judged"] == 2
    assert {"worst_segment", "worst_segment_loss", "contact_gap.sex", "found_gap.sex", "scoring_ms"} <= set(evidence)


def test_a_slope_outside_the_range_or_none_at_all_does_not_hold(rows):
    overconfident = replace(rows, candidate=logistic(3 * np.log(rows.candidate / (1 - rows.candidate))))
    assert fault(overconfident) == "calibration slope 0.33 is not between 0.5 and 2"
    assert "nan" in fault(replace(rows, candidate=np.full(ROWS, 0.2)))
    parted = replace(rows, candidate=np.where(rows.y == 1, 0.9, 0.1))  # no finite slope is best
    assert "calibration slope nan" in fault(parted)


def test_a_segment_that_loses_more_than_chance_explains_is_named(rows):
    north = rows.segments["region"] == "north"
    spoilt = replace(rows, candidate=np.where(north, np.random.default_rng(2).permutation(rows.candidate),
                                              rows.candidate))
    assert "less than the champion's in the segment region north" in fault(spoilt)


def test_among_many_small_segments_that_differ_by_chance_none_is_blamed(rows):
    """Both models are equally good everywhere; of thirty segments some lose far more than the limit, by luck."""
    noise = np.random.default_rng(3).normal(size=ROWS)
    equal = replace(rows, candidate=logistic(np.log(rows.candidate / (1 - rows.candidate)) + noise),
                    segments={"region": (np.arange(ROWS) % 30).astype(str)})
    limits = LIMITS.model_copy(update={"least_segment_rows": 50, "least_segment_churners": 5,
                                       "calibration_slope": (0.2, 3.0)})
    found, evidence = first_fault(equal, limits, VALUE, segments=SEGMENTS, protected=PROTECTED)
    assert evidence["worst_segment_loss"] > 2 * limits.max_segment_loss
    assert found is None


def test_a_first_model_that_is_surely_wrong_in_a_segment_is_refused(rows):
    first = replace(rows, champion=None)
    assert fault(first) is None
    north = rows.segments["region"] == "north"
    inverted = replace(first, candidate=np.where(north, 1 - rows.candidate, rows.candidate))
    limits = LIMITS.model_copy(update={"calibration_slope": (-5.0, 5.0)})
    assert "in the segment region north is below the floor of 0.500" in fault(inverted, limits)


@pytest.mark.parametrize("segments", [{}, {"region": np.array(["south"])}], ids=["missing", "of other rows"])
def test_without_levels_the_segments_do_not_hold(rows, segments):
    assert fault(replace(rows, segments=segments)) == "the test rows say no levels of the segment column region"


def test_levels_too_small_to_compare_are_counted_in_the_evidence(rows):
    sex = np.where(np.arange(ROWS) < 40, "x", rows.protected["sex"])
    found, evidence = first_fault(replace(rows, protected={"sex": sex}), LIMITS, VALUE, segments=SEGMENTS,
                                  protected=PROTECTED)
    assert found is None
    assert (evidence["contact_too_small.sex"], evidence["found_too_small.sex"]) == (1, 1)


def test_a_column_without_a_level_of_enough_rows_or_churners_does_not_hold(rows):
    tiny = replace(rows, segments={"region": np.arange(ROWS).astype(str)})
    assert "no level of the segment column region has 200 rows" in fault(tiny)
    churners = LIMITS.model_copy(update={"least_segment_churners": 2000})
    assert "no level of the segment column region has" in fault(rows, churners)


def test_a_segment_whose_scores_are_no_number_does_not_hold(rows):
    north = rows.segments["region"] == "north"
    broken = replace(rows, champion=np.where(north, np.nan, rows.champion), segments=rows.segments)
    weight = np.where(north, np.nan, 1.0)
    assert fault(replace(broken, champion=rows.champion, weight=weight)) is not None


def test_contacting_one_level_far_more_than_another_does_not_hold(rows):
    women = rows.protected["sex"] == "f"
    biased = replace(rows, candidate=logistic(np.log(rows.candidate / (1 - rows.candidate)) + np.where(women, 1, -1)))
    assert fault(biased).startswith("contacted: ")
    assert "of sex f but" in fault(biased)


def test_finding_the_churners_of_one_level_far_better_does_not_hold(rows):
    women = rows.protected["sex"] == "f"
    shuffled = np.random.default_rng(4).permutation(np.flatnonzero(~women))
    blind = rows.candidate.copy()
    blind[~women] = rows.candidate[shuffled]  # men are contacted as often, but at random
    limits = LIMITS.model_copy(update={"max_segment_loss": 0.4, "calibration_slope": (0.1, 5.0)})
    assert fault(replace(rows, candidate=blind), limits).startswith("of churners found: ")


def test_levels_with_few_churners_that_differ_by_chance_are_not_blamed(rows):
    """Thirty levels of a hundred: of their few churners the share found differs by far more than the limit, by luck."""
    levels = (np.arange(ROWS) % 30).astype(str)
    limits = LIMITS.model_copy(update={"least_segment_rows": 50, "least_segment_churners": 5})
    found, evidence = first_fault(replace(rows, protected={"sex": levels}), limits, VALUE, segments=SEGMENTS,
                                  protected=PROTECTED)
    assert evidence["found_gap.sex"] > 2 * limits.max_found_gap
    assert found is None


@pytest.mark.parametrize("protected", [{}, {"sex": np.array(["f"])}], ids=["missing", "of other rows"])
def test_without_levels_a_protected_column_does_not_hold(rows, protected):
    assert fault(replace(rows, protected=protected)) == "the test rows say no levels of the protected column sex"


def test_a_protected_column_with_too_few_rows_to_compare_does_not_hold(rows):
    lonely = np.full(ROWS, "f")
    lonely[:50] = "m"
    assert "too few rows to compare the levels of the protected column sex" in fault(
        replace(rows, protected={"sex": lonely}))


@pytest.mark.parametrize("seen", [None, float("nan"), 3.0], ids=["not measured", "no number", "slow"])
def test_a_score_that_costs_too_much_or_an_unknown_time_does_not_hold(rows, seen):
    assert "sco" in fault(replace(rows, scoring_ms=seen))
