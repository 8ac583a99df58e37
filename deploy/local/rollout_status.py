"""The open rollout for `make status`: where it stands, what the judge said last, and where its picture lies."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from models.limits import Rollout
from tasks.home import Home
from tasks.release.rollouts import RolloutRow
from tasks.tables import LOOKS


def rollout_status(engine: sa.Engine, home: Home, limits: Rollout, row: RolloutRow | None) -> dict[str, Any] | None:
    """The open rollout as one object; None where none is open."""
    if row is None:
        return None
    with engine.connect() as connection:
        look = connection.execute(sa.select(LOOKS).where(LOOKS.c.rollout_id == row.rollout_id)
                                  .order_by(LOOKS.c.at.desc()).limit(1)).mappings().first()
    picture = home.serving / "rollouts" / f"{row.rollout_id}.png"
    return {
        "release_id": row.release_id, "strategy": row.strategy, "state": row.state,
        "stage": row.stage + 1 if row.state == "canary" else None, "of_stages": len(row.stages(limits.stages)),
        "minutes_in_stage": round(row.minutes_in_stage, 1), "who": row.who, "why": row.why,
        "paused": {"at": row.paused_at, "who": row.paused_by, "why": row.paused_why} if row.paused_at else None,
        "last_look_at": row.last_look_at, "last_verdict": look["verdict"] if look else None,
        "last_reason": look["reason"] if look else None, "picture": str(picture) if picture.exists() else None,
    }


def rollout_lines(found: dict[str, Any] | None) -> list[str]:
    """The same for people, a line a fact."""
    if found is None:
        return ["rollout    none is open"]
    stage = f" stage {found['stage']} of {found['of_stages']}" if found["stage"] else ""
    lines = [f"rollout    {found['release_id']} ({found['strategy']}): {found['state']}{stage} for "
             f"{found['minutes_in_stage']:.0f} minutes, by {found['who']}: {found['why']}"]
    if found["paused"]:
        paused = found["paused"]
        lines.append(f"  paused since {paused['at'][:16]} by {paused['who']}: {paused['why']}; `make resume` ends it")
    lines.append(f"  last look {found['last_look_at'][:16]}: {found['last_verdict']}: {found['last_reason']}"
                 if found["last_look_at"] and found["last_verdict"] else "  last look none")
    return [*lines, f"  picture {found['picture']}"] if found["picture"] else lines
