"""The page of truth. Reads a `TruthReport`; writes one HTML page and one picture into the reports, and an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from models.card.document import (
    Banner,
    Block,
    Bullets,
    Document,
    Picture,
    Section,
    Table,
    Text,
    markdown_block,
    to_html,
)
from models.charter import Charter
from models.errors import describe
from models.evaluation.bootstrap import Interval
from models.evaluation.cohort import CONFIDENCE, RESAMPLES, Cohort, Measured, Part, worst_of
from models.gates.performance import Floors
from models.gates.signals import Signal
from tasks.data.lake import beside, stamp
from tasks.home import Home
from tasks.monitoring.truth import TruthReport
from tasks.monitoring.truth_plot import draw_cohorts
from tasks.training.plots import draw_evaluation
from tasks.training.study_plots import png

GOOD: Final = {"good": True, "bad": False, "broken": False, "waiting": None}
SCORES: Final = ("auc", "brier", "log_loss", "calibration_slope")


def truth_page(home: Home, as_of: datetime) -> Path:
    """Where the page of a check lies; the picture of the cohorts beside it, as PNG."""
    return home.reports / f"truth-{stamp(as_of)}.html"


@task(name="publish-truth", cache_policy=NO_CACHE)
def publish_truth(report: TruthReport, *, home: Home, charter: Charter, as_of: datetime) -> str | None:
    """Write page and picture, and show table and link in the Prefect UI; returns None, or why there is no page."""
    page = truth_page(home, as_of)
    try:
        write_truth_page(report, home=home, charter=charter, as_of=as_of)
    except Exception as error:  # the verdict does not hang on a picture, but that there is none is told
        get_run_logger().exception("the page of truth failed")
        page.unlink(missing_ok=True)  # an older page of the same date would pass for this one
        return f"the page of truth failed: {describe(error)}"
    lines = [f"**labels {report.labels.state}**: {report.labels.reason}",
             f"**performance {report.performance.state}**: {report.performance.reason}",
             markdown_block(table_of_cohorts(report.cohorts)), f"Page: {page}"]
    create_markdown_artifact("\n\n".join(lines), key="truth", description=(
        f"truth at {as_of:%Y-%m-%d}: labels {report.labels.state}, performance {report.performance.state}"))
    create_link_artifact(page.as_uri(), link_text=page.name, key="truth-report", description=report.performance.reason)
    return None


def write_truth_page(report: TruthReport, *, home: Home, charter: Charter, as_of: datetime) -> Path:
    """The page, which opens offline, and the picture of the cohorts as a file of its own; both for the owner's eyes."""
    floors = Floors.of(charter.monitoring, charter.promotion)
    picture = png(draw_cohorts(report.cohorts, floors, least_label_coverage=charter.monitoring.least_label_coverage)
                  ) if report.cohorts else None
    text = to_html(truth_document(report, charter=charter, as_of=as_of, picture=picture))
    page = truth_page(home, as_of)
    for path, content in ((page.with_suffix(".png"), picture), (page, text.encode())):
        if content is not None:
            with beside(path) as file:
                file.write_bytes(content)
    return page


def truth_document(report: TruthReport, *, charter: Charter, as_of: datetime, picture: bytes | None) -> Document:
    """Verdicts first, then cohorts, for whom the newest was wrong, releases, contacts, and how it was measured."""
    newest = next((one for one in reversed(report.cohorts) if one.measured), None)
    drawn = (Picture(picture, "AUC, Brier score and rates by cohort, against the floors."),) if picture else ()
    return Document(
        f"{charter.name}: what became of the predictions",
        f"As of {as_of:%Y-%m-%d}. Predictions of a date are a cohort; labels are read "
        f"{charter.problem.horizon_days + charter.problem.label_delay_days} days after it, never before.",
        (
            Section("Verdicts", (_banner(report.labels), _banner(report.performance))),
            Section("By date of prediction", (*drawn, table_of_cohorts(report.cohorts),
                                              table_of_counts(report.cohorts))),
            Section("For whom the model is wrong", _segments(newest, charter)),
            Section("By release, and who was contacted", _parts(report.cohorts)),
            Section("How it was measured", (_measured(charter),)),
        ),
    )


def table_of_cohorts(cohorts: Sequence[Cohort]) -> Table:
    """How well, one row a cohort, newest first; those that cannot be judged are marked."""
    shown = list(reversed(cohorts))
    return Table(
        ("cohort", "AUC", "Brier score", "log loss", "calibration slope", "worst segment"),
        tuple((_date(one.cut), *_scores_of(one)) for one in shown),
        frozenset(number for number, one in enumerate(shown) if one.fault),
        "No prediction was made yet.",
    )


