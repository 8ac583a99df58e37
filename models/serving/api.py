"""The HTTP API of a release: routes over a `Runtime`, which the service fills before it is ready.

Nothing of a customer is logged here: a fault names its kind and place, never a value or a path.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from models.errors import DataError, place_of
from models.serving.docs_page import description, docs, docs_file
from models.serving.openapi import MAX_ID
from models.serving.request_model import faults, names_twice
from models.serving.request_parts import Refusal, field, must_be_json, named_customer, read_body, request_id_of
from models.serving.runtime import Runtime

if TYPE_CHECKING:  # they pull in pandas: BentoML's parent process loads this module too, and scores nothing
    from models.serving.features_online import OnlineRow
    from models.serving.scorer import Answer

MAX_EXPLAINED: Final = 100  # rows; reasons cost pandas and milliseconds
READ_SECONDS: Final = 1.0  # a store that is locked or hangs costs a caller no more than this
LOGGER: Final = logging.getLogger("bentoml.churn")


_HEADERS: Final[Mapping[int, Mapping[str, str]]] = {
    401: {"www-authenticate": 'Bearer realm="churn"'}, 503: {"retry-after": "1"},
}
Work = Callable[[Request, Runtime, str], Awaitable[dict[str, Any]]]


def _answering(route: str, entity_of: Callable[[Request], str | None]) -> Callable[[Work], Any]:
    """Give a handler what all share: request id, customer header, metrics, refusals as JSON."""

    def decorate(work: Work) -> Callable[[Request], Awaitable[Response]]:
        @wraps(work)
        async def handle(request: Request) -> Response:
            started = time.perf_counter()
            runtime: Runtime = request.app.state.runtime
            request_id = request_id_of(request)
            headers = {"x-request-id": request_id, "cache-control": "no-store"}
            status, content = 200, {}
            try:
                if runtime.keys is not None and not runtime.keys.admit(request.headers.get("authorization")):
                    raise Refusal(401, "send an API key that is known, as Authorization: Bearer KEY")
                entity = entity_of(request)
                if entity is not None:
                    headers["x-churn-customer"] = runtime.customer_hash(entity)
                if entity is not None and len(entity) > MAX_ID:
                    raise Refusal(422, "cannot use the request", [field("customer_id", f"longer than {MAX_ID}")])
                content = await work(request, runtime, request_id)
            except Refusal as refusal:
                status, content = refusal.status, {"error": str(refusal), "request_id": request_id}
                if refusal.fields is not None:
                    content["fields"] = refusal.fields
                headers |= _HEADERS.get(status, {})
            except Exception as error:  # the caller gets a 500, the log its place, no value
                LOGGER.error("%s failed: %s at %s (request %s)", route, type(error).__name__, place_of(error),
                             request_id)
                status, content = 500, {"error": "internal error", "request_id": request_id}
            runtime.metrics.request(route, status, time.perf_counter() - started)
            return Response(orjson.dumps(content), status, headers, media_type="application/json")

        return handle

    return decorate


@_answering("/v1/customers/{customer_id}/churn", lambda request: request.path_params["customer_id"])
async def score_customer(request: Request, runtime: Runtime, request_id: str) -> dict[str, Any]:
    """Score one customer by the features in the online store."""
    explain = _explain(request, runtime)
    entity = request.path_params["customer_id"]
    row = await _read(runtime, entity)
    if row is None:
        raise Refusal(404, "unknown customer: the online store has no features of it")
    degraded = runtime.reservations(row.as_of)
    as_of = _iso(row.as_of)
    answers = _decide(runtime, request, request_id, "get", [row.features], entity, eligible=row.eligible,
                      features_as_of=as_of, degraded=degraded)
    if explain:
        answers[0]["reasons"] = (await _reasons(runtime, [row.features]))[0]
    return {
        "customer_id": entity, **answers[0], **_about(runtime, request_id), "features_as_of": as_of,
        **({"degraded": degraded} if degraded else {}),
    }


@_answering("/v1/score", named_customer)
async def score_rows(request: Request, runtime: Runtime, request_id: str) -> dict[str, Any]:
    """Score rows of features given by the caller."""
    must_be_json(request)
    explain = _explain(request, runtime)
    body = await read_body(request)
    try:
        rows = runtime.rows.validate_json(body)["rows"]
    except ValidationError as error:
        raise Refusal(422, "cannot use the request", faults(error)) from None
    if explain and len(rows) > MAX_EXPLAINED:
        raise Refusal(422, "cannot use the request", [field("explain", f"at most {MAX_EXPLAINED} rows at once")])
    if names_twice(body, len(rows), runtime.payload.contract):
        raise Refusal(422, "cannot use the request", [field("rows", "a row names a field twice")])
    answers = _decide(runtime, request, request_id, "score", rows, named_customer(request), eligible=True,
                      features_as_of=None, degraded=[])
    if explain:
        for answer, reasons in zip(answers, await _reasons(runtime, rows), strict=True):
            answer["reasons"] = reasons
    return {"predictions": [{"row": row, **answer} for row, answer in enumerate(answers)],
            **_about(runtime, request_id)}


def _decide(
    runtime: Runtime, request: Request, request_id: str, route: str, rows: list[Mapping[str, Any]],
    entity: str | None, *, eligible: bool, features_as_of: str | None, degraded: list[str],
) -> list[dict[str, Any]]:
    """Score, decide, count and log each row."""
    from models.serving.scorer import decide

    attempt = request.headers.get("x-envoy-attempt-count", "1")
    shared = {
        "at": _iso(datetime.now(UTC)), "request_id": request_id, "release_id": runtime.release_id,
        "model_version": runtime.payload.model_version, "entity": entity,
        "attempt": int(attempt) if attempt.isdecimal() else 1, "features_as_of": features_as_of, "degraded": degraded,
        "route": route,
    }
    probabilities = _scores(runtime, rows, given=route == "score")
    made = [decide(probability, entity, runtime.payload.policy, eligible=eligible) for probability in probabilities]
    answers = [{"churn_probability": probability, "decision": _shown(answer)}
               for probability, answer in zip(probabilities, made, strict=True)]
    runtime.metrics.rows(probabilities, [(answer.decision, answer.why) for answer in made], degraded)
    logged = runtime.log.append_many([
        {**shared, "row": number, "features": features, "probability": answer["churn_probability"],
         "decision": answer["decision"]}
        for number, (features, answer) in enumerate(zip(rows, answers, strict=True))])
    if logged < len(rows):
        runtime.metrics.unlogged(len(rows) - logged)
    return answers


def _scores(runtime: Runtime, rows: list[Mapping[str, Any]], *, given: bool) -> list[float]:
    """What a caller gave and no model can take is the caller's fault; what the store held is ours."""
    try:
        return runtime.score(rows)
    except DataError as error:
        if not given:
            raise
        LOGGER.warning("rows cannot be scored: %s at %s", type(error).__name__, place_of(error))
        raise Refusal(422, "cannot use the request", [field("rows", "a number is outside what the model can "
                                                             "take")]) from None


