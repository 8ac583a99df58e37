"""The report: a page that opens offline with the numbers of the verdict, whatever the columns hold."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.charter import load_charter
from models.contract import Column, Contract
from models.evaluation.cohort import Cohort, Measured, measure_part
from models.gates.drift import PREDICTION, DriftReport
from models.gates.signals import Signal
from models.limits import DriftPolicy
from tasks.home import Home
from tasks.monitoring import report as stage
from tasks.monitoring.monitor import measure_drift
from tasks.monitoring.report import draw_report
from tasks.monitoring.report_sample import DRAWN_LEVELS, LEAST_LEVEL, OTHERS, drawable
from tasks.monitoring.truth import TruthReport
from tasks.monitoring.workspace import project_id, workspace_folder
from tests.tasks.monitoring.release_rows import rows

pytestmark = [pytest.mark.service,  # Evidently takes seconds to import
              pytest.mark.usefixtures("no_run_logger")]
POLICY = DriftPolicy()
AS_OF = datetime(2025, 3, 1, tzinfo=UTC)
LONG = "a name of two hundred characters " * 6 + "and"
REPO = Path(__file__).parents[3]


def contract_of(*names: str, categorical: str = "colour") -> Contract:
    columns = [Column(name, "float64", "numeric", "kg", "a number") for name in names]
    return Contract("id", "label", (), (*columns, Column(categorical, "string", "categorical", "word", "a word")), {})


CONTRACT = contract_of("weight", "gaps")


def release(folder: Path, reference: pd.DataFrame, contract: Contract = CONTRACT) -> Path:
    """What this stage reads of a release."""
    folder.mkdir()
    reference.to_parquet(folder / "reference.parquet")
    (folder / "contract.json").write_text(contract.to_json())
    shares = {name: 1 / len(contract.feature_names) for name in contract.feature_names}
    (folder / "release.json").write_text(json.dumps({"importance": shares}))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", "shop")


def draw(home: Home, payload: Path, current: pd.DataFrame, *, truth: TruthReport | None = None,
         as_of: datetime = AS_OF) -> tuple[DriftReport, str | None, Path]:
    """Measured and drawn, as the flow does it."""
    page = home.reports / "drift.html"
    report = measure_drift.fn(payload, current, POLICY)
    return report, draw_report.fn(report, payload, current, POLICY, page, home=home, truth=truth, as_of=as_of), page


def snapshot(home: Home) -> dict[str, object]:
    """The newest one, as Evidently's UI reads it."""
    path = sorted((workspace_folder(home) / str(project_id(home)) / "snapshots").glob("*.json"))[-1]
    return dict(json.loads(path.read_text()))


def readings(home: Home) -> dict[tuple[str, str | None], float]:
    """Name and column -> number, of the newest snapshot: what the dashboard draws."""
    found = {}
    for result in snapshot(home)["metric_results"].values():  # type: ignore[attr-defined]
        params = result["metric_value_location"]["metric"]["params"]
        if params["type"].endswith(":Reading"):
            found[params["name"], params.get("column")] = result["value"]
    return found


def test_the_page_shows_the_numbers_of_the_verdict_is_private_and_opens_offline(home: Home, tmp_path: Path) -> None:
    payload = release(tmp_path / "release", rows(1000, seed=2))
    current = rows().assign(weight=lambda frame: frame["weight"] * 2, gaps=np.nan)
    current.loc[0, "weight"] = np.inf
    current.loc[current.index[:80], "colour"] = "violet"
    report, fault, page = draw(home, payload, current)
    assert fault is None
    text = page.read_text(encoding="utf-8")
    for column in report.columns:
        if column.test != "none":  # `gaps` is empty now and stands in the tables only
            assert f"quantile PSI ({column.test} p = {column.p_value:.2g}" in text
            assert str(round(column.psi, 3 if column.name == PREDICTION else 6)) in text
        assert f'"{column.psi:.4f}"' in text
    assert f"new levels {report.columns[2].new_share:.1%}" in text
    assert "no mature labels yet" in text
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert [path.name for path in page.parent.iterdir() if path.is_file()] == ["drift.html"]
    fetched = re.findall(
        r"<(?:script|link|img|iframe)[^>]+(?:src|href)=.?(?:https?:)?//|@import .?url|url\(.?https?:", text)
    assert fetched == []


