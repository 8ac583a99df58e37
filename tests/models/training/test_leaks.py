from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.charter import Training
from models.contract import Contract
from models.errors import DataError
from models.training.leaks import find_leaks
from tests.models.training.leak_world import CONTRACT, N, rows

LIMITS = Training()


def planted(**columns: object) -> pd.DataFrame:
    return rows().assign(**columns)


def found(train: pd.DataFrame, contract: Contract = CONTRACT, **settings) -> list[tuple[str, tuple[str, ...]]]:
    return [(leak.kind, leak.columns)
            for leak in find_leaks(train, contract, LIMITS, **{"random_state": 0, "fitters": {}, **settings})]


LEFT = rows()["left"].to_numpy()
RNG = np.random.default_rng(42)
NOISE = RNG.normal(size=N)
BIG = RNG.uniform(1e6, 9e6, N)
AROUND = np.where(LEFT, 0.0, np.where(RNG.random(N) < 0.5, 3.0, -3.0)) + RNG.uniform(-1, 1, N)


@pytest.mark.parametrize("seed", range(2))
def test_an_honest_world_gives_no_alarm(seed):
    assert find_leaks(rows(seed), CONTRACT, LIMITS, random_state=seed) == ()


@pytest.mark.parametrize(("column", "how"), [
    pytest.param(np.where(LEFT, 1.0, 0.0), "first alone tells", id="the label itself"),
    pytest.param(np.where(LEFT, -3.0, 3.0) + NOISE, "first alone tells", id="the label upside down, with noise"),
    pytest.param(np.where(LEFT, np.nan, NOISE), "first alone (whether it is missing)", id="missing where they left"),
    pytest.param(np.where(LEFT, 0.0, np.where(NOISE > 0, 5.0, -5.0)) + NOISE * 0.1, "first alone (by ranges)",
                 id="near none where they left"),
])
def test_a_feature_too_good_to_be_true_is_named(column, how):
    leak, = find_leaks(planted(first=column), CONTRACT, LIMITS, random_state=0, fitters={})
    assert (leak.kind, leak.columns, leak.refuses) == ("single", ("first",), True)
    assert leak.reason.startswith(how)


def test_a_category_too_good_to_be_true_is_named():
    assert found(planted(tier=np.where(LEFT, "closed", "open"))) == [("single", ("tier",))]


def test_three_hundred_categories_of_noise_are_no_leak():
    assert found(planted(tier=np.random.default_rng(3).integers(0, 300, N).astype(str))) == []


def test_the_limit_is_the_charters():
    # Two normal laws four deviations apart: AUC is the normal law at 4 / sqrt(2), .998.
    good = planted(first=4.0 * LEFT + NOISE)
    assert found(good) == [("single", ("first",))]
    assert [leak.kind for leak in find_leaks(good, CONTRACT, Training(max_single_auc=0.9999), random_state=0,
                                             fitters={})] == []


@pytest.mark.parametrize(("first", "second"), [
    pytest.param(NOISE, LEFT - NOISE, id="sum"),
    pytest.param(BIG, BIG - LEFT, id="difference of large numbers"),
    pytest.param(2 * NOISE, 7 - 5 * LEFT + 3 * NOISE, id="weighted sum"),
    pytest.param(NOISE, np.where(LEFT, 1, -1) * np.abs(NOISE[::-1]) - NOISE, id="sum above a limit"),
    pytest.param(BIG, BIG * np.where(LEFT, 1.1, 0.9), id="ratio above a limit"),
    pytest.param(NOISE, AROUND - NOISE, id="sum near none"),
    pytest.param(NOISE, AROUND + NOISE, id="difference near none"),
    pytest.param(np.sign(NOISE), np.sign(NOISE) * np.where(LEFT, 1, -1), id="equal or not"),
])
def test_two_features_that_make_the_label_together_are_named(first, second):
    kinds = found(planted(first=first, second=second))
    assert kinds == [("pair", ("first", "second"))]