def _scores_of(one: Cohort) -> tuple[str, ...]:
    if one.measured is None:
        return (one.fault or f"waits: mature on {_date(one.mature_at)}", "", "", "", "")
    whole = one.measured.whole
    worst = None if whole.evaluation is None else whole.evaluation.worst
    named = "none has enough rows to say" if worst is None else f"{worst.name} (AUC {worst.scores['auc'].value:.3f})"
    return (*(_level(whole.score(name)) for name in SCORES), whole.fault or named)


def table_of_counts(cohorts: Sequence[Cohort]) -> Table:
    """Of whom, one row a cohort, newest first."""
    return Table(
        ("cohort", "customers", "of them served", "with a label", "contacted", "churners", "mean probability"),
        tuple((_date(one.cut), f"{one.rows:,}", f"{one.served:,}", *_shares_of(one)) for one in reversed(cohorts)),
        empty="No prediction was made yet.",
    )


def _shares_of(one: Cohort) -> tuple[str, ...]:
    if one.measured is None:
        return (f"{one.coverage:.1%}", f"{one.contacted:,}", "", "") if one.fault else ("waits", "", "", "")
    whole = one.measured.whole
    return f"{one.coverage:.1%}", f"{one.contacted:,}", _share(whole.churn_rate), _share(whole.mean_probability)


def _segments(cohort: Cohort | None, charter: Charter) -> tuple[Block, ...]:
    if cohort is None or cohort.measured is None or cohort.measured.whole.evaluation is None:
        return (Text("No cohort has been measured yet."),)
    measured, evaluation = cohort.measured, cohort.measured.whole.evaluation
    if not any(evaluation.all_segments()):
        return (Text(measured.no_segments or "The contract names no segment columns."),)
    protected, worst = charter.requirements.protected, evaluation.worst
    shown = list(evaluation.all_segments())
    worst_protected = worst_of(evaluation, protected)
    told = [f"The cohort of {cohort.cut:%Y-%m-%d}. Worst: {worst or 'no segment has enough rows to say'}."]
    if worst_protected is not None:
        told.append(f"Of protected columns: {worst_protected}.")
    figures = draw_evaluation(evaluation)
    return (
        Text(" ".join(told)),
        Picture(png(figures["segments"]), "AUC by segment; the band is that of all customers."),
        Picture(png(figures["calibration"]), "What was said against what happened."),
        Table(("segment", "customers", "churners", "AUC", "Brier score", "calibration slope", "protected"),
              tuple((one.name, f"{one.rows:,}", f"{one.churners:,}", one.silent or _level(one.scores["auc"]),
                     _level(one.scores["brier"]), "" if one.silent else _level(one.scores["calibration_slope"]),
                     "yes" if one.column in protected else "") for one in shown),
              frozenset(number for number, one in enumerate(shown) if one in (worst, worst_protected))),
    )


def _parts(cohorts: Sequence[Cohort]) -> tuple[Block, ...]:
    rows = [(_date(one.cut), part.name, f"{part.rows:,}", _share(part.churn_rate), _share(part.mean_probability),
             *_part_scores(part))
            for one in reversed(cohorts) if one.measured for part in _parts_of(one.measured)]
    return (
        Text("Contacted customers are shown and never judged: the contact changed what they did. The hold-out is never "
             "contacted."),
        Table(("cohort", "who", "customers", "churners", "mean probability", "AUC", "Brier score"), tuple(rows),
              empty="No cohort has been measured yet."),
    )


def _parts_of(measured: Measured) -> list[Part]:
    return [*measured.releases, *(part for part in (measured.holdout, measured.contacted) if part is not None)]


def _part_scores(part: Part) -> tuple[str, str]:
    if part.evaluation is None:
        return ("too few, or one class", "") if part.fault else ("not judged", "")
    return _level(part.score("auc")), _level(part.score("brier"))


def _measured(charter: Charter) -> Bullets:
    limits = charter.monitoring
    return Bullets((
        "Each customer counts once a cohort: the first answer a client got, else the row of the batch. Answers of a "
        "shadow, and those nobody took, do not count.",
        f"A cohort is judged when {limits.least_label_coverage:.0%} of it have a label and {limits.least_customers:,} "
        "of those were not contacted.",
        f"{CONFIDENCE:.0%} intervals over customers, {RESAMPLES} resamples. Performance is bad when the whole interval "
        "is beyond the floor; it knows the luck of customers, not that of months.",
        "Rates and scores are weighted: uncontacted customers count for those alike who were contacted.",
    ))


def _banner(signal: Signal) -> Banner:
    return Banner(f"{signal.name.capitalize()} {signal.state}: {signal.reason}.", GOOD[signal.state])


def _level(one: Interval) -> str:
    return f"{one.value:.3f} [{one.low:.3f},\N{NO-BREAK SPACE}{one.high:.3f}]"


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}".replace("-", "\N{NON-BREAKING HYPHEN}")


def _share(value: float) -> str:
    return f"{value:.1%}" if value == value else "?"