def test_the_dashboard_gets_the_columns_that_moved_the_prediction_and_what_is_missing(
    home: Home, tmp_path: Path
) -> None:
    payload = release(tmp_path / "release", rows(1000, seed=2))
    current = rows().assign(gaps=np.nan)
    report, fault, _ = draw(home, payload, current)
    found = readings(home)
    assert fault is None
    assert found["share of drifted columns", None] == pytest.approx(1 / 3)  # `gaps`, though it cannot be drawn
    assert found["prediction drift", None] == report.columns[-1].psi
    assert found["missing share", "gaps"] == 1
    assert found["missing share", "weight"] == 0
    assert found["share of new levels", "colour"] == 0
    tests = {test["name"]: test["status"] for result in snapshot(home)["metric_results"].values()  # type: ignore[attr-defined]
             for test in result["tests"]}
    assert tests["missing share of gaps"] == "FAIL"
    assert tests["missing share of weight"] == tests["share of new levels of colour"] == "SUCCESS"


def put(name: str, now: object, was: object = None) -> Callable[[pd.DataFrame, pd.DataFrame], None]:
    """The column of both sides replaced; `was` None: the reference keeps its own."""
    def change(current: pd.DataFrame, reference: pd.DataFrame) -> None:
        current[name] = now(len(current)) if callable(now) else now
        if was is not None:
            reference[name] = was(len(reference)) if callable(was) else was
    return change


def some(*values: object) -> Callable[[int], list[object]]:
    return lambda count: [values[index % len(values)] for index in range(count)]


def outlier(count: int) -> np.ndarray:
    return np.append(np.random.default_rng(3).lognormal(size=count - 1), 1e9)


