from __future__ import annotations

from tasks.training.train_plots import MOST, draw_importance


def test_the_strongest_features_stand_on_top_with_their_share_and_the_others_are_counted():
    axes = draw_importance({f"f{number}": number / 210 for number in range(21)}).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert (names[-1], len(names)) == ("f20", MOST)
    texts = [text.get_text() for text in axes.texts]
    assert any("6 more carry less" in text for text in texts)
    assert "10%" in texts


def test_few_features_are_all_shown():
    axes = draw_importance({"a": 0.7, "b": 0.3}).axes[0]
    assert not any("more carry less" in text.get_text() for text in axes.texts)
