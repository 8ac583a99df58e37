from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from models.card.document import to_html
from models.charter import load_charter
from models.decision import Decision
from models.evaluation.bootstrap import Interval
from models.serving.reasons import Check
from models.study.groups import Step, groups_of
from models.study.history import History, StudyConfig
from models.study.retraining_policy import Age, Earned, Policy, Study
from tasks.training.study import Reasons, time_groups, write_report
from tasks.training.study_report import study_document, table_of_groups, table_of_policies


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NOTHING = Interval(float("nan"), float("nan"), float("nan"))
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def found() -> Study:
    one = Interval(1.0, 0.5, 1.5)
    return Study(
        ages=(Age(0, 2, Interval(0.8, 0.7, 0.9), one, one), Age(1, 1, Interval(0.7, 0.6, 0.8), NOTHING, NOTHING)),
        auc_lost_a_month=one,
        earned=(Earned(Policy(0), one, one, 0, one, 1.5, True), Earned(Policy(3, "new"), one, one, 4, one, 1.5, False)),
        decision=Decision("study", "every 3 months", f"because {EVIL}", {"recommended": Policy(3, "new").text}),
    )


STEPS = (Step("recency", 2, 0.8, Interval(0.3, 0.2, 0.4), 10, Interval(10, 5, 15), 0.1, 0.02),
         Step("trend", 2, 0.8, Interval(0.0, -0.1, 0.1), 10, NOTHING, 0.1))


def document(found: Study) -> str:
    moments = (day("2024-01-01"), day("2024-02-01"))
    none = (np.empty(0), np.empty(0))
    history = History(moments, (0, 1), (2, 3), none, none, none, {}, {}, "stopped after 1 s")
    charter = load_charter(Path(__file__).parents[3] / "charter.yaml")
    return to_html(study_document(history, found, STEPS, [Reasons("logistic", Check(0, 0, ()), (), 0.1, 10)],
                                  charter=charter, config=StudyConfig(), rows=10, as_of="2024-03-01"))


def test_the_report_opens_offline_and_runs_nothing_that_stands_in_the_data(found):
    page = document(found)
    assert page.count("data:image/png;base64,") == 3
    assert EVIL not in page
    assert "because &lt;script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    assert "The study stopped after 1 s." in page
    assert "no multiple of the cuts: every 2, 3, 6, 12 months" in page


def test_the_recommended_policy_and_groups_that_add_nothing_are_marked(found):
    assert table_of_policies(found).marked == {1}
    assert table_of_groups(STEPS).marked == {1}
    assert [row[-1] for row in table_of_groups(STEPS).rows] == ["0.020 s", "not measured"]


def test_a_share_of_reasons_that_is_no_number_is_marked(found):
    section = document(found).split("<h2>Reasons</h2>")[1]
    assert '<tr class="marked"><th scope="row">logistic</th>' in section


def test_a_report_is_for_its_owner_alone_and_replaces_the_one_before(shop):
    write_report(shop.home, day("2025-01-01"), "old")
    path = write_report(shop.home, day("2025-01-01"), "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["study-2025-01-01.html"]


def test_the_sql_of_each_group_is_timed(shop):
    shop.ingest("2024-06-01")
    order = list(groups_of(shop.contract))
    seconds = time_groups(shop.contract, order, home=shop.home, engine=shop.engine, cut=day("2024-02-01"))
    assert list(seconds) == order
    assert all(0 <= one < 5 for one in seconds.values())
