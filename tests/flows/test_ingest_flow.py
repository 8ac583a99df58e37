"""Ingest and re-drive as flows: what they leave in the ledger, the reports and Prefect."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from models.errors import DataError
from tasks.data.quality import read_scorecards
from tasks.home import Home
from tasks.monitoring.heartbeats import last_beats
from tasks.state import open_state, read_decisions
from tasks.tables import TOLD

pytestmark = pytest.mark.service

AS_OF = datetime(2024, 2, 1, tzinfo=UTC)
SOURCES = """
tables:
  orders:
    path: ${CHURN_HOME}/orders*.csv
    columns: {order_id: number, customer_id: who, ordered_at: at, items: items, amount: amount}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Forty orders in January 2024, the last of them bad, and no customers table."""
    (tmp_path / "sources.yaml").write_text(SOURCES)
    rows = [f"o{n},c1,2024-01-{31 - n % 10},1,10" for n in range(39)]
    lines = ["number,who,at,items,amount", *rows, "o40,,2024-01-30,1,10"]
    (tmp_path / "orders.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    monkeypatch.setenv("CHURN_SOURCES", str(tmp_path / "sources.yaml"))
    monkeypatch.delenv("CHURN_CHARTER", raising=False)
    return Home(tmp_path)


@pytest.mark.usefixtures("prefect_harness")
def test_a_load_leaves_its_scorecard_in_state_ledger_picture_and_prefect(home):
    from prefect.artifacts import Artifact

    from flows.ingest import ingest

    ingest(AS_OF)
    (card,) = read_scorecards(open_state(home.state_url))
    assert card.line == "0.975 overall: weakest completeness of orders (customer_id is missing: 1 of 40 rows)"
    (row,) = read_decisions(open_state(home.state_url), gate="data")
    assert (row.decision.reason, row.flow_run_id is None) == (
        "40 rows in = 39 kept + 1 quarantined + 0 re-delivered", False,
    )
    assert (home.reports / "quality.png").exists()
    assert last_beats(open_state(home.state_url))["ingest"].as_of == AS_OF
    shown = Artifact.get("quality")
    assert shown is not None
    assert card.line in str(shown.data)
    picture = Artifact.get("quality-over-time")
    assert picture is not None
    assert str(picture.data).startswith("data:image/png;base64,")


@pytest.mark.usefixtures("prefect_harness")
def test_a_refused_batch_leaves_its_scores_in_the_ledger_and_no_load(home):
    from flows.ingest import ingest

    bad = "".join(f"o5{n},,2024-01-31,1,10\n" for n in range(3))
    (home.root / "orders2.csv").write_text("number,who,at,items,amount\n" + bad)
    with pytest.raises(DataError, match=r"4 of 43 new rows are bad .*; most often: customer_id is missing \(4\)"):
        ingest(AS_OF)
    (row,) = read_decisions(open_state(home.state_url), gate="data")
    assert row.decision.verdict == "refuse"
    assert str(row.decision.evidence["weakest"]).startswith("completeness of orders: ")
    with open_state(home.state_url).connect() as connection:  # its event was sent, or the server was too busy for it
        assert connection.execute(sa.select(TOLD.c.decision_id)).scalars().all() == [row.decision_id]
    assert read_scorecards(open_state(home.state_url)) == []
    assert last_beats(open_state(home.state_url)) == {}  # a refused batch is no work done


@pytest.mark.usefixtures("prefect_harness")
def test_a_re_drive_is_written_down_and_a_dry_one_is_not(home):
    from flows.ingest import ingest
    from flows.redrive import redrive

    ingest(AS_OF)
    assert redrive(dry_run=True).line.startswith("would re-drive 1 quarantined rows")
    assert len(read_decisions(open_state(home.state_url), gate="data")) == 1
    redrive()
    newest = read_decisions(open_state(home.state_url), gate="data")[0]
    assert newest.decision.reason == "re-drove 1 quarantined rows = 0 passed + 1 still bad + 0 re-delivered"
    assert newest.flow_run_id is not None
