"""The page that answers "why did it retrain, or not?": a year of checks of all kinds, and what became of each."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.logging import disable_run_logger

from flows.settings import REPO
from models.charter import load_charter
from models.decision import Decision
from models.gates.drift import ColumnDrift, DriftReport
from models.gates.retraining import NAMES
from models.gates.signals import Signal
from tasks.home import Home
from tasks.monitoring.decide import decide_and_record
from tasks.monitoring.memory import Labelled
from tasks.monitoring.why import read_checks, story
from tasks.monitoring.why_page import write_why
from tasks.release import rollouts
from tasks.state import now, open_state, record_decision, set_clock
from tasks.tables import DECISIONS, METADATA

CHARTER = load_charter(REPO / "charter.yaml")
MOVED = DriftReport((ColumnDrift("weight", "KS", 0.0, 0.31, 0.0, 0.0, 0.24, flagged=True, matters=True),), 900, 900)
LIGHT = DriftReport((ColumnDrift("colour", "chi2", 0.0, 0.31, 0.0, 0.0, 0.004, flagged=True),), 900, 900)
STILL = DriftReport((ColumnDrift("weight", "KS", 0.4, 0.001, 0.0, 0.0, 0.24),), 900, 900)
CRASHED = DriftReport((), 0, 0, "0 current rows, needs 200")


def month(number: int) -> datetime:
    return datetime(2025 + (number - 1) // 12, (number - 1) % 12 + 1, 1, tzinfo=UTC)


def check(engine: sa.Engine, number: int, report: DriftReport = STILL, *, release_id: str = "churn:1",
          labelled: Labelled | Exception | None = None, **states: str) -> str:
    """One recorded check; returns its decision id."""
    seen = {name: Signal(name, "good", f"{name} is as it should be: 0.84 of at least 0.65") for name in NAMES}
    for name, state in states.items():
        evidence = {"changed_since": "2025-06-01"} if name == "concept" else {}
        seen[name] = Signal(name, state, f"{name} is {state}: 0.61 [0.59, 0.63] of at least 0.65", evidence)  # type: ignore[arg-type,index]
    home = Home(Path(str(engine.url.database)).parent, "shop")
    decide_and_record.fn(report, list(seen.values()), None, engine=engine, home=home, charter=CHARTER,
                         release_id=release_id, labelled=labelled or Labelled(), as_of=month(number))
    with engine.connect() as connection:
        return str(connection.execute(sa.select(DECISIONS.c.decision_id).order_by(DECISIONS.c.at.desc())).scalar())


def answer(engine: sa.Engine, verdict: str, decision_id: str, number: int, reason: str, **evidence: str) -> None:
    record_decision(engine, Decision("retrain", verdict, reason, {"decision_id": decision_id, **evidence}),
                    as_of=month(number))


def live_through_a_year(engine: sa.Engine) -> None:
    """Quiet, drift that is acted on, drift that did no harm, the concept, bad data, missing labels, broken memory."""
    early = {"labels": "waiting", "performance": "waiting", "concept": "waiting"}
    check(engine, 1, **early)
    check(engine, 2, LIGHT, **early)
    check(engine, 3, MOVED)
    asked = check(engine, 4, MOVED)
    answer(engine, "accept", asked, 4, "retraining", window="combined")
    answer(engine, "done", asked, 4, "retrained, version 2: release: canary of 5 % begins", model_version="2")
    with engine.begin() as connection:
        connection.execute(METADATA.tables["releases"].insert().values(
            release_id="churn:2", model_version="2", run_id="r", fingerprint="f", as_of="2025-04-01", auc=0.8,
            monthly_value=1.0, created_at=now()))
    record_decision(engine, Decision("promotion", "promote", "wins"), as_of=month(4), subject="2")
    rollout = rollouts.open_new(engine, release_id="churn:2", strategy="basic", who="retrain", why="drift")
    rollouts.close(engine, rollout, state="champion", reason="promoted")
    check(engine, 5, MOVED, release_id="churn:2")
    check(engine, 6, MOVED, release_id="churn:2", labelled=Labelled(month(5), champion=True))
    waits = check(engine, 7, release_id="churn:2", concept="bad")
    for number in (7, 8):
        answer(engine, "wait", waits, number, "two mature cuts are needed", waits_until="2025-09-05",
               changed_since="2025-06-01")
    check(engine, 8, release_id="churn:2", quality="bad", concept="bad")
    taken = check(engine, 9, MOVED, release_id="churn:2", concept="bad", performance="bad",
                  labelled=Labelled(month(7), champion=True))
    answer(engine, "accept", taken, 9, "retraining", window="new", not_before="2025-06-01")
    answer(engine, "done", taken, 9, "retrained, and no model is released: equal: +12 a month [-400, +430]")
    check(engine, 10, release_id="churn:2", labels="bad")
    check(engine, 11, CRASHED, release_id="churn:2")
    check(engine, 11, release_id="churn:2", concept="broken")
    check(engine, 12, release_id="churn:2", labelled=OSError("no space left on device"))
    check(engine, 13, release_id="churn:2", performance="bad", labelled=Labelled(month(11), champion=True))
    set_clock(engine, month(13))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home", "shop")
    found.root.mkdir()
    (found.root / "charter-name").write_text("shop\n")
    with disable_run_logger():
        live_through_a_year(open_state(found.state_url))
    return found


def test_each_check_says_what_was_decided_why_and_what_followed(home: Home) -> None:
    checks = read_checks(open_state(home.state_url), CHARTER)
    assert [(check.date[:7], check.verdict, check.repeats) for check in checks] == [
        ("2025-01", "nothing", 0), ("2025-02", "harmless", 0), ("2025-03", "harmless", 0), ("2025-04", "retrain", 0),
        ("2025-05", "harmless", 0), ("2025-06", "harmless", 0), ("2025-07", "retrain", 0), ("2025-08", "alarm", 0),
        ("2025-09", "retrain", 0), ("2025-10", "alarm", 0), ("2025-11", "alarm", 1), ("2025-12", "alarm", 0),
        ("2026-01", "retrain", 0)]
    followed = {check.date[:7]: check.followed for check in checks}
    assert followed["2025-04"] == (
        "retrained at 2025-04-01, window combined",
        "retrained, version 2: release: canary of 5 % begins; version 2 is now: champion")
    assert followed["2025-07"] == ("waits until 2025-09-05", "not acted on, and it will not be: it is 118 days old, "
                                   "valid for 31: wait for the next monitor run")
    assert followed["2025-09"][0] == "retrained at 2025-09-01, window new from 2025-06-01 on"
    assert followed["2026-01"] == ("open: nobody has acted on it yet; every check asks again",)
    assert followed["2025-08"] == ()
    assert checks[5].counts == ("2 of 3", "0", "2")
    assert {name: state for name, state, _ in checks[7].signals}["quality"] == "bad"
    text = story(checks)
    assert "2025-08-01  alarm: the data is bad, so what moved is no drift" in text
    assert "2025-11-01  alarm (checked 2 times)" in text


def test_the_page_opens_offline_is_private_and_shows_every_check(home: Home) -> None:
    page = write_why(open_state(home.state_url), CHARTER, home)
    text = page.read_text(encoding="utf-8")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert [path.name for path in home.reports.iterdir()] == ["why-retrain.html"]
    assert not re.search(r"(src|href)=.https?:|<script", text)
    for check in read_checks(open_state(home.state_url), CHARTER):
        assert f"{check.date}: {check.verdict}</h2>" in text
    assert text.count("data:image/png;base64,") == 1


def why_retrain(home: Home, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "deploy.local.why_retrain"], cwd=REPO, capture_output=True, text=True,
                          check=False, env={**os.environ, "CHURN_HOME": str(home.root), **environment})


def test_make_why_retrain_tells_it_from_the_ledger_and_names_the_page(home: Home) -> None:
    done = why_retrain(home, LAST="3")
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0][:19]) == (0, "2025-11-01  alarm (")
    assert lines[-1] == (home.reports / "why-retrain.html").as_uri()


@pytest.mark.parametrize(("given", "said"), [("none", "LAST is 'none', not a number from 1"), ("0", "LAST is '0'")])
def test_a_number_of_checks_that_is_none_is_one_line(home: Home, given: str, said: str) -> None:
    done = why_retrain(home, LAST=given)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_ledger_that_cannot_be_read_and_one_without_checks_are_one_line(tmp_path: Path, home: Home) -> None:
    with open_state(home.state_url).begin() as connection:
        connection.execute(DECISIONS.update().values(evidence="{"))
    done = why_retrain(home)
    assert (done.returncode, "error: cannot read decision" in done.stderr) == (1, True)
    empty = Home(tmp_path / "empty", "shop")
    empty.root.mkdir()
    (empty.root / "charter-name").write_text("shop\n")
    done = why_retrain(empty)
    assert (done.returncode, "no check was ever made in" in done.stderr) == (1, True)
