"""The whole loop, once: ingest, features, train, release, score, monitor."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows.context import Context, open_context
from flows.features import features
from flows.go import no_go_of
from flows.ingest import ingest
from flows.monitor import monitor
from flows.release import release
from flows.score import score
from flows.summary import Stages, Summary, summarise
from flows.train import DEFAULT_CONFIG, train
from models.decision import Decision
from models.training import TrainingConfig
from tasks import rollouts
from tasks.processes import supervisor_running
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
    with stages("drift check"):
        drift = monitor(context.as_of)
    return summarise(context, stages, load, promotion, rollout, drift)


def release_winner(context: Context, promotion: Decision) -> Decision:
    """Open a rollout for a promoted version whose development ended with a go.

    Where one is open already advance that, and say that the version waits.
    """
    if promotion.verdict != "promote":
        return release()
    version = int(promotion.evidence["model_version"] or 0)
    refusal = no_go_of(context.engine, str(version))
    if refusal is not None:
        refused = Decision("release", "refuse", f"version {version} is not released by itself: {refusal}. A person "
                           f"may: `make release VERSION={version} WHO=name WHY=text`")
        record_decision(context.engine, refused, as_of=context.as_of, subject=str(version))
        return refused
    if rollouts.open_rollout(context.engine) is None:
        return release(version=version, who="lifecycle", why=promotion.reason)
    advanced = release()
    waits = Decision(advanced.gate, advanced.verdict, f"{advanced.reason}; version {version} was promoted meanwhile "
                     f"and waits: `make release VERSION={version} WHO=name WHY=text` once this rollout is over")
    record_decision(context.engine, waits, as_of=context.as_of, subject=str(version))
    return waits
