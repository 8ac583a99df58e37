from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

from models.errors import DataError, ReleaseError
from models.serving.scorer import (
    WHYS,
    Policy,
    check_golden,
    decide,
    decide_all,
    feature_frame,
    in_holdout,
    load_pipeline,
    predict,
)
from tests.release_payload import tiny_contract, tiny_pipeline, tiny_rows

POLICY = Policy(share_who_stay=0.5, worth_of_saved=60, cost_of_contact=4, holdout_share=0, threshold=0.4, salt="s")


def doubled(values):
    return values * 2


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return tiny_rows()


@pytest.fixture(scope="module")
def pipeline(rows):
    return tiny_pipeline(rows)


def test_a_loaded_logistic_pipeline_scores_as_the_fitted_one(pipeline, rows, tmp_path):
    skops.io.dump(pipeline, tmp_path / "p.skops")
    loaded = load_pipeline(tmp_path / "p.skops")
    assert np.array_equal(predict(loaded, rows, tiny_contract()), pipeline.predict_proba(rows)[:, 1])


def test_a_loaded_boosting_pipeline_scores_as_the_fitted_one(rows, tmp_path):
    prepare = ColumnTransformer([
        ("numbers", "passthrough", ["visits", "spend"]),
        ("words", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan,
                                 encoded_missing_value=np.nan), ["tier"]),
    ])
    fitted = Pipeline([("prepare", prepare), ("classify", HistGradientBoostingClassifier(
        max_iter=5, categorical_features=[2]))]).fit(rows, rows["visits"] < 4)
    skops.io.dump(fitted, tmp_path / "p.skops")
    loaded = load_pipeline(tmp_path / "p.skops")
    assert np.array_equal(predict(loaded, rows, tiny_contract()), fitted.predict_proba(rows)[:, 1])


def test_a_pipeline_with_a_type_outside_our_list_is_refused_by_its_name(rows, tmp_path):
    foreign = make_pipeline(FunctionTransformer(doubled), LogisticRegression())
    foreign.fit(rows[["visits"]], rows["visits"] < 4)
    skops.io.dump(foreign, tmp_path / "p.skops")
    with pytest.raises(ReleaseError, match=r"doubled, which is none of the trusted types"):
        load_pipeline(tmp_path / "p.skops")


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"PK\x05\x06" + b"\0" * 18], ids=["empty", "pickle", "zip"])
def test_what_is_no_skops_file_is_refused(content, tmp_path):
    (tmp_path / "p.skops").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"cannot load p\.skops"):
        load_pipeline(tmp_path / "p.skops")


def test_an_unfitted_pipeline_is_refused(tmp_path):
    skops.io.dump(make_pipeline(LogisticRegression()), tmp_path / "p.skops")
    with pytest.raises(ReleaseError, match="not a fitted pipeline"):
        load_pipeline(tmp_path / "p.skops")


def test_columns_are_taken_by_name_whatever_their_order_and_company(pipeline, rows):
    shuffled = rows.assign(other=1)[["other", "tier", "spend", "visits"]]
    assert np.array_equal(predict(pipeline, shuffled, tiny_contract()), predict(pipeline, rows, tiny_contract()))


def test_frames_of_any_dtype_reach_the_pipeline_as_floats_and_plain_words(rows):
    odd = rows.astype({"visits": "Int64", "spend": "Float64", "tier": "category"})
    frame = feature_frame(odd, tiny_contract())
    assert [str(dtype) for dtype in frame.dtypes] == ["float64", "float64", "object"]
    assert set(frame["tier"]) == {"gold", "silver", None}
    pd.testing.assert_frame_equal(frame, feature_frame(rows, tiny_contract()))


def test_pandas_own_missing_value_in_a_column_of_objects_is_a_missing_number():
    """Found on CDNOW: the warm-up row held one, and the release did not start."""
    row = pd.DataFrame({"visits": [1], "spend": [pd.NA], "tier": ["gold"]}, dtype=object)
    assert np.isnan(feature_frame(row, tiny_contract())["spend"][0])


def test_features_stand_in_the_order_of_the_contract_with_words_between_numbers(rows):
    contract = tiny_contract()
    turned = replace(contract, snapshot=(*contract.snapshot[:2], contract.snapshot[4], *contract.snapshot[2:4]))
    assert list(feature_frame(rows, turned)) == turned.feature_names == ["tier", "visits", "spend"]


def test_chunks_score_as_the_whole(pipeline, rows, monkeypatch):
    whole = predict(pipeline, rows, tiny_contract())
    monkeypatch.setattr("models.serving.scorer.CHUNK_ROWS", 7)
    assert np.array_equal(predict(pipeline, rows, tiny_contract()), whole)


def test_no_rows_score_to_nothing(pipeline, rows):
    assert predict(pipeline, rows.head(0), tiny_contract()).shape == (0,)


def test_a_missing_feature_is_named_with_the_nearest_there_is(pipeline, rows):
    with pytest.raises(DataError, match="without 'visits'; nearest known: visit"):
        predict(pipeline, rows.rename(columns={"visits": "visit"}), tiny_contract())


