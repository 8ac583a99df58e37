"""The report's own sections: the verdict's table, missing values, performance; and their numbers for the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from models.evaluation.cohort import Cohort
from models.gates.drift import PREDICTION, DriftReport
from models.gates.signals import Signal
from models.limits import DriftPolicy
from tasks.monitoring.monitor import HEADER, table_rows

if TYPE_CHECKING:
    from tasks.monitoring.truth import TruthReport

MEASURES: Final = {"AUC": "auc", "Brier": "brier", "value": "value"}  # as shown: as the evaluation calls it
DIGITS: Final = {"AUC": "{:.3f}", "Brier": "{:.4f}", "value": "{:,.0f}"}


def heading(title: str, said: str) -> Any:
    from tasks.monitoring.evidently_metrics import Section

    return Section(title=title, said=said)


def verdict(report: DriftReport) -> list[Any]:
    """The table of the verdict, and its numbers for the dashboard; columns that could not be drawn are in it."""
    from tasks.monitoring.evidently_metrics import Reading, Section

    inputs = [column for column in report.columns if column.name != PREDICTION]
    prediction = [column for column in report.columns if column.name == PREDICTION]
    said = report.problem or (f"{len(report.mattering)} of {len(report.columns)} columns moved and matter; "
                              f"{report.rows:,} rows against the release's {report.reference_rows:,}")
    return [
        Section(title="The check, column by column", said=said, header=HEADER, cells=table_rows(report)),
        Reading(name="share of drifted columns", number=sum(column.matters for column in inputs) / max(len(inputs), 1)),
        *(Reading(name="prediction drift", number=column.psi) for column in prediction),
        Reading(name="largest change of a missing share",
                number=max((abs(column.missing_change) for column in report.columns), default=0.0)),
    ]


def missingness(
    report: DriftReport, reference: pd.DataFrame, current: pd.DataFrame, policy: DriftPolicy
) -> list[Any]:
    from tasks.monitoring.evidently_metrics import Reading, Section

    here = [column for column in report.columns if column.name in current and column.name in reference]
    shares = {column.name: (float(reference[column.name].isna().mean()), float(current[column.name].isna().mean()))
              for column in here}
    readings = [Reading(name="missing share", column=column.name, number=shares[column.name][1],
                        passed=not column.missing_moved,
                        said=f"{shares[column.name][0]:.1%} of the reference, {shares[column.name][1]:.1%} now; counts "
                        f"from a change of {policy.least_share_change:.1%} on that is real")
                for column in here]
    readings += [Reading(name="share of new levels", column=column.name, number=column.new_share,
                         passed=not (column.values_moved and column.new_share >= policy.least_share_change),
                         said=f"{column.new_share:.1%} of the values now are none of the reference's")
                 for column in here if column.test == "chi2"]
    some = [name for name, pair in shares.items() if max(pair) > 0]
    plot = {"data": [{"type": "bar", "name": side, "x": some, "y": [shares[name][at] for name in some]}
                     for at, side in enumerate(("reference", "current"))],
            "layout": {"barmode": "group", "yaxis": {"tickformat": ".1%", "title": {"text": "missing"}}}}
    said = (f"{len(some)} of {len(here)} columns have missing values; over all rows, with a test of its own" if some
            else f"none of {len(here)} columns has a missing value")
    return [Section(title="Missing values", said=said, plot=plot if some else None), *readings]


def performance(truth: TruthReport | None) -> list[Any]:
    """By cohort of prediction date, over the mature and uncontacted; the newest one's numbers for the dashboard."""
    from tasks.monitoring.evidently_metrics import Reading, Section

    if truth is None or not truth.cohorts:
        why = "no mature labels yet" if truth is None else _said(truth.labels)
        return [Section(title="Performance", said=why), *([] if truth is None else _signals(truth))]
    known = [cohort for cohort in truth.cohorts if cohort.measured and cohort.measured.whole.evaluation]
    parts: list[Any] = [Section(
        title="Performance", said=_said(truth.performance), header=["cohort", "customers", "with a label", "judged",
                                                                    "churn rate", *MEASURES],
        cells=[_cells(cohort) for cohort in reversed(truth.cohorts)], plot=_over_cohorts(known) if known else None,
    ), *_signals(truth)]
    if known:
        whole = known[-1].measured.whole  # type: ignore[union-attr]  # measured, by `known`
        parts += [Reading(name=name, number=whole.score(score).value) for name, score in MEASURES.items()]
    return parts


def _said(signal: Signal) -> str:
    return f"{signal.name}, {signal.state}: {signal.reason}"


def _signals(truth: TruthReport) -> list[Any]:
    """Labels and performance as tests of the page; what waits is no test yet."""
    from tasks.monitoring.evidently_metrics import Reading

    passed = {"good": True, "bad": False, "broken": False}
    return [Reading(name=signal.name, number=float(signal.state == "good"), passed=passed.get(signal.state),
                    said=_said(signal)) for signal in (truth.labels, truth.performance)]


def _cells(cohort: Cohort) -> list[str]:
    part = cohort.measured.whole if cohort.measured else None
    texts = ["-"] * len(MEASURES)
    if part is not None and part.evaluation is not None:
        texts = [DIGITS[name].format(part.score(score).value) for name, score in MEASURES.items()]
        texts[0] += " [{:.3f}, {:.3f}]".format(part.score("auc").low, part.score("auc").high)
    return [f"{cohort.cut:%Y-%m-%d}", f"{cohort.rows:,}", f"{cohort.coverage:.1%}", f"{cohort.counted:,}",
            f"{part.churn_rate:.1%}" if part and part.rows else "-", *texts]


def _over_cohorts(known: list[Cohort]) -> dict[str, Any]:
    """AUC and Brier against the left axis, money against the right one."""
    dates = [f"{cohort.cut:%Y-%m-%d}" for cohort in known]
    lines = [{"type": "scatter", "mode": "lines+markers", "name": name, "x": dates, "yaxis": axis,
              "y": [cohort.measured.whole.score(score).value for cohort in known if cohort.measured]}
             for (name, score), axis in zip(MEASURES.items(), ("y", "y", "y2"), strict=True)]
    return {"data": lines, "layout": {
        "xaxis": {"title": {"text": "cohort"}, "type": "date"}, "yaxis": {"range": [0, 1]}, "legend": {"x": 1.1},
        "yaxis2": {"overlaying": "y", "side": "right", "title": {"text": "money"}}}}