# what is done to current and reference; column; flagged; what the check says it cannot judge (None: it can)
ODD = {
    "empty now": (put("gaps", np.nan), "gaps", True, None),
    "empty on both sides": (put("gaps", np.nan, np.nan), "gaps", False, None),
    "empty in the reference": (put("gaps", 1.5, np.nan), "gaps", True, None),
    "empty now, as objects": (put("colour", some(None)), "colour", True, None),
    "a new category": (put("colour", some("red", "blue", "violet")), "colour", True, None),
    "numbers that became text": (put("weight", some("12", "13")), "weight", False, "weight changed type"),
    "text that became numbers": (put("colour", 3.0), "colour", False, "colour changed type"),
    "dates": (put("weight", pd.Timestamp("2025-01-01")), "weight", False, "weight changed type"),
    "infinite here and there": (put("weight", some(1.0, 2.0, np.inf, 3.0)), "weight", True, None),
    "nothing but infinite": (put("weight", np.inf, -np.inf), "weight", True, None),
    "a boolean": (put("weight", some(True, False), some(True, False)), "weight", False, None),
    "a boolean with gaps": (put("weight", some(True, None, False, False), some(True, False)), "weight", True, None),
    "decimals": (put("weight", some(Decimal("1.5"), Decimal("2.5")), some(1.5, 2.5)), "weight", False, None),
    "whole numbers with gaps": (put("weight", lambda count: pd.array([1, None] * (count // 2), dtype="Int64"),
                                    some(1.0, None)), "weight", False, None),
    "a constant": (put("weight", 7.0, 7.0), "weight", False, None),
    "another constant": (put("weight", 8.0, 7.0), "weight", True, None),
    "an outlier of a billion": (put("weight", outlier, lambda count: outlier(count)[:count]), "weight", False, None),
    "a category type": (put("colour", lambda count: pd.Categorical(["red", "blue"] * (count // 2)),
                            some("red", "blue")), "colour", False, None),
    "five thousand levels": (put("colour", lambda count: [f"level {n * 5000 // count}" for n in range(count)],
                                 lambda count: [f"level {n * 5000 // count}" for n in range(count)]),
                             "colour", False, None),
    "five thousand other levels": (put("colour", lambda count: [f"new {n}" for n in range(count)],
                                       lambda count: [f"old {n}" for n in range(count)]), "colour", False, None),
    "two hundred other levels": (put("colour", lambda count: [f"new {n % 200}" for n in range(count)],
                                     lambda count: [f"old {n % 200}" for n in range(count)]), "colour", True, None),
    "levels in every script": (put("colour", some("naïve", "日本", "🙂", "<b>", "a|b", ""), some("日本", "naïve")),
                               "colour", True, None),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_column_is_an_answer_and_no_crash(case: str, home: Home, tmp_path: Path) -> None:
    change, name, flagged, problem = ODD[case]
    current, reference = rows(1000), rows(1000, seed=2)
    change(current, reference)
    report, fault, page = draw(home, release(tmp_path / "release", reference), current)
    column = next(one for one in report.columns if one.name == name)
    assert column.flagged == flagged
    assert (report.problem is None) == (problem is None)
    assert (problem or "") in (report.problem or "")
    assert fault is None
    assert name in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["größe in 日本 🙂", LONG, "a.b c|d", "target", "prediction", "id", "<i>", "datetime"])
def test_a_column_of_any_name_is_drawn(name: str, home: Home, tmp_path: Path) -> None:
    contract = contract_of(name, "gaps", categorical=f"{name} too")
    renamed = {"weight": name, "colour": f"{name} too"}
    payload = release(tmp_path / "release", rows(1000, seed=2).rename(columns=renamed), contract)
    report, fault, page = draw(home, payload, rows().rename(columns=renamed))
    assert (report.problem, fault, page.exists()) == (None, None, True)
    assert readings(home)["missing share", name] == 0


@pytest.mark.parametrize(("current", "said"), [
    (rows(0), "0 current rows, needs 200"),
    (rows(1), "1 current rows, needs 200"),
    (rows(199), "199 current rows, needs 200"),
    (pd.DataFrame(), "0 current rows, needs 200"),
    (rows().drop(columns=["weight", "gaps", "colour", PREDICTION]).assign(other=1), "weight is missing from the"),
    (rows().assign(weight=np.nan, gaps=np.nan, colour=None, **{PREDICTION: np.nan}), "no column has values on both"),
], ids=["no row", "one row", "too few", "no column", "other columns", "only empty columns"])
def test_without_anything_to_draw_there_is_no_page_and_the_reason_is_said(
    current: pd.DataFrame, said: str, home: Home, tmp_path: Path
) -> None:
    home.reports.mkdir(parents=True)
    (home.reports / "drift.html").write_text("of an earlier run")
    _, fault, page = draw(home, release(tmp_path / "release", rows(1000, seed=2)), current)
    assert "nothing to draw" in str(fault)
    assert said in str(fault)
    assert not page.exists()


def test_a_failed_page_says_why_and_leaves_neither_page_nor_snapshot(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = release(tmp_path / "release", rows(1000, seed=2))

    def broken(*_: object) -> None:
        raise ImportError("no evidently")

    monkeypatch.setattr(stage, "_run", broken)
    _, fault, page = draw(home, payload, rows())
    assert fault == "the report failed: ImportError: no evidently"
    assert not page.exists()
    assert not workspace_folder(home).exists()


def test_a_workspace_that_cannot_be_written_is_a_fault(home: Home, tmp_path: Path) -> None:
    home.reports.mkdir(parents=True)
    workspace_folder(home).write_text("in the way")
    _, fault, page = draw(home, release(tmp_path / "release", rows(1000, seed=2)), rows())
    assert "the report failed: FileExistsError" in str(fault)
    assert not page.exists()


def cohort(month: int, *, churned: float, random: np.random.Generator) -> Cohort:
    """500 customers whose churn follows their score, as far as `churned` has both classes."""
    probability = random.beta(2, 5, 500)
    y = (random.random(500) < probability * churned).astype(float)
    value = load_charter(REPO / "charter.yaml").value
    part = measure_part("all", y, probability, np.arange(500), np.ones(500), value=value)
    moment = datetime(2024, month, 1, tzinfo=UTC)
    return Cohort(moment, moment, 500, 0, labelled=500, churners=int(y.sum()), measured=Measured(part))


def test_performance_is_told_by_cohort_and_the_newest_goes_to_the_dashboard(home: Home, tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    old, new, silent = (cohort(1, churned=1, random=random), cohort(2, churned=1, random=random),
                        cohort(3, churned=0, random=random))
    waiting = Cohort(datetime(2024, 4, 1, tzinfo=UTC), datetime(2025, 4, 1, tzinfo=UTC), 500, 0)
    truth = TruthReport((old, new, silent, waiting), Signal("labels", "bad", "too few came"),
                        Signal("performance", "good", "AUC surely above its floor"))
    _, fault, page = draw(home, release(tmp_path / "release", rows(1000, seed=2)), rows(), truth=truth)
    assert fault is None
    assert new.measured is not None
    found = readings(home)
    for name, score in (("AUC", "auc"), ("Brier", "brier"), ("value", "value")):
        assert found[name, None] == new.measured.whole.score(score).value
    assert (found["performance", None], found["labels", None]) == (1, 0)
    text = page.read_text(encoding="utf-8")
    assert "performance, good: AUC surely above its floor" in text
    assert f"{new.measured.whole.score('auc').value:.3f} [" in text
    assert '"2024-04-01", "500", "0.0%", "0", "-", "-", "-", "-"' in text
    tests = {test["name"]: test["status"] for result in snapshot(home)["metric_results"].values()  # type: ignore[attr-defined]
             for test in result["tests"]}
    assert (tests["labels"], tests["performance"]) == ("FAIL", "SUCCESS")


def test_while_labels_are_waited_for_there_is_no_point_and_no_test(home: Home, tmp_path: Path) -> None:
    truth = TruthReport((), Signal("labels", "waiting", "the first are mature on 2025-06-01"),
                        Signal("performance", "waiting", "no mature label"))
    _, fault, page = draw(home, release(tmp_path / "release", rows(1000, seed=2)), rows(), truth=truth)
    assert fault is None
    assert "labels, waiting: the first are mature on 2025-06-01" in page.read_text(encoding="utf-8")
    assert ("AUC", None) not in readings(home)


def test_the_drawn_sample_is_bounded_and_tells_of_nobody() -> None:
    """A row cannot be put together again, a rare level is not named, an outlier is not shown."""
    random = np.random.default_rng(4)
    count = 20_000
    current = pd.DataFrame({
        "weight": np.arange(count, dtype=float), "gaps": np.arange(count, dtype=float),
        "colour": random.choice([f"level {n}" for n in range(40)], count).astype(object), PREDICTION: 0.5,
    })
    current.loc[0, "colour"] = "only@one.example"
    current.loc[7, "gaps"] = 123_456_789.0
    now, was = drawable(current, current.copy(), [*CONTRACT.feature_names, PREDICTION], CONTRACT)
    assert len(now) == len(was) == 5000
    assert abs(np.corrcoef(now["weight"], now["gaps"])[0, 1]) < 0.1  # in the rows it is 1
    assert now["gaps"].max() < count
    levels = set(now["colour"])
    assert len(levels) == DRAWN_LEVELS + 1
    assert OTHERS in levels
    assert "only@one.example" not in levels


def test_a_level_few_share_is_not_named() -> None:
    current = rows(800)
    current.loc[: LEAST_LEVEL // 2 - 1, "colour"] = "only@one.example"
    now, was = drawable(current, rows(800), CONTRACT.feature_names, CONTRACT)
    assert set(now["colour"].dropna()) | set(was["colour"].dropna()) == {"red", "blue", OTHERS}
