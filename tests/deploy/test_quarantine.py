"""`make quarantine` and `make redrive`, without a platform."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.local.quarantine import main

SOURCES = """
tables:
  orders:
    path: ${CHURN_HOME}/orders.csv
    columns: {order_id: number, customer_id: who, ordered_at: at, items: items, amount: amount}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sources.yaml").write_text(SOURCES)
    rows = [f"o{n},c1,2024-01-31,1,10" for n in range(39)]
    lines = ["number,who,at,items,amount", *rows, "o40,,2024-01-30,1,10"]
    (tmp_path / "orders.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("CHURN_HOME", str(tmp_path))
    monkeypatch.setenv("CHURN_SOURCES", str(tmp_path / "sources.yaml"))
    monkeypatch.delenv("CHURN_CHARTER", raising=False)
    return tmp_path


def load() -> None:
    from feature_repo.contract import RAW_TABLES
    from flows.context import open_context
    from tasks.data.ingest import ingest_sources

    context = open_context(datetime(2024, 2, 1, tzinfo=UTC), ingesting=True)
    ingest_sources(context.sources, context.contract, RAW_TABLES, charter=context.charter, home=context.home,
                   engine=context.engine, root=context.root, as_of=context.as_of)


def test_the_quarantine_is_listed_with_reason_file_and_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load()
    assert main("quarantine", {}) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"1 rows in the quarantine of {home}",
        "        1  orders  customer_id is missing  (completeness; orders.csv:41; last load 2024-02-01)",
    ]


@pytest.mark.usefixtures("home")
def test_a_re_drive_says_what_became_of_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    load()
    assert main("redrive", {"DRY_RUN": "1"}) == 0
    assert capsys.readouterr().out.endswith("nothing was changed. To do it: make redrive\n")
    assert main("redrive", {}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "re-drove 1 quarantined rows = 0 passed + 1 still bad + 0 re-delivered",
        "  orders: 1 = 0 passed + 1 still bad + 0 re-delivered",
        "            1  customer_id is missing",
    ]


@pytest.mark.parametrize("what", ["quarantine", "redrive"])
def test_without_a_home_there_is_one_line_and_none_is_made(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHURN_HOME", str(tmp_path / "none"))
    assert main(what, {}) == 1
    assert capsys.readouterr().err.startswith("error: no pipeline has run in ")
    assert not (tmp_path / "none").exists()


def test_before_the_first_load_a_re_drive_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "charter-name").write_text("shop\n")
    assert main("redrive", {}) == 1
    assert "nothing was loaded yet" in capsys.readouterr().err
