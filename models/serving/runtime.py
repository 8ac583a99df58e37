"""All that answering a request needs, put together and warmed up once."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from models.errors import ReleaseError
from models.serving.prediction_log import PredictionLog
from models.serving.request_model import rows_adapter

if TYPE_CHECKING:  # they pull in pandas: BentoML's parent process loads this module too, and scores nothing
    from models.serving.api_keys import ApiKeys
    from models.serving.features_online import ReadOnline
    from models.serving.payload import Payload
    from models.serving.platform_clock import PlatformClock
    from models.serving.service_metrics import ServiceMetrics


@dataclass(frozen=True)
class Runtime:
    """All a request needs; made once, before the release is ready."""

    payload: Payload
    release_id: str
    read_online: ReadOnline
    clock: PlatformClock
    log: PredictionLog
    metrics: ServiceMetrics
    customer_key: bytes
    rows: TypeAdapter[Any]
    keys: ApiKeys | None  # who may ask; None: everybody
    reader: ThreadPoolExecutor  # one thread: Feast's SQLite connection is one, and a stuck read must not stop POST
    explainer: ThreadPoolExecutor

    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Churn probability of each row of features."""
        return self.payload.scorer.score(rows)

    @property
    def explanations(self) -> int:
        """How many reasons a score can be given; 0: none."""
        return self.payload.charter.requirements.explanations if self.payload.attributor is not None else 0

    def explain(self, rows: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
        """The strongest reasons of each row, in words; what each adds to the log-odds against a typical customer.

        Raises:
            ReleaseError: the release carries no explanations.
        """
        import pandas as pd

        from models.serving.reasons import explain_rows

        if self.payload.attributor is None:
            raise ReleaseError("this release carries no explanations; see requirements.explanations of its charter")
        frame = pd.DataFrame(rows, columns=self.payload.contract.feature_names)
        return [[{"feature": reason.column, "text": reason.text, "log_odds": round(reason.contribution, 6)}
                 for reason in one.reasons]
                for one in explain_rows(self.payload.attributor, frame, top=self.explanations)]

    def customer_hash(self, entity: str) -> str:
        """What Envoy may log of a customer: 32 hex digits of an HMAC with the platform's key."""
        return hmac.new(self.customer_key, entity.encode(), hashlib.sha256).hexdigest()[:32]

    def reservations(self, as_of: datetime) -> list[str]:
        """Why features of this date are not to be taken at face value."""
        now = self.clock.now()
        if now is not None:
            self.metrics.feature_age((now - as_of).total_seconds())
        if now is None or as_of > now:  # unreadable, or behind its own data: no age can be vouched for
            return ["clock"]
        limit = timedelta(days=self.payload.charter.requirements.max_feature_age_days)
        return ["stale_features"] if now - as_of > limit else []


def build_runtime(
    payload: Payload, *, release_id: str, read_online: ReadOnline, clock: PlatformClock, log: PredictionLog,
    customer_key: bytes, keys: ApiKeys | None = None, metrics_folder: Path | None = None,
) -> Runtime:
    """Put a runtime together and warm it up: one online read, one score.

    Raises:
        Exception: whatever the first read or score raises; the release must then not become ready.
    """
    from models.serving.scorer import plain_rows
    from models.serving.service_metrics import ServiceMetrics

    runtime = Runtime(
        payload=payload, release_id=release_id, read_online=read_online, clock=clock, log=log,
        metrics=ServiceMetrics(release_id, metrics_folder), customer_key=customer_key,
        rows=rows_adapter(payload.contract), keys=keys,
        reader=ThreadPoolExecutor(1, thread_name_prefix="online-features"),
        explainer=ThreadPoolExecutor(1, thread_name_prefix="reasons"),
    )
    runtime.reader.submit(read_online, "").result(timeout=60)
    warm = plain_rows(payload.golden.head(1), payload.contract.feature_names)
    runtime.score(warm)
    if runtime.explanations:
        runtime.explain(warm)
    return runtime
