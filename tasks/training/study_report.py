"""The study's report: tables, pictures and words. Reads what the study found; writes nothing: it returns a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from models.card.document import Banner, Block, Bullets, Document, Picture, Section, Table, Text
from models.charter import Charter
from models.evaluation.bootstrap import Interval
from models.serving.reasons import count_exceptions
from models.study.groups import Step, when_to_stop
from models.study.history import History, StudyConfig
from models.study.retraining_policy import Study
from tasks.training.study import Reasons
from tasks.training.study_plots import draw_ages, draw_earned, draw_groups, png

LEAST_HELD: Final = 0.95  # share of the stated reasons that must hold when they are removed


def study_document(
    history: History, study: Study, steps: Sequence[Step], reasons: Sequence[Reasons], *, charter: Charter,
    config: StudyConfig, rows: int, as_of: str,
) -> Document:
    """Recommendation first, then ageing, policies, feature groups and reasons."""
    decision = study.decision
    first, last = (f"{history.cuts[number]:%Y-%m-%d}" for number in (0, -1))
    return Document(
        f"{charter.name}: how often to retrain, and which features pay",
        f"As of {as_of}, from {rows:,} rows: models of {len(history.cuts)} dates from {first} to {last}, each seen at "
        "every later one.",
        (
            Section("Recommendation", (
                Banner(f"{decision.verdict.capitalize()}: {decision.reason}.",
                       None if decision.verdict == "no answer" else True),
                Text("Retraining on drift goes on besides: this is about retraining by the calendar. Of the policies "
                     "that no other surely outdoes, the simplest is recommended (the fewest retrainings, and at a tie "
                     f"all history), if it may lose at most {config.tolerable_loss:.0%} of the best one's money for "
                     "all that is known; else there is no answer."),
            )),
            Section("How a frozen model ages", _ageing(study, config)),
            Section("What each policy would have earned", _earned(study, charter, config)),
            Section("Feature groups", _groups(steps, config)),
            Section("Reasons", _reasons(reasons)),
            Section("How it was measured", (_measured(history, charter, config),)),
        ),
    )


def table_of_policies(study: Study) -> Table:
    """Money a month by policy; the recommended one is marked."""
    recommended = study.decision.evidence["recommended"]
    return Table(
        ("policy", "retrainings a year", "earned a month", "less their cost", "behind the best", "surely worse"),
        tuple((one.policy.text, f"{one.retrainings:.1f}", f"{one.value.value:+,.0f}", _money(one.net),
               _money(one.behind), "yes" if one.surely_worse else "no") for one in study.earned),
        frozenset(number for number, one in enumerate(study.earned) if one.policy.text == recommended),
    )


def table_of_groups(steps: Sequence[Step]) -> Table:
    """What each group adds; those that surely add nothing are marked."""
    return Table(
        ("group added", "features", "AUC with it", "AUC added", "money added a cut", "fit and score", "SQL added"),
        tuple((step.group, str(step.features), f"{step.auc:.3f}", _change(step.auc_added, 3),
               _money(step.value_added), f"{step.fit_seconds:.2f} s",
               "not measured" if step.sql_seconds is None else f"{step.sql_seconds:.3f} s") for step in steps),
        frozenset(number for number, step in enumerate(steps) if not step.adds),
    )


def _ageing(study: Study, config: StudyConfig) -> tuple[Block, ...]:
    slope = study.auc_lost_a_month
    return (
        Text(f"A model loses {slope.value:.4f} of AUC a month of age against one trained that month, on the same rows "
             f"({config.confidence:.0%} interval over customers [{slope.low:+.4f}, {slope.high:+.4f}])."),
        Picture(png(draw_ages(study.ages)), "AUC and money a frozen model loses against a fresh one, by its age."),
        Table(("age in months", "models and cuts", "AUC", "AUC lost", "money lost a month"),
              tuple((str(age.months), str(age.pairs), _level(age.auc), _change(age.auc_lost, 4),
                     _money(age.value_lost)) for age in study.ages)),
    )


def _earned(study: Study, charter: Charter, config: StudyConfig) -> tuple[Block, ...]:
    cost = charter.training.cost_of_retraining
    return (
        Text(f"Contacting the top {charter.value.contact_budget:,} at each cut; a retraining costs {cost:,.0f} "
             "(the charter's training.cost_of_retraining). Each policy is averaged over the months it could begin in. "
             f"Brackets are {config.confidence:.0%} intervals over customers. The recommended policy is marked; "
             "\"(new rows only)\" trains on what became known since the retraining before."),
        Picture(png(draw_earned(study.earned, str(study.decision.evidence["recommended"]))),
                "How far each policy stays behind the best, in money a month."),
        table_of_policies(study),
    )


def _groups(steps: Sequence[Step], config: StudyConfig) -> tuple[Block, ...]:
    said = when_to_stop(steps)
    return (
        Banner(f"{said[0].upper()}{said[1:]}.", None),
        Text("Groups in the order in which each adds most AUC on training customers held out; what they add is "
             f"measured on the last cut ({config.confidence:.0%} intervals over customers). Marked: adds neither AUC "
             "nor money surely. Seconds are CPU: fit and score with this group and those before it, and the "
             "snapshot's SQL that this group adds (the fastest of some runs; under a hundredth is noise)."),
        Picture(png(draw_groups(steps)), "AUC on the last cut as groups are added."),
        table_of_groups(steps),
    )


def _reasons(found: Sequence[Reasons]) -> tuple[Block, ...]:
    blocks: list[Block] = [
        Text("Reasons are exact Shapley values in log-odds against the typical customer. Each stated reason was "
             "removed (its column set to the typical value) and the customer scored again: the score must move the "
             f"stated way for at least {LEAST_HELD:.0%}. Columns as strong that run against the sign the contract "
             "states are counted, not stated: columns that go together share one effect, and many such say that some "
             "could be left out."),
        Table(("estimator", "reasons", "held", "share", "against the sign", "exceptions by column", "seconds"),
              tuple((one.estimator, f"{one.check.reasons:,}", f"{one.check.moved:,}", f"{one.check.share:.1%}",
                     f"{one.check.unstated:,}",
                     ", ".join(f"{name} {count}" for name, count in count_exceptions(one.check)[:5]) or "none",
                     f"{one.seconds:.2f} for {one.rows:,} customers") for one in found),
              frozenset(number for number, one in enumerate(found) if not one.check.share >= LEAST_HELD)),
    ]
    for one in found:
        blocks.append(Text(f"What they read like ({one.estimator}):"))
        blocks.append(Bullets(tuple(
            f"{probability:.1%} likely to leave: " + "; ".join(
                f"{reason.text} ({'raises' if reason.raises else 'lowers'} it)" for reason in explained.reasons)
            for probability, explained in one.examples)))
    return tuple(blocks)


def _measured(history: History, charter: Charter, config: StudyConfig) -> Bullets:
    problem = charter.problem
    left_out = [months for months in config.every_months
                if months % problem.snapshot_every_months or months > history.months[-1]]
    items = [
        f"A model of a cut learns from at most {charter.training.train_cuts} cuts whose labels were mature then "
        f"({problem.horizon_days + problem.label_delay_days} days after the cut), the first from "
        f"{config.least_train_cuts} at least.",
        f"Estimator: {config.estimator} with fixed parameters; nothing is searched or calibrated, so that only time "
        f"differs. {sum(history.seconds.values()):.1f} CPU seconds for {len(history.seconds)} fits.",
        f"All models are compared on the same rows; {config.resamples} resamples of customers, the same for all. "
        "Intervals know the luck of customers, not that of months: a history without a change says nothing of one.",
        "\"Surely worse\": another policy's lead is larger than the luck of the best of them explains (t-max test of "
        "Hansen, Lunde and Nason, 2011).",
    ]
    if left_out:
        items.append(f"Not told from \"never\" by this history, or no multiple of the cuts: every "
                     f"{', '.join(map(str, left_out))} months.")
    if history.cut_short:
        items.append(f"The study {history.cut_short}.")
    return Bullets(tuple(items))


def _change(one: Interval, digits: int) -> str:
    return f"{one.value:+.{digits}f} [{one.low:+.{digits}f},\N{NO-BREAK SPACE}{one.high:+.{digits}f}]"


def _level(one: Interval) -> str:
    return f"{one.value:.3f} [{one.low:.3f},\N{NO-BREAK SPACE}{one.high:.3f}]"


def _money(one: Interval) -> str:
    return f"{one.value:+,.0f} [{one.low:+,.0f},\N{NO-BREAK SPACE}{one.high:+,.0f}]"
