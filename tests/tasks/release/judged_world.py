"""A home with a tiny real release, its snapshot, and both logs written line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from models.limits import Rollout
from models.serving.payload import load_payload
from models.serving.scorer import predict
from tasks.data.lake import snapshot_partition, write_partition
from tasks.home import Home
from tasks.release import package, releases, rollouts
from tasks.release.release_process import ReleasePlace
from tasks.release.rollouts import RolloutRow
from tasks.release.routing import access_log
from tasks.state import open_state
from tests.release_payload import AS_OF, tiny_contract, tiny_rows, write_payload

CANARY, CHAMPION = "churn:b", "churn:a"
ARMS = {CANARY: "canary_or_stable/churn:b/25302", CHAMPION: "stable/churn:a/25301"}


class JudgedWorld:
    """Members `m0`, `m1`, ... of a snapshot; both releases carry the same model."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, limits: Rollout) -> None:
        self.home = Home(root)
        self.home.serving.mkdir(parents=True)
        folder = write_payload(root / "payload")
        monkeypatch.setattr(package, "bento_payload", lambda _home, _tag: folder)
        self.payload = load_payload(folder)
        frame = tiny_rows().assign(member_id=[f"m{at}" for at in range(200)], active=True)
        self.rows = frame.set_index("member_id")
        contract = tiny_contract()
        write_partition(pl.from_pandas(frame), snapshot_partition(self.home, contract.fingerprint, AS_OF))
        self.batch = pd.Series(predict(self.payload.pipeline, frame, contract), index=frame["member_id"])
        self.place = ReleasePlace(home=self.home, engine=open_state(self.home.state_url), limits=limits, repo=root,
                                  first_port=25300)
        self.requests = 0
        access_log(self.home).touch()
        self.log = self.home.serving / "predictions.jsonl"
        self.log.touch()

    def open(self, strategy: str = "canary", state: str = "canary", stage: int = 0, **evidence: Any) -> RolloutRow:
        """A champion that is a release, and an open rollout of another in this state."""
        for release_id in (CHAMPION, CANARY):
            releases.register_release(self.place.engine, release_id=release_id, model_version=release_id, run_id="r",
                                      fingerprint="f", as_of="2025-01-01", auc=0.7, monthly_value=1.0)
        first = rollouts.open_new(self.place.engine, release_id=CHAMPION, strategy="basic", who="t", why="t")
        rollouts.close(self.place.engine, first, state="champion", reason="first")
        new: Any = rollouts.open_new(self.place.engine, release_id=CANARY, strategy=strategy, who="t", why="t")
        rollouts.advance(self.place.engine, new, state=state, stage=stage, evidence={"log_byte": 0, **evidence})
        self.rollout = rollouts.read_rollout(self.place.engine, new.rollout_id)
        return self.rollout

    def ask(self, member: str, release_id: str, *, skew: float = 0.0, logged: bool = True, given: bool = False,
            shadow: bool = False, **line: Any) -> str:
        """A request of a member, dealt to a release's arm and answered by it; both logs get their lines."""
        self.requests += 1
        request_id = f"q{self.requests}"
        routed = {"shadow": "1"} if shadow else {"share": f"{self.place.limits.stages[self.rollout.stage]:g}"}
        entry = {"ts": "2026-01-01T00:00:00.000Z", "route": "customer", "rollout": self.rollout.rollout_id, **routed,
                 "cluster": ARMS[release_id], "code": 200, "attempts": 1, "ms": 3, "us": 900,
                 "answered_by": release_id, "customer": f"hash-{member}", "request_id": request_id}
        with access_log(self.home).open("a") as file:
            file.write(json.dumps({**entry, **line}) + "\n")
        if logged:
            self.write(member, release_id, request_id, skew=skew, given=given)
        return request_id

    def write(self, member: str, release_id: str, request_id: str, *, skew: float = 0.0, given: bool = False) -> None:
        """A release's line in the prediction log; `skew` is what its probability is off."""
        row = self.rows.loc[member]
        features = {"visits": row["visits"], "spend": None if pd.isna(row["spend"]) else row["spend"],
                    "tier": row["tier"]}
        with self.log.open("a") as file:
            file.write(json.dumps({
                "at": "2026-01-01T00:00:00Z", "request_id": request_id, "release_id": release_id, "row": 0,
                "attempt": 1, "model_version": "3", "entity": member, "degraded": [],
                "route": "score" if given else "get",
                "features_as_of": None if given else AS_OF.isoformat().replace("+00:00", "Z"), "features": features,
                "probability": float(self.batch[member]) + skew,
                "decision": {"action": "leave", "why": "no_value", "expected_value": 0.0},
            }, separators=(",", ":")) + "\n")
