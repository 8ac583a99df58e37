"""Whose labels there are, by the rows of `lake/truth`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tasks.data.lake import write_partition
from tasks.home import Home
from tasks.monitoring.memory import Labelled
from tasks.monitoring.parts import labelled
from tasks.monitoring.truth import COLUMNS, truth_partition
from tasks.release import rollouts
from tasks.state import open_state
from tests.decision_world import BAD, STILL, check, model, month, retrained

pytestmark = pytest.mark.usefixtures("no_run_logger")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", "shop")


def write(home: Home, cut: datetime, customers: Mapping[str, int], *, label: float | None = 1.0) -> None:
    """A cohort of which each release scored so many customers."""
    scored = [release_id for release_id, count in customers.items() for _ in range(count)]
    nothing = pl.DataFrame(schema={"id": pl.String, **COLUMNS})
    rows = pl.DataFrame({"id": [f"c{number:04}" for number in range(len(scored))], "release_id": scored}).with_columns(
        pl.lit(cut, COLUMNS["event_timestamp"]).alias("event_timestamp"), pl.lit(label, pl.Float64).alias("label"))
    write_partition(pl.concat([nothing, rows], how="diagonal"), truth_partition(home, cut))


def test_a_cohort_is_the_champions_own_where_it_scored_most_of_those_who_have_a_label(home: Home) -> None:
    now = month(4)
    assert labelled(home, "churn:2", as_of=now) == Labelled()
    write(home, month(1), {"churn:1": 990, "churn:2": 10})  # it was a canary then
    assert labelled(home, "churn:2", as_of=now) == Labelled(month(1))
    assert labelled(home, "churn:1", as_of=now) == Labelled(month(1), champion=True)
    write(home, month(2), {"churn:1": 400, "churn:2": 600}, label=None)
    assert labelled(home, "churn:2", as_of=now) == Labelled(month(1))
    write(home, month(2), {"churn:1": 400, "churn:2": 600})
    assert labelled(home, "churn:2", as_of=now) == Labelled(month(2), champion=True)
    assert labelled(home, None, as_of=now) == Labelled(month(2))


def test_bad_labels_of_the_champion_before_are_not_held_against_the_one_that_was_a_canary_among_them(
    home: Home, tmp_path: Path
) -> None:
    """The cohort of the cut at which a retrained model was tried is nearly all its predecessor's, and as bad."""
    engine, mature = open_state(f"sqlite:///{tmp_path}/state.db"), month(4) + timedelta(days=5)
    retrained(engine, month(3), "a", promotion="promote", model_version="2")
    assert rollouts.close(engine, model(engine, "2"), state="champion", reason="t")
    write(home, month(3), {"churn:1": 990, "churn:2": 10})
    decision = check(engine, STILL, mature, signals=BAD, release_id="churn:2",
                     labelled=labelled(home, "churn:2", as_of=mature))
    assert (decision.verdict, decision.evidence["why"]) == ("harmless", "answered")
    write(home, month(4), {"churn:2": 1000})
    decision = check(engine, STILL, month(5), signals=BAD, release_id="churn:2",
                     labelled=labelled(home, "churn:2", as_of=month(5)))
    assert (decision.verdict, "whose model is champion" in decision.reason) == ("alarm", True)
