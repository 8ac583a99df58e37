"""The steps of a training, each a task: what `flows/train.py` names in their order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import pandas as pd
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.context import Context
from flows.progress import trial_line
from flows.settings import REPO
from flows.summary import Stages, say
from flows.verdict import judge
from models.cuts import CutPlan, next_mature
from models.decision import Decision
from models.evaluation.result import Evaluation
from models.training.contacts import row_weights
from models.training.fit import Candidate, TrainingConfig, check_enough, fit_candidate
from models.training.search import Trial
from tasks.data.lake import stamp
from tasks.features.snapshots import first_event
from tasks.release.package import export_pins
from tasks.training.evaluate import evaluate_candidate, figures
from tasks.training.leaks import refuse_leaks
from tasks.training.plots import draw_evaluation
from tasks.training.provenance import Provenance, provenance
from tasks.training.record import Dataset, Record, begin_record, write_record
from tasks.training.register import chosen_params, register, settle
from tasks.training.tracking import NOTE, Run, training_run
from tasks.training.train_plots import draw_importance
from tasks.training.training_set import TrainingSet, build_set

HYPOTHESIS: Final = "Features known at a cut tell who will churn after it, well enough to earn more than what is live."


@dataclass(frozen=True)
class Experiment:
    """What every step of one training shares."""

    context: Context
    plan: CutPlan
    config: TrainingConfig
    hypothesis: str
    run: Run
    dataset: Dataset
    made_with: Provenance
    stages: Stages

    def subject(self, decision: Decision) -> str:
        """What the ledger's rows about its result are filed under: the model version, or else the run."""
        return str(decision.evidence["model_version"] or self.run.run_id)

    def card_name(self, decision: Decision) -> str:
        """The model card's: by version; of what was not registered one a date, the last to be tried."""
        version = decision.evidence["model_version"]
        return f"v{version}" if version else f"candidate-{self.context.as_of:%Y-%m-%d}"

    def note(self, *more: str) -> str:
        """The run's description, in Markdown."""
        return "\n\n".join([f"**Hypothesis:** {self.hypothesis}", *more])


@contextmanager
def begin_experiment(
    context: Context, plan: CutPlan, config: TrainingConfig, hypothesis: str
) -> Iterator[Experiment]:
    """Open the run, settle what a training that died left, and write down what is about to be tried."""
    note = f"**Hypothesis:** {hypothesis}"
    with training_run(context.home, context.charter, name=f"train {context.as_of:%Y-%m-%d}", note=note) as run:
        settle(run.client, run.home, context.engine, context.charter.name)
        dataset, made_with = Dataset.of(context.engine), provenance(REPO)
        begin_record(run, hypothesis=hypothesis, as_of=context.as_of, config=config, charter=context.charter,
                     contract=context.contract, dataset=dataset, made_with=made_with)
        yield Experiment(context, plan, config, hypothesis, run, dataset, made_with, Stages(loud=False))


@task(name="build-training-set", cache_policy=NO_CACHE)
def build_training_set(experiment: Experiment) -> TrainingSet:
    """Mature labels joined with the features known at their cuts; one file a run."""
    context = experiment.context
    with experiment.stages("training set"):
        made = build_set(context.contract, context.charter, experiment.plan, home=context.home,
                         engine=context.engine, as_of=context.as_of, run_id=experiment.run.run_id,
                         memory_limit=context.settings.memory_limit)
    experiment.run.log(tags={"training_set": made.name,
                             **{f"contacts.{name}": one for name, one in made.contacts.items()}})
    experiment.run.used(name=f"dataset {experiment.dataset.version}", digest=made.content, place=made.path,
                        context="training")
    return made


