"""The compiled scorer beside the fitted pipeline: as training makes them, with all a row may hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import QuantileTransformer

from models.contract import Column, Contract
from models.errors import DataError, ReleaseError
from models.serving.compiled import MANY_ROWS, CompiledScorer, compile_pipeline
from models.serving.scorer import feature_frame, plain_rows, predict
from models.training.estimators import ESTIMATORS, fit_pipeline
from models.training.platt import Calibration, fold_in

CONTRACT = Contract("id", "left", (), (
    Column("silent", "float64", "numeric", "days", "since the last visit", minimum=0),
    Column("tier", "string", "categorical", "tier", "which tier", nullable=True),
    Column("visits", "int64", "numeric", "count", "visits", nullable=True, minimum=0),
    Column("change", "float64", "numeric", "ratio", "against the month before", nullable=True),
    Column("empty", "float64", "numeric", "count", "missing throughout", nullable=True),
    Column("city", "string", "categorical", "city", "where", nullable=True),
    Column("never", "string", "categorical", "word", "missing throughout", nullable=True),
    Column("it's \"odd\"\n", "float64", "numeric", "count", "a name that would break naive source", nullable=True),
), {})
ODD = CONTRACT.feature_names[-1]
CITIES = [f"city {number}" for number in range(40)]  # more than make columns of their own


def world(n: int, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "silent": rng.gamma(2, 10, n), "tier": rng.choice(np.array(["a", "b", "ä b", None], dtype=object), n),
        "visits": rng.poisson(4, n).astype(float), "change": rng.normal(0, 3, n), "empty": np.nan,
        "city": rng.choice(np.array(CITIES, dtype=object), n, p=1 / np.arange(1, 41) / (1 / np.arange(1, 41)).sum()),
        "never": None, ODD: rng.normal(size=n),
    })
    for name in ("silent", "visits", "change", "city"):
        frame.loc[rng.random(n) < 0.15, name] = None
    odds = (frame["silent"].fillna(30) - 20) / 8 - (frame["visits"].fillna(0) - 4) / 2 + (frame["tier"] == "a")
    return frame.assign(left=(rng.random(n) < 1 / (1 + np.exp(-odds))).astype(int))


@pytest.fixture(scope="module", params=ESTIMATORS)
def model(request) -> tuple[Pipeline, CompiledScorer]:
    train = world(2500)
    params = None if request.param == "logistic" else {"max_leaf_nodes": 31, "max_iter": 60, "min_samples_leaf": 20}
    pipeline = fit_pipeline(request.param, train, train["left"].to_numpy(), CONTRACT, random_state=7, params=params)
    fold_in(pipeline, Calibration("platt", 0.83, -0.17, "test"))
    return pipeline, compile_pipeline(pipeline, CONTRACT)


def agree(model, rows: pd.DataFrame) -> None:
    """Both fast paths answer as the pipeline: boosting to the last bit, the scorecard but for the order of its sum."""
    pipeline, scorer = model
    expected = predict(pipeline, rows, CONTRACT)
    plain = plain_rows(rows, CONTRACT.feature_names)
    limit = 1e-12 if hasattr(scorer.final, "coef_") else 0
    assert np.abs(np.array([scorer.one(row) for row in plain]) - expected).max() <= limit
    assert np.abs(np.array(scorer.score_many(plain)) - expected).max() <= limit


def test_thousands_of_rows_score_as_by_the_pipeline_with_missing_values_and_unseen_words(model):
    rows = world(8000, seed=2)
    rows.loc[::7, "city"] = "a city nobody has seen"
    rows.loc[::11, "tier"] = ""
    rows.loc[::13, ["empty", "never"]] = [5.0, "a word"]  # missing throughout in training
    rows.loc[::17, CONTRACT.numeric] = np.nan
    agree(model, rows)


def test_numbers_next_to_every_limit_of_a_tree_fall_on_the_pipelines_side(model):
    limits = np.unique(np.concatenate([
        tree.nodes["num_threshold"][tree.nodes["is_leaf"] == 0]
        for (tree,) in getattr(model[0][-1], "_predictors", ())] or [[1.0, 20.0]]))  # a scorecard has none
    near = np.concatenate([limits, np.nextafter(limits, -np.inf), np.nextafter(limits, np.inf)])
    near = near[np.isfinite(near) & (near >= 0)]
    rows = world(len(near), seed=3)
    for name in ("silent", "visits", "change", ODD):
        rows[name] = near
    agree(model, rows)


number = st.one_of(st.none(), st.floats(-1e300, 1e300), st.just(math.nan), st.integers(-(2**63), 2**63 - 1),
                   st.sampled_from([0, -0.0, 1, 0.5, 5e-324, 2**53 + 1, 1e300]))
positive = st.one_of(st.none(), st.floats(0, 1e300), st.integers(0, 2**63 - 1))
word = st.one_of(st.none(), st.sampled_from(["a", "b", "ä b", CITIES[0], CITIES[39], "nan", "None"]), st.text())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.fixed_dictionaries({
    "silent": positive, "tier": word, "visits": positive, "change": number, "empty": number, "city": word,
    "never": word, ODD: number}))
def test_any_row_scores_as_by_the_pipeline(model, row):
    pipeline, scorer = model
    rows = pd.DataFrame([row], dtype=object)
    expected = predict(pipeline, rows, CONTRACT)[0]
    limit = 1e-12 if hasattr(scorer.final, "coef_") else 0
    assert abs(scorer.one(row) - expected) <= limit
    assert abs(scorer.score_many([row])[0] - expected) <= limit


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_number_is_refused_by_name_by_both_paths(model, value):
    _, scorer = model
    row = {**plain_rows(world(1), CONTRACT.feature_names)[0], "change": value}
    for score in (scorer.one, lambda one: scorer.score_many([one])):
        with pytest.raises(DataError, match="'change' is infinite"):
            score(row)


def test_a_number_no_logarithm_takes_is_an_error_and_not_a_score():
    train = world(500)
    pipeline = fit_pipeline("logistic", train, train["left"].to_numpy(), CONTRACT, random_state=7)
    row = {**plain_rows(train, CONTRACT.feature_names)[0], "visits": -1}
    with pytest.raises(DataError, match="outside what the model can take"):
        compile_pipeline(pipeline, CONTRACT).one(row)


def test_many_rows_take_the_other_path_and_come_back_in_order(model):
    pipeline, scorer = model
    rows = world(MANY_ROWS + 5, seed=4)
    got = scorer.score(plain_rows(rows, CONTRACT.feature_names))
    assert np.allclose(got, predict(pipeline, rows, CONTRACT), rtol=0, atol=1e-12)
    assert scorer.score([]) == []


def test_the_source_holds_no_text_of_the_data(model):
    assert not any(word in model[1].source for word in ("city 1", "ä b"))
    assert repr(ODD) in model[1].source


def test_steps_that_are_not_understood_are_refused(model):
    pipeline, _ = model
    forest = Pipeline([pipeline.steps[0], ("model", RandomForestClassifier(2).fit([[0], [1]], [0, 1]))])
    with pytest.raises(ReleaseError, match="cannot compile a RandomForestClassifier"):
        compile_pipeline(forest, CONTRACT)
    with pytest.raises(ReleaseError, match="not columns and classifier"):
        compile_pipeline(Pipeline([("model", pipeline.steps[-1][1])]), CONTRACT)


def test_a_transformation_of_numbers_that_is_not_understood_is_refused():
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression

    contract = replace(CONTRACT, snapshot=(CONTRACT.snapshot[0],))
    rows = world(200).dropna(subset=["silent"])
    odd = Pipeline([("columns", ColumnTransformer([("numbers", QuantileTransformer(n_quantiles=10), ["silent"])])),
                    ("model", LogisticRegression())]).fit(feature_frame(rows, contract), rows["left"])
    with pytest.raises(ReleaseError, match="a QuantileTransformer of numbers"):
        compile_pipeline(odd, contract)
