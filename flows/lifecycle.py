"""The whole loop, once: ingest, features, train, release, score, ship, bake, monitor."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows.bake import bake
from flows.context import Context, open_context
from flows.features import features
from flows.ingest import ingest
from flows.monitor import monitor
from flows.release import release
from flows.releasing import held_back
from flows.score import score
from flows.ship import ship_predictions
from flows.summary import Stages, Summary, summarise
from flows.train import DEFAULT_CONFIG, train
from models.decision import Decision
from models.training.fit import TrainingConfig
from tasks.release import rollouts
from tasks.release.bake_state import baking
from tasks.release.processes import supervisor_running
from tasks.state import record_decision


@flow(name="lifecycle")
def lifecycle(as_of: datetime | None = None, config: TrainingConfig = DEFAULT_CONFIG) -> Summary:
    """From the sources to a decision about each customer, as of `as_of` (None: the platform clock).

    Without a running platform it ends at the promotion gate: a release needs processes to serve it.
    """
    stages = Stages()
    context = open_context(as_of, ingesting=True)
    with stages("ingest"):
        load = ingest(context.as_of)
    with stages("features"):
        features(context.as_of)
    with stages("train"):
        promotion = train(context.as_of, config)
    if not supervisor_running(context.home):
        return summarise(context, stages, load, promotion, None, None)
    with stages("release"):
        rollout = release_winner(context, promotion)
    if rollouts.champion(context.engine) is None:
        return summarise(context, stages, load, promotion, rollout, None)
    with stages("score"):
        score(context.as_of)
    with stages("ship log"):
        ship_predictions(context.home)
    if baking(context.engine):
        with stages("bake"):
            bake(context.as_of)
    with stages("drift check"):
        drift = monitor(context.as_of)
    return summarise(context, stages, load, promotion, rollout, drift)


def release_winner(context: Context, promotion: Decision) -> Decision:
    """Open a rollout for a promoted version, unless something holds it back; where one is open advance that."""
    if promotion.verdict != "promote":
        return release()
    version = str(promotion.evidence["model_version"])
    why_not = held_back(context.engine, version)
    if why_not is None:
        return release(version=int(version), who="lifecycle", why=promotion.reason, by_itself=True)
    answer = Decision("release", "refuse", why_not)
    if rollouts.open_rollout(context.engine) is not None:
        advanced = release()
        answer = Decision(advanced.gate, advanced.verdict, f"{advanced.reason}; {why_not}")
        if advanced.gate == "release":  # the rollout ended, and the row of its end is told
            return answer
    record_decision(context.engine, answer, as_of=context.as_of, subject=version)
    return answer
