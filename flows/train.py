"""Train: mature labels, features as they were known, a search, one verdict. All of it is one MLflow run."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows.card import write_card
from flows.context import Context, open_context
from flows.experiment import (
    HYPOTHESIS,
    begin_experiment,
    build_training_set,
    evaluate,
    judge_candidate,
    record_experiment,
    refuse_unusable,
    register_winner,
    search_and_fit,
    show_verdict,
)
from flows.features import plan_training, take_snapshots
from flows.go import data_for_a_design, judge_design, judge_development
from models.decision import Decision
from models.training.fit import TrainingConfig
from tasks.locks import hold

DEFAULT_CONFIG = TrainingConfig()


@flow(name="train")
def train(
    as_of: datetime | None = None, config: TrainingConfig = DEFAULT_CONFIG, hypothesis: str = HYPOTHESIS
) -> Decision:
    """Train on what was known at `as_of`; register the model if it earns more than the champion.

    Args:
        hypothesis: what this training is to show, in a sentence; it stands in the run and on the version.

    Returns:
        The promotion gate's verdict; its evidence names the run and, if promoted, the model version.
    """
    context = open_context(as_of)
    with hold(context.home, "training"):  # two at once would each be compared with the champion, not with each other
        decision = _train(context, config, hypothesis)
    show_verdict(context, decision)
    return decision


def _train(context: Context, config: TrainingConfig, hypothesis: str) -> Decision:
    """The stages of a training, in their order."""
    with data_for_a_design(context):
        plan = plan_training(context, config)
    take_snapshots(context, (*plan.train, *plan.test))
    with begin_experiment(context, plan, config, hypothesis) as experiment:
        training_set = build_training_set(experiment)
        judge_design(context, plan, training_set.path)
        train_rows, test_rows = refuse_unusable(experiment, training_set)
        candidate = search_and_fit(experiment, train_rows, test_rows)
        evaluation = evaluate(experiment, candidate, test_rows)
        record_experiment(experiment, training_set, candidate, evaluation, train_rows, test_rows)
        verdict = judge_candidate(experiment, candidate, evaluation, test_rows)
        decision = register_winner(experiment, candidate, verdict, test_rows)
        judge_development(context, decision, evaluation.scores, subject=experiment.subject(decision))
        write_card(context.home, context.engine, experiment.run, experiment.card_name(decision))
    return decision