def test_an_exact_relation_says_its_weights_and_holds_where_values_are_missing():
    gone = np.random.default_rng(1).random(N) < 0.2
    leak, = find_leaks(planted(first=np.where(gone, np.nan, 2 * NOISE), second=3 * NOISE - 5 * LEFT), CONTRACT, LIMITS,
                       random_state=0, fitters={})
    assert leak.reason.startswith("first and second add up to the label (+0.3 and -0.2 of them")


def test_a_pair_that_is_much_better_than_each_alone_is_told_and_not_refused():
    wrong = np.random.default_rng(2).random(N) < 0.06  # of the sums: AUC .94 and not .99
    leak, = find_leaks(planted(first=3 * NOISE, second=(LEFT ^ wrong) - 3 * NOISE), CONTRACT, LIMITS, random_state=0,
                       fitters={})
    assert (leak.kind, leak.columns, leak.refuses) == ("pair", ("first", "second"), False)
    assert "see whether one is taken from after the cut" in leak.reason


def test_a_pair_is_not_blamed_for_what_one_of_them_does_alone():
    assert found(planted(first=LEFT.astype(float))) == [("single", ("first",))]


def test_a_pipeline_that_reads_the_labels_it_scores_is_found_out():
    def peeks(_, held_out):
        return held_out["left"].to_numpy() + NOISE[:len(held_out)]

    def honest(_, held_out):
        return held_out["silent"].to_numpy()

    leak, = find_leaks(rows(), CONTRACT, LIMITS, random_state=0, fitters={"peeks": peeks, "honest": honest})
    assert (leak.kind, leak.refuses) == ("permutation", True)
    assert leak.reason.startswith("peeks scores shuffled labels")


def test_scores_that_are_no_number_are_no_proof_of_innocence():
    leak, = find_leaks(rows(), CONTRACT, LIMITS, random_state=0,
                       fitters={"silent": lambda _, held_out: np.full(len(held_out), np.nan)})
    assert (leak.kind, leak.refuses) == ("permutation", True)


def test_a_label_on_its_head_is_refused_by_the_signs_the_contract_states():
    leak, = find_leaks(planted(left=~LEFT), CONTRACT, LIMITS, random_state=0, fitters={})
    assert (leak.kind, leak.columns, leak.refuses) == ("sign", ("silent", "visits"), True)


def test_less_of_a_feature_may_be_what_means_churn():
    visits = Contract("id", "left", (), tuple(column for column in CONTRACT.features if column.name == "visits"), {})
    assert found(rows(), visits) == []
    assert found(planted(left=~LEFT), visits) == [("sign", ("visits",))]


def test_without_a_stated_sign_or_without_an_answer_it_says_so_and_does_not_refuse():
    unsigned = Contract("id", "left", (), tuple(column for column in CONTRACT.features if not column.sign), {})
    leak, = find_leaks(rows(), unsigned, LIMITS, random_state=0, fitters={})
    assert (leak.refuses, "states no feature's sign" in leak.reason) == (False, True)
    unrelated = planted(left=np.random.default_rng(5).permutation(LEFT))
    leak, = find_leaks(unrelated, CONTRACT, LIMITS, random_state=0, fitters={})
    assert (leak.refuses, "cannot be told" in leak.reason) == (False, True)


def test_one_class_is_refused():
    with pytest.raises(DataError, match="cannot look for leaks: 0 of 1,600 training rows churned"):
        find_leaks(planted(left=False), CONTRACT, LIMITS, random_state=0)
    with pytest.raises(DataError, match="1 of 1,600 training rows churned"):
        find_leaks(planted(left=np.arange(N) == 7), CONTRACT, LIMITS, random_state=0)


@pytest.mark.parametrize(("changes", "said"), [
    (dict.fromkeys(CONTRACT.numeric, np.nan) | dict.fromkeys(CONTRACT.categorical),
     "none of the . features has a value"),
    ({"left": np.where(np.arange(N) % 10, LEFT, np.nan)}, "'left' is neither 0 nor 1"),
    ({"first": np.inf}, "'first' is infinite"),
], ids=["all features null", "a label that is missing", "infinity"])
def test_rows_that_nothing_can_be_fitted_on_are_refused_in_a_line(changes, said):
    with pytest.raises(DataError, match=said):
        find_leaks(rows().assign(**changes), CONTRACT, LIMITS, random_state=0)
