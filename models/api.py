"""The HTTP API of a release: routes over a `Runtime`, which the service fills before it is ready.

Nothing of a customer is logged here: a fault names its kind and place, never a value or a path.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from models.docs_page import docs, docs_file
from models.request_model import faults
from models.runtime import Runtime

if TYPE_CHECKING:  # they pull in pandas: BentoML's parent process loads this module too, and scores nothing
    from models.features_online import OnlineRow
    from models.scorer import Answer

MAX_BODY_BYTES: Final = 1 << 20
MAX_ID: Final = 200
READ_SECONDS: Final = 1.0  # a store that is locked or hangs costs a caller no more than this
LOGGER: Final = logging.getLogger("bentoml.churn")


class Refusal(Exception):
    """An answer that is no score: status, one line, and for 422 the fields."""

    def __init__(self, status: int, error: str, fields: list[dict[str, Any]] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.fields = fields


Work = Callable[[Request, Runtime, str], Awaitable[dict[str, Any]]]


def _answering(route: str, entity_of: Callable[[Request], str | None]) -> Callable[[Work], Any]:
    """Give a handler what all share: request id, customer header, metrics, refusals as JSON."""

    def decorate(work: Work) -> Callable[[Request], Awaitable[Response]]:
        @wraps(work)
        async def handle(request: Request) -> Response:
            started = time.perf_counter()
            runtime: Runtime = request.app.state.runtime
            request_id = _request_id(request)
            headers = {"x-request-id": request_id, "cache-control": "no-store"}
            entity = entity_of(request)
            if entity is not None:
                headers["x-churn-customer"] = runtime.customer_hash(entity)
            status, content = 200, {}
            try:
                if entity is not None and len(entity) > MAX_ID:
                    raise Refusal(422, "cannot use the request", [_field("customer_id", f"longer than {MAX_ID}")])
                content = await work(request, runtime, request_id)
            except Refusal as refusal:
                status, content = refusal.status, {"error": str(refusal), "request_id": request_id}
                if refusal.fields is not None:
                    content["fields"] = refusal.fields
                if status == 503:
                    headers["retry-after"] = "1"
            except Exception as error:  # the caller gets a 500, the log its place, no value
                LOGGER.error("%s failed: %s at %s (request %s)", route, type(error).__name__, _place(error), request_id)
                status, content = 500, {"error": "internal error", "request_id": request_id}
            runtime.metrics.request(route, status, time.perf_counter() - started)
            return Response(orjson.dumps(content), status, headers, media_type="application/json")

        return handle

    return decorate


@_answering("/v1/customers/{customer_id}/churn", lambda request: request.path_params["customer_id"])
async def score_customer(request: Request, runtime: Runtime, request_id: str) -> dict[str, Any]:
    """Score one customer by the features in the online store."""
    explain = request.query_params.get("explain", "false").lower()
    if explain != "false":
        problem = "this release carries no explanations" if explain == "true" else "must be true or false"
        raise Refusal(422, "cannot use the request", [_field("explain", problem)])
    entity = request.path_params["customer_id"]
    row = await _read(runtime, entity)
    if row is None:
        raise Refusal(404, "unknown customer: the online store has no features of it")
    degraded = runtime.reservations(row.as_of)
    as_of = _iso(row.as_of)
    answers = _decide(runtime, request, request_id, [row.features], entity, eligible=row.eligible,
                      features_as_of=as_of, degraded=degraded)
    return {
        "customer_id": entity, **answers[0], **_about(runtime, request_id), "features_as_of": as_of,
        **({"degraded": degraded} if degraded else {}),
    }


@_answering("/v1/score", lambda request: request.headers.get("x-customer-id") or None)
async def score_rows(request: Request, runtime: Runtime, request_id: str) -> dict[str, Any]:
    """Score rows of features given by the caller."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "cannot read the body: send content-type application/json")
    body = await _body(request)
    try:
        rows = runtime.rows.validate_json(body)["rows"]
    except ValidationError as error:
        raise Refusal(422, "cannot use the request", faults(error)) from None
    answers = _decide(runtime, request, request_id, rows, request.headers.get("x-customer-id") or None, eligible=True,
                      features_as_of=None, degraded=[])
    return {"predictions": [{"row": row, **answer} for row, answer in enumerate(answers)],
            **_about(runtime, request_id)}


def _decide(
    runtime: Runtime, request: Request, request_id: str, rows: list[Mapping[str, Any]], entity: str | None, *,
    eligible: bool, features_as_of: str | None, degraded: list[str],
) -> list[dict[str, Any]]:
    """Score, decide, count and log each row."""
    from models.scorer import decide

    attempt = request.headers.get("x-envoy-attempt-count", "1")
    shared = {
        "at": _iso(datetime.now(UTC)), "request_id": request_id, "release_id": runtime.release_id,
        "model_version": runtime.payload.model_version, "entity": entity,
        "attempt": int(attempt) if attempt.isdecimal() else 1, "features_as_of": features_as_of, "degraded": degraded,
    }
    answers = []
    for number, (features, probability) in enumerate(zip(rows, runtime.score(rows), strict=True)):
        answer = decide(probability, entity, runtime.payload.policy, eligible=eligible)
        shown = {"churn_probability": probability, "decision": _shown(answer)}
        runtime.metrics.decision(answer.decision, answer.why)
        for reason in degraded:
            runtime.metrics.degraded(reason)
        if not runtime.log.append({**shared, "row": number, "features": features, "probability": probability,
                                   "decision": shown["decision"]}):
            runtime.metrics.unlogged()
        answers.append(shown)
    return answers


async def _read(runtime: Runtime, entity: str) -> OnlineRow | None:
    waiting = asyncio.get_running_loop().run_in_executor(runtime.reader, runtime.read_online, entity)
    try:
        return await asyncio.wait_for(waiting, READ_SECONDS)
    except Exception as error:  # SQLite, Feast, SQLAlchemy or a timeout: the caller can only come again
        LOGGER.warning("online features failed: %s at %s", type(error).__name__, _place(error))
        raise Refusal(503, "the feature store did not answer; try again") from None


async def _body(request: Request) -> bytes:
    """The body, but never more of it than `MAX_BODY_BYTES`: a length that is announced may be a lie."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Refusal(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def metrics(request: Request) -> Response:
    return Response(request.app.state.runtime.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def build_app() -> Starlette:
    """The routes; `app.state.runtime` must be set before the first request."""
    return Starlette(routes=[
        Route("/v1/customers/{customer_id}/churn", score_customer, methods=["GET"]),
        Route("/v1/score", score_rows, methods=["POST"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
        Route("/docs/{name}", docs_file, methods=["GET"]),
    ])


def _request_id(request: Request) -> str:
    """Envoy's id, so both logs can be joined; one of our own where there is none that can be used."""
    given = request.headers.get("x-request-id", "")
    return given if given.isascii() and given.isprintable() and 0 < len(given) <= MAX_ID else str(uuid.uuid4())


def _about(runtime: Runtime, request_id: str) -> dict[str, Any]:
    return {"model_version": runtime.payload.model_version, "release_id": runtime.release_id, "request_id": request_id}


def _shown(answer: Answer) -> dict[str, Any]:
    return {"action": answer.decision, "why": answer.why, "expected_value": round(answer.expected_value, 4)}


def _field(name: str, problem: str) -> dict[str, Any]:
    return {"row": None, "field": name, "problem": problem}


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _place(error: BaseException) -> str:
    """File and line an error came from: enough to find it, and none of its values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