@task(name="refuse-unusable", cache_policy=NO_CACHE)
def refuse_unusable(experiment: Experiment, training_set: TrainingSet) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows; stops before a model is fitted on too few mature labels, or on ones that leak."""
    context = experiment.context
    train_rows, test_rows = training_set.split()
    first = first_event(context.contract, home=context.home, engine=context.engine, as_of=context.as_of)
    later = next_mature(context.charter.problem, first_event=first, as_of=context.as_of)
    check_enough(train_rows, test_rows, context.contract, context.charter, as_of=context.as_of, next_as_of=later)
    with experiment.stages("leak checks"):
        unchecked = refuse_leaks(train_rows, context.contract, context.charter,
                                 random_state=experiment.config.random_state)
    experiment.run.log(tags={"leak_checks": "; ".join(leak.reason for leak in unchecked) or "passed"})
    return train_rows, test_rows


@task(name="search-and-fit", cache_policy=NO_CACHE)  # no retries: the same fit fails the same way
def search_and_fit(experiment: Experiment, train_rows: pd.DataFrame, test_rows: pd.DataFrame) -> Candidate:
    """Search, fit the best, and score the test rows once; each trial is a nested run and a line of progress.

    Raises:
        KeyboardInterrupt: Ctrl-C; the trials that were finished stand in the run, and nothing is registered.
    """
    context, run = experiment.context, experiment.run
    with experiment.stages("fit"):
        candidate = fit_candidate(train_rows, test_rows, context.contract, context.charter, experiment.config,
                                  on_trial=_report(run, experiment.config.trials), weight=row_weights(train_rows))
    if candidate.interrupted:
        run.log(params=chosen_params(candidate), tags={"search": candidate.search_ended})
        say(f"search {candidate.search_ended}: nothing is registered; what is finished stands in MLflow's run "
            f"{run.run_id}")
        raise KeyboardInterrupt(candidate.search_ended)
    return candidate


def _report(run: Run, trials: int) -> Callable[[Trial], None]:
    """What is called after each trial: a nested run, and a line of progress."""
    tell = trial_line(trials)

    def on_trial(trial: Trial) -> None:
        run.child(
            f"trial {trial.number + 1}: {trial.estimator}", params={"estimator": trial.estimator, **trial.params},
            metrics={"validation_log_loss": trial.loss, "seconds": trial.seconds,
                     **{f"validation_log_loss/{cut}": loss for cut, loss in trial.losses.items()}},
            tags={"state": trial.state}, seconds=trial.seconds,
            status={"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}[trial.state],
        )
        tell(trial)

    return on_trial


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate(experiment: Experiment, candidate: Candidate, test_rows: pd.DataFrame) -> Evaluation:
    """Every score with its interval, the curves, the segments."""
    with experiment.stages("evaluate"):
        return evaluate_candidate(candidate, test_rows, experiment.context.contract, experiment.context.charter,
                                  experiment.config)


@task(name="record-experiment", cache_policy=NO_CACHE)
def record_experiment(
    experiment: Experiment, training_set: TrainingSet, candidate: Candidate, evaluation: Evaluation,
    train_rows: pd.DataFrame, test_rows: pd.DataFrame,
) -> Record:
    """Parameters, metrics, plots and the record, into the run."""
    context, run = experiment.context, experiment.run
    with experiment.stages("plots"):
        run.figures({**draw_evaluation(evaluation), "importance": draw_importance(candidate.importance)}, "plots")
    record = Record(
        run_id=run.run_id, hypothesis=experiment.hypothesis, as_of=context.as_of, config=experiment.config,
        charter=context.charter, contract=context.contract, dataset=experiment.dataset, cuts=experiment.plan,
        training_set=training_set.name, content=training_set.content, snapshots=training_set.snapshots,
        provenance=experiment.made_with, rows={"train": len(train_rows), "test": len(test_rows)},
        metrics=figures(candidate, evaluation), params=chosen_params(candidate),
        search={"finished": len(candidate.trials), "ended": candidate.search_ended,
                "validation": candidate.validation},
        timings={**experiment.stages.seconds, **{f"fit/{name}": one for name, one in candidate.timings.items()}},
    )
    write_record(run, record)
    run.log(tags={"baseline_column": candidate.baseline.column, "search": candidate.search_ended,
                  "validation": candidate.validation,
                  "calibration": candidate.calibration.reason if candidate.calibration else "none",
                  "worst_segment": str(evaluation.worst or "none has enough rows to say so")})
    run.text(json.dumps(evaluation.to_dict(), indent=1), "evaluation.json")
    return record


@task(name="judge-candidate", cache_policy=NO_CACHE)
def judge_candidate(
    experiment: Experiment, candidate: Candidate, evaluation: Evaluation, test_rows: pd.DataFrame
) -> Decision:
    """The gate's verdict, with what a reader of the ledger asks next."""
    context = experiment.context
    with experiment.stages("gate"):
        verdict = judge(context, candidate, test_rows, evaluation, config=experiment.config)
    return replace(verdict, evidence={
        # What the gate itself compared with stands; a verdict without it names the best column of training.
        "candidate_auc": candidate.metrics.auc, "baseline_column": candidate.baseline.column,
        "baseline_auc": candidate.baseline_auc, **verdict.evidence, "estimator": candidate.estimator,
        "features": len(context.contract.features), "monthly_value": monthly_value(context, candidate),
        "dataset_version": experiment.dataset.version,
        "train_cuts": ", ".join(stamp(cut) for cut in experiment.plan.train),
        "test_cuts": ", ".join(stamp(cut) for cut in experiment.plan.test),
    })


def monthly_value(context: Context, candidate: Candidate) -> float:
    """Money a month, realised on the test cut."""
    return candidate.metrics.value / context.charter.problem.snapshot_every_months


@task(name="register-winner", cache_policy=NO_CACHE)  # no retries: registering twice would make two versions
def register_winner(
    experiment: Experiment, candidate: Candidate, verdict: Decision, test_rows: pd.DataFrame
) -> Decision:
    """The verdict into ledger and run; what won becomes a version, then challenger."""
    context, run = experiment.context, experiment.run
    note = experiment.note(f"**Verdict:** {verdict.verdict}: {verdict.reason}")
    with experiment.stages("register"):
        decision = register(
            run, candidate, verdict, engine=context.engine, charter=context.charter, contract=context.contract,
            test=test_rows, pins=export_pins(REPO) if verdict.verdict == "promote" else "",
            as_of=context.as_of, note=note,
            facts={"dataset_version": experiment.dataset.version, "monthly_value": monthly_value(context, candidate)},
        )
    run.log(tags={NOTE: note}, metrics={f"seconds/{name}": one for name, one in experiment.stages.seconds.items()})
    return decision


def show_verdict(context: Context, decision: Decision) -> None:
    """The verdict as an artifact of Prefect."""
    create_markdown_artifact(
        f"**{decision.verdict}**: {decision.reason}\n\n```json\n{json.dumps(dict(decision.evidence), indent=1)}\n```",
        key="promotion", description=f"promotion as of {context.as_of:%Y-%m-%d}: {decision.verdict}",
    )
