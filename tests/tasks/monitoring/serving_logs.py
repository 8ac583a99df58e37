"""A prediction log and Envoy's access log as releases and router write them, for tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.home import Home
from tasks.release.routing import access_log

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
OLD, NEW, BEFORE = "churn:v1-aaaa", "churn:v2-bbbb", "churn:v0-cccc"
ROLLOUT = "r0llout"


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def prediction(
    request_id: str, *, seconds: float = 0, release: str = OLD, attempt: int = 1, row: int = 0,
    entity: str | None = "c1", **more: Any,
) -> dict[str, Any]:
    """A line of the prediction log, `seconds` after `START`."""
    return {"at": at(seconds), "request_id": request_id, "release_id": release, "model_version": release[7],
            "entity": entity, "attempt": attempt, "features_as_of": "2026-11-19T00:00:00Z", "degraded": [],
            "route": "get", "row": row, "features": {"visits": 3, "spend": 1.5, "tier": None}, "probability": 0.25,
            "decision": {"action": "contact", "why": "value", "expected_value": 3.5}, **more}


def routed(request_id: str, *, seconds: float = 0, by: str | None = OLD, attempts: int = 1, code: int = 200,
           **more: Any) -> dict[str, Any]:
    """A line of Envoy's log."""
    return {"ts": at(seconds), "method": "GET", "route": "customer", "code": code, "ms": 4, "us": 4000,
            "cluster": f"stable/{OLD}/8101", "answered_by": by, "attempts": attempts, "request_id": request_id,
            "customer": "ab" * 16, "rollout": None, "share": None, "shadow": None, **more}


def write_lines(path: Path, *lines: dict[str, Any] | bytes) -> None:
    """Append lines; bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for line in lines:
            file.write(line if isinstance(line, bytes) else json.dumps(line, separators=(",", ":")).encode() + b"\n")


def write_predictions(home: Home, *lines: dict[str, Any] | bytes, piece: str = "predictions.jsonl") -> None:
    write_lines(home.serving / piece, *lines)


def write_router(home: Home, *lines: dict[str, Any] | bytes) -> None:
    write_lines(access_log(home), *lines)
