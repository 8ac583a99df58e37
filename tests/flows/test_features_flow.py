"""Every features run compares online with offline features; what was not put online fails it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from models.errors import DataError
from tasks.home import Home
from tasks.monitoring.heartbeats import last_beats
from tasks.state import open_state

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]
FEBRUARY = datetime(2024, 2, 1, tzinfo=UTC)


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two orders of two customers, ingested as of 1 February."""
    from flows.ingest import ingest

    (tmp_path / "orders.csv").write_text("who,day,pieces,paid\nc1,2024-01-29,1,10\nc2,2024-01-30,2,20\n")
    (tmp_path / "sources.yaml").write_text(
        f"tables:\n  orders:\n    path: {tmp_path}/orders.csv\n    columns: "
        "{customer_id: who, ordered_at: day, items: pieces, amount: paid}\n")
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CHURN_SOURCES", str(tmp_path / "sources.yaml"))
    ingest(FEBRUARY)
    return tmp_path


def beaten(folder):
    """The parts that say they did their work as of February."""
    found = last_beats(open_state(Home(folder / "home").state_url))
    return {name for name, beat in found.items() if beat.as_of == FEBRUARY}


def test_a_features_run_ends_well_where_online_equals_offline(loaded):
    from flows.features import features

    assert features(FEBRUARY) == 2
    assert beaten(loaded) == {"ingest", "online", "parity", "features"}


def test_a_features_run_fails_where_a_customer_did_not_arrive_online(loaded, monkeypatch):
    from flows import features

    monkeypatch.setattr(features, "materialize_snapshot", lambda *_: 2)
    with pytest.raises(DataError, match=r"cannot trust the online store as of 2024-02-01: customer_id 'c1' .* missing"):
        features.features(FEBRUARY)
    assert beaten(loaded) == {"ingest", "online"}  # it went online, and nobody vouches for it


@pytest.mark.parametrize(("variable", "value", "told"), [
    ("CHURN_ONLINE_STORE", "127.0.0.1:6379", "cannot use the online store 127.0.0.1:6379: not redis://host:port/db"),
    *[("CHURN_MEMORY_LIMIT", value, "not an amount above zero with a unit. Write it as 4GB")
      for value in ("-1GB", "abc", "0", "0GB", "")],
    ("CHURN_FEATURE_REGISTRY", "mysql://u:hidden@h/d", "cannot use the feature registry mysql://h/d: not postgresql"),
])
def test_a_store_that_cannot_be_used_is_refused_before_anything_starts(tmp_path, monkeypatch, variable, value, told):
    from flows.settings import load_place, load_settings
    from models.errors import ConfigError

    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=told) as raised:
        load_place(load_settings())
    assert "hidden" not in str(raised.value)
    assert not (tmp_path / "home").exists()
