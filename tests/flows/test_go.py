"""Go and no-go in the ledger, from rows in a real file to what a lifecycle may release."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from prefect import flow

from flows import lifecycle
from flows.context import Context
from flows.go import data_for_a_design, judge_design, judge_development
from flows.releasing import no_go_of
from flows.settings import Settings
from models.cuts import CutPlan
from models.decision import Decision
from models.errors import DataError
from models.evaluation.bootstrap import Interval
from tasks.data.sources import Sources
from tasks.home import Home
from tasks.release import rollouts
from tasks.state import open_state, read_decisions, record_decision
from tests.card_model import CONTRACT, charter

CUTS = [datetime(2024, month, 1, tzinfo=UTC) for month in (9, 10, 11)]
PLAN = CutPlan(train=tuple(CUTS[:2]), test=(CUTS[2],))
AS_OF = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    return Context(Settings(), charter(), home, open_state(home.state_url), Sources(tables={}), CONTRACT, AS_OF)


def training_set(folder: Path, *, customers: int, churners: int) -> Path:
    path = folder / "set.parquet"
    pl.concat([
        pl.DataFrame({"event_timestamp": [cut] * customers, "left": [1] * churners + [0] * (customers - churners)},
                     schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")}) for cut in CUTS
    ]).write_parquet(path)
    return path


def test_the_design_is_judged_on_the_rows_of_the_training_set_and_stands_in_the_ledger(context, tmp_path):
    decision = judge_design(context, PLAN, training_set(tmp_path, customers=1200, churners=240))
    assert decision.verdict == "go", decision.reason
    seen = {name: decision.evidence[name] for name in (
        "train_rows", "train_churners", "test_rows", "test_churners", "train_cuts", "test_cuts")}
    assert seen == {"train_rows": 2400, "train_churners": 480, "test_rows": 1200, "test_churners": 240, "train_cuts": 2,
                    "test_cuts": 1}
    (row,) = read_decisions(context.engine, gate="go")
    assert (row.decision, row.subject, row.as_of) == (decision, "set.parquet", AS_OF.isoformat())


def test_a_design_without_test_rows_or_churners_is_no_go(context, tmp_path):
    assert judge_design(context, PLAN, training_set(tmp_path, customers=1200, churners=0)).verdict == "no go"
    nowhere = CutPlan(train=PLAN.train, test=(datetime(2024, 12, 1, tzinfo=UTC),))
    decision = judge_design(context, nowhere, training_set(tmp_path, customers=1200, churners=240))
    assert "0 test rows" in decision.reason


def test_a_plan_that_cannot_be_made_is_a_no_go_of_the_design_and_still_an_error(context):
    with pytest.raises(DataError, match="no cuts"), data_for_a_design(context):
        raise DataError("cannot train: no cuts")
    (row,) = read_decisions(context.engine, gate="go")
    assert (row.decision.verdict, row.decision.reason) == ("no go", "design: cannot train: no cuts")


@pytest.mark.service
@pytest.mark.usefixtures("prefect_harness")
def test_development_is_recorded_for_its_version_with_the_three_views(context):
    scores = {"auc": Interval(0.8, 0.7, 0.9), "brier": Interval(0.04, 0.03, 0.045), "value": Interval(1500, 1200, 1800)}
    promoted = Decision("promotion", "promote", "better")

    @flow
    def judged() -> tuple[Decision, Decision]:
        return (judge_development(context, promoted, scores, subject="1"),
                judge_development(context, promoted, {"auc": scores["auc"]}, subject="2"))

    good, bad = judged()
    assert (good.verdict, bad.verdict) == ("go", "no go")
    assert "2 of 3 levels asked are not reached" in bad.reason
    assert read_decisions(context.engine, gate="go", subject="1")[0].decision == good
    assert no_go_of(context.engine, "1") is None
    assert no_go_of(context.engine, "2") == bad.reason


def test_a_version_without_a_verdict_on_its_development_has_none_in_its_favour(context):
    record_decision(context.engine, Decision("go", "go", "design: fine", {"stage": "design"}), subject="3", as_of=AS_OF)
    assert no_go_of(context.engine, "3") == "version 3 has no go of its development in the ledger"


def test_the_newest_verdict_on_a_development_counts(context):
    for verdict in ("no go", "go"):
        record_decision(context.engine, Decision("go", verdict, f"development: {verdict}", {"stage": "development"}),
                        subject="4", as_of=AS_OF)
    assert no_go_of(context.engine, "4") is None


def test_a_promoted_version_with_a_no_go_is_not_released_by_itself(context, monkeypatch):
    def release(**arguments: object) -> Decision:
        raise AssertionError(f"released: {arguments}")

    monkeypatch.setattr(lifecycle, "release", release)
    record_decision(context.engine, Decision("go", "no go", "development: too weak", {"stage": "development"}),
                    subject="5", as_of=AS_OF)
    promotion = Decision("promotion", "promote", "first model", {"model_version": "5"})
    answer = lifecycle.release_winner(context, promotion)
    assert (answer.gate, answer.verdict) == ("release", "refuse")
    assert "development: too weak. A person may: `make release VERSION=5" in answer.reason
    assert read_decisions(context.engine, gate="release", subject="5")[0].decision == answer


@pytest.mark.parametrize(("gate", "verdict", "rows"), [("release", "rolled back", 0), ("canary", "hold", 1)])
def test_a_version_that_waits_for_a_rollout_does_not_tell_the_end_of_that_one_again(
    context, monkeypatch, gate, verdict, rows
):
    monkeypatch.setattr(lifecycle, "release", lambda: Decision(gate, verdict, "as it is"))
    record_decision(context.engine, Decision("go", "go", "fine", {"stage": "development"}), subject="5", as_of=AS_OF)
    rollouts.open_new(context.engine, release_id="churn:4", strategy="basic", who="ada", why="test")
    answer = lifecycle.release_winner(context, Decision("promotion", "promote", "better", {"model_version": "5"}))
    assert (answer.verdict, "version 5 waits: a rollout of churn:4 is open" in answer.reason) == (verdict, True)
    assert len(read_decisions(context.engine, gate=gate)) == rows
