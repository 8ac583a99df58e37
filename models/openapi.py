"""The API's description: an OpenAPI document that follows from the release's contract."""

from __future__ import annotations

from typing import Any, Final

from models.contract import Contract
from models.request_model import MAX_ROWS, rows_adapter

_ANSWER: Final[dict[str, Any]] = {
    "churn_probability": {"type": "number", "minimum": 0, "maximum": 1},
    "decision": {
        "type": "object",
        "properties": {
            "action": {"enum": ["contact", "leave"]},
            "why": {"enum": ["value", "budget", "no_value", "holdout", "not_eligible"]},
            "expected_value": {"type": "number", "description": "money a contact is expected to bring, less its cost"},
        },
    },
}
_ABOUT: Final[dict[str, Any]] = {
    "model_version": {"type": "string"},
    "release_id": {"type": "string"},
    "request_id": {"type": "string"},
}


def describe(contract: Contract, release: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a release; the row's schema follows from its contract."""
    body = rows_adapter(contract).json_schema(ref_template="#/components/schemas/{model}")
    schemas = body.pop("$defs", {})
    one = {
        "customer_id": {"type": "string"}, **_ANSWER, **_ABOUT,
        "features_as_of": {"type": "string", "format": "date-time"},
        "degraded": {"type": "array", "items": {"enum": ["stale_features", "clock"]},
                     "description": "present only where the answer has a reservation"},
    }
    many = {
        "predictions": {"type": "array", "items": {"type": "object",
                                                   "properties": {"row": {"type": "integer"}, **_ANSWER}}},
        **_ABOUT,
    }
    entity = {"name": "customer_id", "in": "path", "required": True, "schema": {"type": "string"},
              "description": f"value of the entity key `{contract.entity_key}`"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Churn API", "version": release,
                 "description": "Who is about to leave, and whether a contact is worth its cost."},
        "paths": {
            "/v1/customers/{customer_id}/churn": {"get": {
                "summary": "Score a customer by the features in the online store",
                "parameters": [entity, {"name": "explain", "in": "query", "schema": {"type": "boolean"},
                                        "description": "this release carries no explanations: true answers 422"}],
                "responses": {**_answers(one), "404": _failure("unknown customer"),
                              "503": _failure("the feature store did not answer; try again")},
            }},
            "/v1/score": {"post": {
                "summary": f"Score up to {MAX_ROWS:,} rows of features given by the caller",
                "parameters": [{"name": "X-Customer-Id", "in": "header", "schema": {"type": "string"},
                                "description": "whose rows these are; then the hold-out applies"}],
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                "responses": {**_answers(many), "413": _failure("the body is too large"),
                              "415": _failure("the body is not application/json")},
            }},
        },
        "components": {"schemas": schemas},
    }


def _answers(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"200": {"description": "scored", "content": {"application/json": {"schema": schema}}},
            "422": _failure("a field that cannot be used, by name")}


def _failure(text: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"error": {"type": "string"}, "request_id": {"type": "string"},
                                               "fields": {"type": "array", "items": {"type": "object"}}}}
    return {"description": text, "content": {"application/json": {"schema": schema}}}
