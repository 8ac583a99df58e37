"""The API's description: an OpenAPI document that follows from the release's contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from models.contract import Contract
from models.serving.request_model import MAX_ROWS, rows_adapter

MAX_ID: Final = 200
_TEXT: Final = {"type": "string"}


def _object(properties: Mapping[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False,
            "required": [name for name in properties if name not in optional]}


_SCORED: Final[dict[str, Any]] = {
    "churn_probability": {"type": "number", "minimum": 0, "maximum": 1},
    "decision": _object({
        "action": {"enum": ["contact", "leave"]},
        "why": {"enum": ["value", "budget", "no_value", "holdout", "not_eligible"]},
        "expected_value": {"type": "number", "description": "money a contact is expected to bring, less its cost"},
    }),
}
_REASONS: Final[dict[str, Any]] = {"reasons": {
    "type": "array", "description": "present only with explain=true; strongest first",
    "items": _object({
        "feature": _TEXT, "text": _TEXT,
        "log_odds": {"type": "number", "description": "what it adds to the log-odds of churn against the typical "
                     "customer; above 0 it raises the probability"}}),
}}
_EXPLAIN: Final[dict[str, Any]] = {
    "name": "explain", "in": "query", "schema": {"type": "boolean"},
    "description": "true: the strongest reasons in words, for at most 100 rows; 422 where the release carries none",
}
_ABOUT: Final[dict[str, Any]] = {"model_version": _TEXT, "release_id": _TEXT, "request_id": _TEXT}
_FIELD: Final = _object({"row": {"type": ["integer", "null"]}, "field": {"type": ["string", "null"]},
                         "problem": _TEXT})


def describe(contract: Contract, release: str, *, keys: bool = False) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a release; the row's schema follows from its contract.

    Args:
        keys: whether callers must send an API key.
    """
    body = rows_adapter(contract).json_schema(ref_template="#/components/schemas/{model}")
    schemas = body.pop("$defs", {})
    one = _object({
        "customer_id": _TEXT, **_SCORED, **_REASONS, **_ABOUT,
        "features_as_of": {"type": "string", "format": "date-time"},
        "degraded": {"type": "array", "items": {"enum": ["stale_features", "clock"]},
                     "description": "present only where the answer has a reservation"},
    }, optional=("degraded", "reasons"))
    many = _object({
        "predictions": {"type": "array", "items": _object(
            {"row": {"type": "integer"}, **_SCORED, **_REASONS}, optional=("reasons",))}, **_ABOUT,
    })
    identity = {"type": "string", "minLength": 1, "maxLength": MAX_ID}
    entity = {"name": "customer_id", "in": "path", "required": True, "schema": {**identity, "pattern": "^[^/]+$"},
              "description": f"value of the entity key `{contract.entity_key}`"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Churn API", "version": release,
                 "description": "Who is about to leave, and whether a contact is worth its cost."},
        "paths": {
            "/v1/customers/{customer_id}/churn": {"get": {
                "operationId": "score_customer",
                "summary": "Score a customer by the features in the online store",
                "parameters": [entity, _EXPLAIN],
                "responses": _answers(one, {
                    "404": "unknown customer", "503": "the feature store did not answer; try again"}, keys=keys),
            }},
            "/v1/score": {"post": {
                "operationId": "score_rows",
                "summary": f"Score up to {MAX_ROWS:,} rows of features given by the caller",
                "parameters": [_EXPLAIN, {"name": "X-Customer-Id", "in": "header", "schema": identity,
                                "description": "whose rows these are; then the hold-out applies"}],
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                "responses": _answers(many, {
                    "413": "the body is larger than 1 MiB", "415": "the body is not plain application/json",
                    "503": "no release serves; try again"}, keys=keys),
            }},
        },
        "components": {"schemas": schemas,
                       **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if keys else {})},
        **({"security": [{"key": []}]} if keys else {}),
    }


def _answers(scored: dict[str, Any], failures: Mapping[str, str], *, keys: bool) -> dict[str, Any]:
    """Every status a caller may see; 400 and 429 are the router's, whose `fields` is never there."""
    texts = {"400": "the request is no HTTP the router takes", "422": "a field that cannot be used, by name",
             "429": "more requests than a client may send; wait as long as retry-after says", **failures,
             **({"401": "no API key, or one that is not known"} if keys else {})}
    refused = {"application/json": {"schema": _object(
        {"error": _TEXT, "request_id": _TEXT, "fields": {"type": "array", "items": _FIELD}}, optional=("fields",))}}
    return {"200": {"description": "scored", "content": {"application/json": {"schema": scored}}},
            **{status: {"description": text, "content": refused} for status, text in sorted(texts.items())}}
