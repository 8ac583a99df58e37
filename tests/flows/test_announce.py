"""The alarm of Prefect's own dead-man switch: only a part that works by itself can be silent."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.announce import announce
from flows.settings import load_place, load_settings
from models.errors import ConfigError
from tasks.monitoring.alarms import open_alarms
from tasks.state import open_state, read_decisions, set_clock

pytestmark = pytest.mark.usefixtures("prefect_harness")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))


def test_a_part_that_prefect_misses_is_an_alarm_and_a_text_that_is_none_is_refused_in_one_line() -> None:
    charter, home = load_place(load_settings())
    engine = open_state(home.state_url)
    set_clock(engine, datetime(2025, 1, 1, tzinfo=UTC))
    assert announce(silent="monitor") == 0
    assert [(one.subject, one.owner) for one in open_alarms(engine, charter)] == [("monitor", "data scientist")]
    with pytest.raises(ConfigError, match=r"cannot raise an alarm .* silence of 'montior': .*nearest known: mon"):
        announce(silent="montior")
    assert len(read_decisions(engine)) == 1
