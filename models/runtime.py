"""All that answering a request needs, put together and warmed up once."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from models.prediction_log import PredictionLog
from models.request_model import rows_adapter

if TYPE_CHECKING:  # they pull in pandas: BentoML's parent process loads this module too, and scores nothing
    from models.features_online import ReadOnline
    from models.payload import Payload
    from models.platform_clock import PlatformClock
    from models.service_metrics import ServiceMetrics


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
    reader: ThreadPoolExecutor  # one thread: Feast's SQLite connection is one, and a stuck read must not stop POST

    def score(self, rows: list[Mapping[str, Any]]) -> list[float]:
        """Churn probability of each row of features."""
        import pandas as pd

        from models.scorer import predict

        frame = pd.DataFrame(rows, columns=self.payload.contract.feature_names)
        return [float(value) for value in predict(self.payload.pipeline, frame, self.payload.contract)]

    def customer_hash(self, entity: str) -> str:
        """What Envoy may log of a customer: 32 hex digits of an HMAC with the platform's key."""
        return hmac.new(self.customer_key, entity.encode(), hashlib.sha256).hexdigest()[:32]

    def reservations(self, as_of: datetime) -> list[str]:
        """Why features of this date are not to be taken at face value."""
        now = self.clock.now()
        if now is None or as_of > now:  # unreadable, or behind its own data: no age can be vouched for
            return ["clock"]
        limit = timedelta(days=self.payload.charter.requirements.max_feature_age_days)
        return ["stale_features"] if now - as_of > limit else []


def build_runtime(
    payload: Payload, *, release_id: str, read_online: ReadOnline, clock: PlatformClock, log: PredictionLog,
    customer_key: bytes,
) -> Runtime:
    """Put a runtime together and warm it up: one online read, one score.

    Raises:
        Exception: whatever the first read or score raises; the release must then not become ready.
    """
    from models.service_metrics import ServiceMetrics

    runtime = Runtime(
        payload=payload, release_id=release_id, read_online=read_online, clock=clock, log=log,
        metrics=ServiceMetrics(release_id), customer_key=customer_key, rows=rows_adapter(payload.contract),
        reader=ThreadPoolExecutor(1, thread_name_prefix="online-features"),
    )
    runtime.reader.submit(read_online, "").result(timeout=60)
    runtime.score([dict(payload.golden.iloc[0])])
    return runtime
