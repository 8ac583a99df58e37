from __future__ import annotations

import pytest

from deploy.local.score import main


@pytest.mark.parametrize(("values", "words"), [({}, "error: no pipeline has run in "),
                                               ({"AS_OF": "soon"}, "error: cannot read AS_OF='soon'")])
def test_what_cannot_be_scored_is_one_clear_line(values, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "none"))
    assert main(values) == 1
    assert capsys.readouterr().err.startswith(words)
    assert not (tmp_path / "none").exists()
