"""The page of truth: every state is shown, what cannot be judged is marked, and Prefect's artifacts are real."""

from __future__ import annotations

import re
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from models.charter import load_charter
from models.evaluation.cohort import Cohort, Measured, Part, measure_part
from models.gates.performance import Floors, judge_labels, judge_performance
from models.limits import PromotionGate
from tasks.home import Home
from tasks.monitoring import truth_page as module
from tasks.monitoring.truth import TruthReport
from tasks.monitoring.truth_page import publish_truth, truth_page, write_truth_page
from tasks.monitoring.truth_plot import draw_cohorts
from tests.tasks.conftest import REPO

CHARTER = load_charter(REPO / "charter.yaml")
NOW = datetime(2025, 6, 1, tzinfo=UTC)
WAITS = Cohort(datetime(2025, 5, 1, tzinfo=UTC), datetime(2025, 6, 5, tzinfo=UTC), 812, 5)


def part(name: str, rows: int = 600) -> Part:
    odds = np.random.default_rng(0).normal(-1, 1.5, rows)
    y = (np.random.default_rng(1).random(rows) < 1 / (1 + np.exp(-odds))).astype(float)
    return measure_part(name, y, 1 / (1 + np.exp(-odds)), np.arange(rows), np.ones(rows), value=CHARTER.value,
                        segments={"age_years": np.where(np.arange(rows) % 2 == 0, "<b>young</b>", "old")})


WHOLE = part("all")
MEASURED = replace(WAITS, cut=datetime(2025, 3, 1, tzinfo=UTC), mature_at=datetime(2025, 4, 5, tzinfo=UTC), rows=640,
                   labelled=640, churners=200, contacted=40, releases=("churn:v1", "churn:v2"), measured=Measured(
                       WHOLE, (part("churn:v1", 300), part("churn:v2", 300)), holdout=part("hold-out", 50),
                       contacted=Part("contacted", 40, 0.25, 0.5)))
FAULTY = replace(MEASURED, cut=datetime(2025, 4, 1, tzinfo=UTC), mature_at=datetime(2025, 5, 6, tzinfo=UTC),
                 measured=None, labelled=64, fault="10.0% of 640 customers have a label, at least 90% are asked")


def report(*cohorts: Cohort) -> TruthReport:
    limits = CHARTER.monitoring
    return TruthReport(cohorts, judge_labels(cohorts, limits, as_of=NOW),
                       judge_performance(cohorts, Floors.of(limits, CHARTER.promotion), as_of=NOW))


def write(folder: Path, *cohorts: Cohort) -> str:
    return write_truth_page(report(*cohorts), home=Home(folder), charter=CHARTER, as_of=NOW).read_text()


def test_the_page_shows_each_cohort_the_worst_segment_releases_contacted_and_hold_out(tmp_path):
    text = write(tmp_path, MEASURED, WAITS)
    for said in ("Performance good", "Labels good", "waits: mature on", "churn:v1", "churn:v2", "hold-out",
                 "not judged", "age_years: &lt;b&gt;young&lt;/b&gt;"):
        assert said in text
    assert f"{WHOLE.score('auc').value:.3f}" in text
    assert text.count("data:image/png") == 3
    assert not re.search(r"<b>|<script|https?://", text)
    page = truth_page(Home(tmp_path), NOW)
    for path in (page, page.with_suffix(".png")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_cohort_that_cannot_be_judged_is_marked_and_says_why(tmp_path):
    text = write(tmp_path, MEASURED, FAULTY)
    assert 'class="marked"><th scope="row">2025\N{NON-BREAKING HYPHEN}04' in text
    assert "Labels bad" in text
    assert "Performance broken" in text
    assert FAULTY.fault in text


def test_with_nothing_yet_there_is_a_page_that_says_so(tmp_path):
    text = write(tmp_path)
    assert "No prediction was made yet." in text
    assert "data:image" not in text


def test_a_cohort_without_segments_says_why_there_are_none(tmp_path):
    bare = measure_part("all", np.r_[np.ones(300), np.zeros(300)], np.linspace(1, 0, 600), np.arange(600),
                        np.ones(600), value=CHARTER.value)
    text = write(tmp_path, replace(MEASURED, measured=Measured(bare, no_segments="no segments: OSError at x.py:1")))
    assert "no segments: OSError at x.py:1" in text


def test_the_picture_marks_what_is_surely_beyond_a_floor():
    auc = WHOLE.score("auc")

    def markers(least: float) -> list[str]:
        figure = draw_cohorts([MEASURED, WAITS], Floors.of(CHARTER.monitoring, PromotionGate(least_auc=least)),
                              least_label_coverage=0.9)
        return [str(line.get_marker()) for line in figure.axes[0].lines if line.get_marker() != "None"]

    assert markers(round(auc.high - 0.01, 3)) == ["o"]
    assert markers(round(auc.high + 0.01, 3)) == ["s"]


def test_many_cohorts_are_drawn_from_the_newest():
    many = [replace(MEASURED, cut=NOW - timedelta(days=31 * back), mature_at=NOW) for back in range(40, 0, -1)]
    figure = draw_cohorts(many, Floors(0.6, 0.2, 500), least_label_coverage=0.9)
    labels = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert labels[0] == f"{many[16].cut:%Y-%m-%d}"


@pytest.mark.service
def test_prefect_holds_the_verdicts_and_the_link_and_a_failure_is_told(tmp_path, monkeypatch):
    from prefect.client.orchestration import get_client

    home = Home(tmp_path)

    @flow
    def publish() -> str | None:
        return publish_truth(report(MEASURED, WAITS), home=home, charter=CHARTER, as_of=NOW)

    with prefect_test_harness():
        assert publish() is None
        with get_client(sync_client=True) as client:
            found = {one.key: one for one in client.read_artifacts()}
        assert set(found) == {"truth", "truth-report"}
        assert "**performance good**" in found["truth"].data
        assert truth_page(home, NOW).as_uri() in found["truth-report"].data

        def broken(*_, **__):
            raise ValueError("Anna Meier")

        monkeypatch.setattr(module, "draw_cohorts", broken)
        fault = publish()
        assert fault.startswith("the page of truth failed: ValueError at test_truth_page.py:")
        assert "Anna" not in fault
        assert not truth_page(home, NOW).exists()
