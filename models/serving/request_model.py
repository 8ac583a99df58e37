"""The body of POST /v1/score, as a strict type that follows from the contract."""

from __future__ import annotations

import json
import re
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
_BOUNDS: Final = {"greater_than_or_equal_to": ("ge",), "greater_than": ("gt",), "less_than_or_equal_to": ("le",),
                  "less_than": ("lt",), "in_range": ("ge", "le")}
_CHECK: Final = re.compile(r"(\w+)\((.*)\)")  # Pandera's own name of a check: greater_than_or_equal_to(0)


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
        named = _CHECK.fullmatch(check.name)
        if named and named[1] in _BOUNDS:
            bounds |= zip(_BOUNDS[named[1]], map(float, named[2].split(",")), strict=True)
    return bounds


def names_twice(body: bytes, rows: int, contract: Contract) -> bool:
    """Whether a body that was parsed names a field twice; parsers silently take the last one.

    Every field needs a colon, so as many colons as fields settle it; only colons in words need a second look.

    Args:
        body: what `rows_adapter` took without a fault: each row has every feature, and nothing else.
        rows: how many rows it has.
    """
    if body.count(b":") == 1 + rows * len(contract.features):
        return False
    seen = 0

    def count(pairs: list[tuple[str, Any]]) -> None:
        nonlocal seen
        seen += len(pairs)

    json.loads(body, object_pairs_hook=count)
    return seen != 1 + rows * len(contract.features)


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