def _explain(request: Request, runtime: Runtime) -> bool:
    """Whether the caller wants reasons; refused where the release has none."""
    asked = request.query_params.get("explain", "false").lower()
    problem = {"false": None, "true": None if runtime.explanations else "this release carries no explanations"}.get(
        asked, "must be true or false")
    if problem:
        raise Refusal(422, "cannot use the request", [field("explain", problem)])
    return asked == "true"


async def _reasons(runtime: Runtime, rows: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """In a thread, for it takes milliseconds: who asks for no reasons should not wait for them."""
    return await asyncio.get_running_loop().run_in_executor(runtime.explainer, runtime.explain, rows)


async def _read(runtime: Runtime, entity: str) -> OnlineRow | None:
    waiting = asyncio.get_running_loop().run_in_executor(runtime.reader, runtime.read_online, entity)
    try:
        return await asyncio.wait_for(waiting, READ_SECONDS)
    except Exception as error:  # SQLite, Feast, SQLAlchemy or a timeout: the caller can only come again
        LOGGER.warning("online features failed: %s at %s", type(error).__name__, place_of(error))
        raise Refusal(503, "the feature store did not answer; try again") from None


async def metrics(request: Request) -> Response:
    return Response(request.app.state.runtime.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def ready(request: Request) -> Response:
    """Whether a worker that was started may get requests; before that it does not listen at all."""
    return Response(status_code=200 if hasattr(request.app.state, "runtime") else 503)


def build_app(*, probes: bool = False) -> Starlette:
    """The routes; `app.state.runtime` must be set before the first request.

    Args:
        probes: with `/readyz` and `/livez`, which BentoML brings itself.
    """
    return Starlette(exception_handlers={HTTPException: _no_route}, routes=[
        Route("/v1/customers/{customer_id}/churn", score_customer, methods=["GET"]),
        Route("/v1/score", score_rows, methods=["POST"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/openapi.json", description, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
        Route("/docs/{name}", docs_file, methods=["GET"]),
        *([Route("/readyz", ready, methods=["GET"]), Route("/livez", ready, methods=["GET"])] if probes else []),
    ])


async def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405 as all other refusals look."""
    status, request_id = getattr(error, "status_code", 404), request_id_of(request)
    request.app.state.runtime.metrics.request("other", status, 0.0)
    text = {404: "no such path; GET /openapi.json lists them", 405: "this path takes another method"}
    return Response(orjson.dumps({"error": text.get(status, "refused"), "request_id": request_id}), status,
                    {**(getattr(error, "headers", None) or {}), "x-request-id": request_id},
                    media_type="application/json")


def _about(runtime: Runtime, request_id: str) -> dict[str, Any]:
    return {"model_version": runtime.payload.model_version, "release_id": runtime.release_id, "request_id": request_id}


def _shown(answer: Answer) -> dict[str, Any]:
    return {"action": answer.decision, "why": answer.why, "expected_value": round(answer.expected_value, 4)}


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