def test_a_word_where_a_number_belongs_is_refused_without_repeating_it(pipeline, rows):
    with pytest.raises(DataError) as refused:
        predict(pipeline, rows.assign(spend="secret"), tiny_contract())
    assert "'spend' must be a number" in str(refused.value)
    assert "secret" not in str(refused.value)


def golden_of(pipeline, rows):
    return rows.head(10).assign(expected_probability=pipeline.predict_proba(rows.head(10))[:, 1])


def test_golden_rows_that_agree_pass(pipeline, rows):
    golden = golden_of(pipeline, rows)
    check_golden(predict(pipeline, golden, tiny_contract()), golden)


@pytest.mark.parametrize("off_by", [1e-6, float("nan")])
def test_a_golden_row_that_differs_is_named_with_both_values(pipeline, rows, off_by):
    golden = golden_of(pipeline, rows)
    golden.loc[4, "expected_probability"] += off_by
    with pytest.raises(ReleaseError, match=r"golden row 4 scores 0\.\d+ by this path, expected .*1 of 10 rows differ"):
        check_golden(predict(pipeline, golden, tiny_contract()), golden, path="this path")


def test_no_golden_rows_is_a_no(pipeline, rows):
    with pytest.raises(ReleaseError, match="no golden rows"):
        check_golden([], golden_of(pipeline, rows).head(0))


@pytest.mark.parametrize(("probability", "eligible", "expected"), [
    (0.5, True, ("contact", "value")),   # 0.5 * 0.5 * 60 - 4 = 11
    (0.4, True, ("contact", "value")),   # exactly the threshold
    (0.39, True, ("leave", "budget")),   # worth 7.70, but the budget went to others
    (0.1, True, ("leave", "no_value")),  # 3 - 4 < 0
    (0.9, False, ("leave", "not_eligible")),
])
def test_a_decision_says_why(probability, eligible, expected):
    answer = decide(probability, "m1", POLICY, eligible=eligible)
    assert (answer.decision, answer.why) == expected
    assert answer.expected_value == pytest.approx(probability * 30 - 4)


def test_a_contact_that_brings_just_its_cost_is_left():
    policy = Policy(0.5, 60, 15, 0, 0.1, "s")
    assert decide(0.5, "m1", policy, eligible=True).why == "no_value"


@pytest.mark.parametrize("probability", [float("nan"), -0.1, 1.1])
def test_no_decision_is_made_on_what_is_no_probability(probability):
    with pytest.raises(ReleaseError, match="it must be in"):
        decide(probability, "m1", POLICY, eligible=True)


def test_the_holdout_has_its_share_and_follows_the_salt():
    entities = [f"m{number}" for number in range(20_000)]
    held = {entity for entity in entities if in_holdout(entity, salt="shop", share=0.05)}
    other = {entity for entity in entities if in_holdout(entity, salt="other", share=0.05)}
    assert len(held) / len(entities) == pytest.approx(0.05, abs=0.006)  # 4 standard errors
    assert len(held & other) < 100  # 50 expected of two independent draws
    assert all(in_holdout(entity, salt="shop", share=0.2) for entity in held)  # a larger share only adds


def test_who_is_held_out_is_left_only_where_there_was_a_contact_to_make():
    policy = Policy(0.5, 60, 4, 0.999999, 0.4, "s")
    assert decide(0.9, "m1", policy, eligible=True).why == "holdout"
    assert decide(0.2, "m1", policy, eligible=True).why == "budget"
    assert decide(0.9, None, policy, eligible=True).why == "value"


@given(
    rows=st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.4, 1.0]), st.text(max_size=5),
                            st.booleans()), max_size=20),
    policy=st.builds(Policy, st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 1e6), st.sampled_from([0.0, 0.3, 0.9]),
                     st.sampled_from([0.0, 0.25, 0.4, 1.0]), st.just("s")))
def test_a_batch_decides_as_one_by_one(rows, policy):
    answers = decide_all([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], policy)
    one_by_one = [decide(probability, entity, policy, eligible=flag) for probability, entity, flag in rows]
    assert [WHYS[why] for why in answers.why] == [answer.why for answer in one_by_one]
    assert answers.expected_value.tolist() == [answer.expected_value for answer in one_by_one]
    assert [why == 0 for why in answers.why] == [answer.decision == "contact" for answer in one_by_one]


def test_a_batch_of_what_is_no_probability_or_of_two_lengths_is_refused():
    with pytest.raises(ReleaseError, match=r"cannot decide on the probability nan; it must be in \[0, 1\]"):
        decide_all([0.5, float("nan")], ["a", "b"], [True, False], POLICY)
    with pytest.raises(ValueError, match="1 probabilities, 2 entities and 2 flags"):
        decide_all([0.9], ["a", "b"], [True, True], POLICY)


@pytest.mark.parametrize("release", [{"threshold": None, "holdout_salt": "s"}, {"threshold": 1.5, "holdout_salt": "s"},
                                     {"threshold": True, "holdout_salt": "s"}, {"threshold": 0.3}])
def test_a_release_without_threshold_or_salt_has_no_policy(release):
    from models.charter import Charter
    from tests.release_payload import CHARTER

    with pytest.raises(ReleaseError, match=r"release\.json has"):
        Policy.of(Charter.model_validate(CHARTER).value, release)
