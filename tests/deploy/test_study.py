from __future__ import annotations

from datetime import UTC, datetime

import pytest

from deploy.local.study import main, read_values
from models.errors import ConfigError
from models.study.history import StudyConfig


def test_values_of_the_command_are_a_date_and_a_config():
    assert read_values({}) == (None, StudyConfig())
    assert read_values({"AS_OF": "2025-01-01", "ESTIMATOR": "boosting", "SECONDS": "60"}) == (
        datetime(2025, 1, 1, tzinfo=UTC), StudyConfig(estimator="boosting", max_seconds=60))


@pytest.mark.parametrize(("values", "words"), [
    ({"ESTIMATOR": "forest"}, "cannot study with estimator='forest': Input should be 'logistic' or 'boosting'"),
    ({"SECONDS": "soon"}, "cannot study with max_seconds='soon'"),
    ({"SECONDS": "-1"}, "cannot study with max_seconds='-1': Input should be greater than 0"),
    ({"AS_OF": "soon"}, "cannot read AS_OF='soon'"),
])
def test_a_value_that_cannot_be_used_is_one_clear_line(values, words):
    with pytest.raises(ConfigError, match=words):
        read_values(values)


def test_without_a_home_it_says_what_to_run_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "none"))
    assert main({}) == 1
    assert capsys.readouterr().err.startswith("error: no pipeline has run in ")
    assert not (tmp_path / "none").exists()
