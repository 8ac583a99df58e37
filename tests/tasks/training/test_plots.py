from __future__ import annotations

import numpy as np
import pytest

from models.charter import Value
from models.evaluation.curves import ranking_curves
from models.evaluation.evaluate import evaluate_scores
from tasks.training.plots import draw_evaluation

VALUE = Value(customers=10, monthly_churners=2, share_found=0.5, share_who_stay=0.5, worth_of_saved=10,
              cost_of_contact=1, contact_budget=40)
RNG = np.random.default_rng(0)
P = 1 / (1 + np.exp(-RNG.normal(-1, 1.5, 400)))
Y = (RNG.random(400) < P).astype(float)
WHO = np.arange(400)
TIER = np.where(WHO < 6, "tiny", np.where(WHO % 2 == 0, "a", "b"))


@pytest.fixture(scope="module")
def evaluation():
    return evaluate_scores(Y, P, WHO, value=VALUE, segments={"tier": TIER}, random_state=1)


def texts(figure) -> str:
    axes = figure.axes[0]
    labels = [*axes.texts, *axes.get_yticklabels(), *(axes.get_legend().texts if axes.get_legend() else [])]
    return " | ".join([axes.get_title(loc="left"), *(label.get_text() for label in labels)])


def test_there_is_a_figure_for_each_curve_and_for_the_segments(evaluation, tmp_path):
    figures = draw_evaluation(evaluation)
    assert list(figures) == ["roc", "calibration", "gain", "profit", "segments"]
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_without_segments_there_is_no_figure_of_them():
    figures = draw_evaluation(evaluate_scores(Y, P, WHO, value=VALUE, random_state=1))
    assert list(figures) == ["roc", "calibration", "gain", "profit"]


def test_the_profit_curve_marks_the_budget_at_what_it_brought(evaluation):
    axes = draw_evaluation(evaluation)["profit"].axes[0]
    budget = next(line for line in axes.lines if line.get_label() == "contact budget")
    assert budget.get_xdata()[0] == 40
    point = axes.lines[axes.lines.index(budget) + 1]
    assert point.get_ydata()[0] == pytest.approx(evaluation.scores["value"].value, rel=0.02)


def test_the_segments_name_the_worst_and_say_which_are_too_small(evaluation):
    shown = texts(draw_evaluation(evaluation)["segments"])
    assert f"worst: {evaluation.worst}" in shown
    assert "too few to say: 6 rows" in shown
    assert "tier: tiny (6)" in shown


def test_a_baseline_is_drawn_beside_the_model_by_its_name(evaluation):
    beside = ranking_curves(Y, np.round(P, 1), WHO, value=VALUE)
    figures = draw_evaluation(evaluation, baseline=beside, baseline_name="days silent alone")
    for name in ("roc", "gain", "profit"):
        assert "days silent alone" in texts(figures[name])
    assert "days silent alone" not in texts(draw_evaluation(evaluation)["roc"])


def test_drawing_leaves_no_figure_open(evaluation):
    import matplotlib.pyplot as plt

    draw_evaluation(evaluation)
    assert plt.get_fignums() == []
