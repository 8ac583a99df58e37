from __future__ import annotations

import copy
from dataclasses import replace
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import pytest
import skops.io

from models.contract import Column, Contract
from models.errors import DataError, ReleaseError
from models.serving.attribution import Attributor, typical
from models.serving.reasons import Reason, check_reasons, count_exceptions, explain, explain_rows, say
from models.serving.scorer import feature_frame, load_pipeline
from models.training.estimators import ESTIMATORS, make_pipeline
from models.training.platt import Calibration, fold_in

CONTRACT = Contract("id", "left", (), (
    Column("silent", "float64", "numeric", "days", "since the last visit", minimum=0, sign=1,
           reason="no visit for {value} days", reason_low="last visit only {value} days ago"),
    Column("visits", "int64", "numeric", "count", "visits", nullable=True, minimum=0, sign=-1,
           reason="{value} visits so far", reason_low="only {value} visits so far"),
    Column("noise", "float64", "numeric", "count", "nothing at all"),
    Column("tier", "string", "categorical", "tier", "which tier", nullable=True, categories=("a", "b"),
           reason="is in tier {value}", reason_low="is in tier {value}"),
), {})


def rows(seed: int = 1, n: int = 1500) -> pd.DataFrame:
    """Long silence and few visits make customers leave, in tier a all the more; every column can be missing."""
    rng = np.random.default_rng(seed)
    silent, visits = rng.gamma(2, 10, n), rng.poisson(4, n).astype(float)
    tier = rng.choice(np.array(["a", "b", None], dtype=object), n)
    odds = (silent - 20) / 8 - (visits - 4) / 2 + np.where(tier == "a", silent > 20, 0)
    frame = pd.DataFrame({"silent": silent, "visits": visits, "noise": rng.normal(size=n), "tier": tier,
                          "left": (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(int)})
    for name in ("silent", "visits"):
        frame.loc[rng.random(n) < 0.1, name] = np.nan
    return frame


@pytest.fixture(scope="module", params=ESTIMATORS)
def attributor(request):
    train = rows()
    pipeline = make_pipeline(request.param, CONTRACT, random_state=7)
    return Attributor.of(pipeline.fit(feature_frame(train, CONTRACT), train["left"]), CONTRACT, train)


def log_odds(pipeline, frame: pd.DataFrame) -> np.ndarray:
    return pipeline.decision_function(feature_frame(frame, CONTRACT))


def test_base_and_contributions_add_up_to_the_log_odds_of_every_row(attributor):
    new = rows(seed=2)
    total = attributor.base + attributor.contributions(new).sum(axis=1)
    assert np.abs(total - log_odds(attributor.pipeline, new)).max() < 1e-9
    explained = explain_rows(attributor, new, top=2)
    assert np.abs([one.log_odds for one in explained] - log_odds(attributor.pipeline, new)).max() < 1e-9


def test_contributions_are_the_shapley_values_of_the_definition(attributor):
    """Every coalition of the four columns is scored by the pipeline itself."""
    new, names = rows(seed=3, n=40), CONTRACT.feature_names
    new.loc[0, names] = [np.nan, np.nan, 0.0, None]
    usual = pd.concat([attributor.reference] * len(new), ignore_index=True)
    worth = {}
    for size in range(5):
        for taken in combinations(names, size):
            worth[taken] = log_odds(attributor.pipeline, usual.assign(**{name: new[name] for name in taken}))
    wanted = np.zeros((len(new), 4))
    for number, name in enumerate(names):
        for taken in worth:
            if name not in taken:
                weight = factorial(len(taken)) * factorial(3 - len(taken)) / factorial(4)
                more = tuple(one for one in names if one in taken or one == name)
                wanted[:, number] += weight * (worth[more] - worth[taken])
    assert np.abs(attributor.contributions(new) - wanted).max() < 1e-9


def test_a_calibrated_model_is_explained_as_exactly(attributor):
    """The calibration that ships is folded into coefficients and leaves."""
    calibrated = copy.deepcopy(attributor.pipeline)
    fold_in(calibrated, Calibration("platt", 0.7, -0.4, "for a test"))
    new = rows(seed=2)
    made = Attributor.of(calibrated, CONTRACT, rows())
    total = made.base + made.contributions(new).sum(axis=1)
    assert np.abs(total - log_odds(calibrated, new)).max() < 1e-9
    assert np.abs(made.contributions(new) - 0.7 * attributor.contributions(new)).max() < 1e-9


def test_a_pipeline_that_was_packaged_and_loaded_is_explained_the_same(attributor, tmp_path):
    skops.io.dump(attributor.pipeline, tmp_path / "pipeline.skops")
    loaded = Attributor.of(load_pipeline(tmp_path / "pipeline.skops"), CONTRACT, rows())
    assert np.array_equal(loaded.contributions(rows(seed=2)), attributor.contributions(rows(seed=2)))


def test_a_row_is_explained_the_same_alone_as_among_others(attributor):
    new = rows(seed=4, n=1100)  # more than a chunk
    assert np.abs(attributor.contributions(new.iloc[[700]]) - attributor.contributions(new)[[700]]).max() < 1e-12


@pytest.mark.parametrize("attributor", ["boosting"], indirect=True)
def test_a_value_on_the_threshold_of_a_split_goes_where_the_tree_sends_it(attributor):
    thresholds = attributor.model.threshold[attributor.model.column == 0]
    on = pd.concat([attributor.reference] * len(thresholds), ignore_index=True).assign(silent=thresholds)
    total = attributor.base + attributor.contributions(on).sum(axis=1)
    assert np.abs(total - log_odds(attributor.pipeline, on)).max() < 1e-9


def test_the_typical_customer_has_no_reasons(attributor):
    (one,) = explain_rows(attributor, attributor.reference)
    assert one.reasons == ()
    assert one.log_odds == pytest.approx(log_odds(attributor.pipeline, attributor.reference)[0])


def test_the_strongest_reason_is_first_and_says_which_way_it_moves_the_score(attributor):
    silent = attributor.reference.assign(silent=90.0, visits=1.0)
    (one,) = explain_rows(attributor, silent, top=1)
    assert [(reason.text, reason.raises) for reason in one.reasons] == [("no visit for 90 days", True)]
    assert one.rest > 0  # few visits
    (other,) = explain_rows(attributor, attributor.reference.assign(visits=9.0))
    assert [(reason.text, reason.raises) for reason in other.reasons] == [("9 visits so far", False)]


def test_what_runs_against_the_sign_of_the_contract_is_counted_and_not_stated(attributor):
    """The contract is told that visits make customers leave; the model says they keep them."""
    turned = tuple(replace(column, sign=-column.sign) if column.name == "visits" else column
                   for column in CONTRACT.snapshot)
    odd = replace(attributor, contract=replace(CONTRACT, snapshot=turned))
    row = attributor.reference.assign(silent=60.0, visits=9.0)
    (before,), (after,) = explain_rows(attributor, row, top=2), explain_rows(odd, row, top=2)
    assert {reason.column for reason in before.reasons} == {"silent", "visits"}
    assert before.unstated == ()
    assert "visits" not in {reason.column for reason in after.reasons}
    assert after.unstated == ("visits",)
    assert after.log_odds == pytest.approx(before.log_odds)
    assert check_reasons(odd, row, top=2).unstated == 1
    (unknown,) = explain_rows(odd, row.assign(visits=np.nan), top=2)
    assert unknown.unstated == ()  # what is unknown is neither more nor less


def test_a_reason_that_is_removed_moves_the_score_the_stated_way(attributor):
    found = check_reasons(attributor, rows(seed=5), top=1)
    assert found.reasons > 1400
    assert found.share >= 0.95
    assert len(found.exceptions) == found.reasons - found.moved


def test_reasons_that_are_none_are_counted_as_exceptions(attributor):
    """Every contribution with the sign of its opposite."""

    class Wrong(Attributor):
        def contributions(self, new: pd.DataFrame) -> np.ndarray:
            return -super().contributions(new)

    wrong = Wrong(**{name: getattr(attributor, name) for name in attributor.__dataclass_fields__})
    found = check_reasons(wrong, rows(seed=5, n=200), top=1)
    assert found.share < 0.2
    assert sum(count for _, count in count_exceptions(found)) == len(found.exceptions) == found.reasons - found.moved


def test_no_reason_at_all_shows_nothing(attributor):
    assert np.isnan(check_reasons(attributor, attributor.reference).share)


def test_a_model_that_is_not_the_one_explained_is_refused(attributor):
    with pytest.raises(ReleaseError, match=r"cannot explain row 0: the contributions give the log-odds"):
        replace(attributor, base=attributor.base + 0.1).contributions(rows(n=5))


def test_a_difference_that_no_probability_shows_is_refused(attributor):
    """At log-odds of about -30 or 30 a thousandth more or less leaves the probability as it was."""
    sharp = copy.deepcopy(attributor.pipeline)
    fold_in(sharp, Calibration("platt", 30.0, 0.0, "for a test"))
    made, new = Attributor.of(sharp, CONTRACT, rows()), rows(seed=2)
    sure = new[np.abs(log_odds(sharp, new)) > 25]
    assert len(sure) > 10
    made.contributions(sure)
    with pytest.raises(ReleaseError, match="cannot explain row 0"):
        replace(made, base=made.base + 1e-3).contributions(sure)


def test_a_final_step_without_coefficients_or_trees_is_refused():
    from sklearn.dummy import DummyClassifier

    train = rows(n=50)
    pipeline = make_pipeline("logistic", CONTRACT, random_state=7)
    pipeline.steps[-1] = ("model", DummyClassifier())
    pipeline.fit(feature_frame(train, CONTRACT), train["left"])
    with pytest.raises(ReleaseError, match="cannot explain a DummyClassifier: no coefficients and no trees"):
        Attributor.of(pipeline, CONTRACT, train)


def test_the_typical_customer_is_the_middle_of_those_known_and_unknown_where_most_are():
    frame = pd.DataFrame({"silent": [1.0, 2, 3, 40], "visits": [np.nan, np.nan, np.nan, 2], "noise": [0.0, 0, 0, 1],
                          "tier": ["b", "a", "a", "b"]})
    one = typical(frame, CONTRACT).iloc[0]
    assert (one["silent"], one["noise"], one["tier"]) == (2.0, 0.0, "a")  # values that occur; the tie by name
    assert np.isnan(one["visits"])
    with pytest.raises(DataError, match="cannot say who is typical: there are no rows"):
        typical(frame.iloc[:0], CONTRACT)


@pytest.mark.parametrize(("name", "value", "typical_value", "words"), [
    ("silent", 61.2, 11.0, "no visit for 61 days"),
    ("silent", 0.25, 11.0, "last visit only 0.25 days ago"),
    ("visits", 1.0, 5.0, "only 1 visit so far"),
    ("visits", 0.0, 5.0, "no visits so far"),
    ("visits", 1200.0, 5.0, "1,200 visits so far"),
    ("visits", None, 5.0, "unknown: visits"),
    ("visits", 3.0, None, "3 visits so far"),
    ("noise", -1.237, 0.0, "nothing at all: -1.2"),
    ("tier", "b", "a", "is in tier b"),
    ("tier", "{value}", "a", "is in tier {value}"),
])
def test_values_are_said_as_a_person_would_say_them(name, value, typical_value, words):
    column = next(one for one in CONTRACT.features if one.name == name)
    assert say(column, value, typical_value) == words


def test_nothing_spent_is_said_so():
    column = Column("spent", "float64", "numeric", "currency", "spent", reason="spent {value} lately",
                    reason_low="spent only {value} lately")
    assert say(column, 0.0, 12.0) == "spent nothing lately"
    assert say(column, 12.5, 40.0) == "spent only 12.50 lately"


def test_explain_answers_for_a_pipeline_with_its_background(attributor):
    new = rows(seed=6, n=3)
    found = explain(attributor.pipeline, new, CONTRACT, rows(), top=3)
    assert found == explain_rows(attributor, new)
    assert all(isinstance(reason, Reason) for one in found for reason in one.reasons)
