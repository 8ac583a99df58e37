"""Looks of the judge. Reads a rollout's evidence; writes each look into our state and redraws its picture."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from models.decision import Decision
from models.errors import describe
from models.gates.canary import judge
from models.gates.canary_counts import Skew
from models.gates.shadow import judge_shadow
from tasks.home import Home
from tasks.release.evidence import read_evidence
from tasks.release.prediction_lines import first_requests, read_scored
from tasks.release.release_process import ReleasePlace
from tasks.release.rollouts import RolloutRow
from tasks.release.router_lines import latency_edges
from tasks.release.shadow_evidence import read_shadow
from tasks.release.skew import read_skew, rollouts_folder
from tasks.state import now
from tasks.tables import LOOKS, ROLLOUTS

E_VALUE = "_e_value"  # how the judges name the worth of a monitor in their evidence
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """One look: what the judge saw and said."""

    at: datetime
    state: str
    stage: int
    verdict: str
    reason: str
    e_values: Mapping[str, float]
    evidence: Mapping[str, float | int | str | None]


def look(place: ReleasePlace, rollout: RolloutRow) -> Decision:
    """What the evidence so far says about the present state and stage of a shadow or canary."""
    decision = _judge_shadow(place, rollout) if rollout.state == "shadow" else _judge_canary(place, rollout)
    _write(place.engine, rollout, decision)
    try:
        draw_rollout(place, rollout)
    except Exception as error:  # a picture that cannot be drawn stops no verdict
        LOGGER.warning("the picture of the rollout %s was not drawn: %s", rollout.rollout_id, type(error).__name__)
    return decision


def draw_rollout(place: ReleasePlace, rollout: RolloutRow) -> Path:
    """Draw all looks of a rollout; returns the picture."""
    from tasks.release.look_plot import draw_looks

    return draw_looks(read_looks(place.engine, rollout.rollout_id), picture(place.home, rollout.rollout_id),
                      title=f"{rollout.release_id} against {rollout.champion_id}",
                      shares=rollout.stages(place.limits.stages))


def picture(home: Home, rollout_id: str) -> Path:
    """Where a rollout's picture lies."""
    return rollouts_folder(home) / f"{rollout_id}.png"


def read_looks(engine: sa.Engine, rollout_id: str) -> list[Look]:
    """The looks at a rollout, the first one first."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(LOOKS).where(LOOKS.c.rollout_id == rollout_id).order_by(LOOKS.c.at)).mappings().all()
    return [Look(datetime.fromisoformat(row["at"]), row["state"], row["stage"], row["verdict"], row["reason"],
                 json.loads(row["e_values"]), json.loads(row["evidence"])) for row in rows]


def _judge_canary(place: ReleasePlace, rollout: RolloutRow) -> Decision:
    so_far = rollout.stages(place.limits.stages)[:rollout.stage + 1]
    edges = latency_edges(rollout.evidence)
    evidence = read_evidence(place.home, rollout.rollout_id, so_far, edges=edges, canary_id=rollout.release_id,
                             limits=place.limits, start=rollout.evidence)
    skew = Skew(fault=evidence.fault)
    if not evidence.fault:
        try:
            scored = read_scored(place.home, {rollout.release_id}, evidence.answered.keys() | evidence.sample,
                                 since=_since(rollout), in_full=set(first_requests(evidence.answered).values()),
                                 start=rollout.evidence)
            skew = read_skew(place.home, place.engine, release_id=rollout.release_id, rollout_id=rollout.rollout_id,
                             limits=place.limits, answered=evidence.answered, sample=evidence.sample,
                             scored=scored[rollout.release_id], first_of_stage=evidence.first_of_stage)
        except Exception as error:  # whatever it was: nothing is known of the scores, the other monitors still watch
            skew = _unknown(error)
    return judge(evidence.stages, place.limits, edges=edges, skew=skew, minutes_in_stage=rollout.minutes_in_stage,
                 fault=evidence.fault)


def _judge_shadow(place: ReleasePlace, rollout: RolloutRow) -> Decision:
    seen = read_shadow(place.home, rollout.rollout_id, shadow_id=rollout.release_id,
                       champion_id=str(rollout.champion_id), since=_since(rollout), start=rollout.evidence)
    skew = Skew(fault=seen.fault)
    if not seen.fault:
        try:
            skew = read_skew(place.home, place.engine, release_id=rollout.release_id, rollout_id=rollout.rollout_id,
                             limits=place.limits, answered=seen.answered, sample=seen.answered.keys(),
                             scored=seen.scored, first_of_stage=0)
        except Exception as error:
            skew = _unknown(error)
    return judge_shadow(seen.counts, place.limits, skew=skew, minutes_in_stage=rollout.minutes_in_stage,
                        fault=seen.fault)


def _unknown(error: Exception) -> Skew:
    LOGGER.warning("the scores were not compared: %s", describe(error))
    return Skew(fault=f"scores cannot be compared with batch scores: {describe(error)}")


def _since(rollout: RolloutRow) -> datetime:
    return datetime.fromisoformat(rollout.opened_at)


def _write(engine: sa.Engine, rollout: RolloutRow, decision: Decision) -> None:
    e_values = {name.removesuffix(E_VALUE): value for name, value in decision.evidence.items()
                if name.endswith(E_VALUE)}
    values = {"rollout_id": rollout.rollout_id, "at": now(), "state": rollout.state, "stage": rollout.stage,
              "verdict": decision.verdict, "reason": decision.reason, "e_values": json.dumps(e_values),
              "evidence": json.dumps(dict(decision.evidence))}
    # Not where another look moved the rollout on meanwhile: the picture's stages would go back and forth.
    still = sa.exists(sa.select(ROLLOUTS.c.rollout_id).where(
        ROLLOUTS.c.rollout_id == rollout.rollout_id, ROLLOUTS.c.state == rollout.state,
        ROLLOUTS.c.stage == rollout.stage))
    with engine.begin() as connection:
        connection.execute(LOOKS.insert().from_select(
            list(values), sa.select(*map(sa.literal, values.values())).where(still)))
