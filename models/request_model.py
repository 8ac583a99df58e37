"""The body of POST /v1/score, as a strict type that follows from the contract."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Required

import typing_extensions
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from models.contract import Column, Contract

# By another name: a type checker reads a direct call as a declaration, and here the contract says the fields.
make_typed_dict: Any = typing_extensions.TypedDict

MAX_ROWS: Final = 1_000
MAX_TEXT: Final = 200
MAX_FAULTS: Final = 20
_STRICT: Final = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_BOUNDS: Final = {"greater_than_or_equal_to": {"min_value": "ge"}, "greater_than": {"min_value": "gt"},
                  "less_than_or_equal_to": {"max_value": "le"}, "less_than": {"max_value": "lt"},
                  "in_range": {"min_value": "ge", "max_value": "le"}}


def rows_adapter(contract: Contract) -> TypeAdapter[Any]:
    """Parses a body into `{"rows": [{feature: value}]}`; every feature must be named, null where it may be.

    Dictionaries rather than models: a feature may be called anything, `copy` and `schema` included.
    """
    row: Any = make_typed_dict("Row", {column.name: Required[_annotation(column)] for column in contract.features})
    row.__pydantic_config__ = _STRICT
    rows = Annotated[list[row], Field(min_length=1, max_length=MAX_ROWS)]
    body: Any = make_typed_dict("Body", {"rows": Required[rows]})
    body.__pydantic_config__ = _STRICT
    return TypeAdapter(body)


def _annotation(column: Column) -> Any:
    kind: Any
    if column.role == "categorical":
        kind = Literal[column.categories] if column.categories else Annotated[str, Field(max_length=MAX_TEXT)]
    else:
        kind = {"int64": int, "bool": bool}.get(column.dtype, float)
        if kind is not bool:
            kind = Annotated[kind, Field(**_bounds(column))]
    described = Field(description=f"{column.description} ({column.unit})")
    return Annotated[kind | None if column.nullable else kind, described]


def _bounds(column: Column) -> dict[str, Any]:
    """Bounds of the contract's checks; an integer must also fit 64 bits."""
    bounds: dict[str, Any] = {"ge": -(2**63), "le": 2**63 - 1} if column.dtype == "int64" else {}
    for check in column.checks:
        name, _, statistics = check.name.partition(":")
        limits = json.loads(statistics) if name in _BOUNDS else {}
        for key, bound in _BOUNDS.get(name, {}).items():
            if isinstance(limits.get(key), int | float):
                bounds[bound] = limits[key]
    return bounds


def faults(error: ValidationError) -> list[dict[str, Any]]:
    """Row, field and problem of the first `MAX_FAULTS` faults; never a value."""
    found = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FAULTS]:
        place = fault["loc"]
        row = place[1] if len(place) > 1 else None
        names = [str(part)[:64] for part in place if isinstance(part, str)]
        found.append({"row": row, "field": names[1] if len(names) > 1 else names[0] if names else None,
                      "problem": fault["msg"]})
    return found
