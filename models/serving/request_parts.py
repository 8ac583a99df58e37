"""What is read of a request before it is scored: its id, its customer, its body; or a refusal."""

from __future__ import annotations

import uuid
from typing import Any, Final

from starlette.requests import Request

from models.serving.openapi import MAX_ID

MAX_BODY_BYTES: Final = 1 << 20


class Refusal(Exception):
    """An answer that is no score: status, one line, and for 422 the fields."""

    def __init__(self, status: int, error: str, fields: list[dict[str, Any]] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.fields = fields


def field(name: str, problem: str) -> dict[str, Any]:
    return {"row": None, "field": name, "problem": problem}


def request_id_of(request: Request) -> str:
    """Envoy's id, so both logs can be joined; one of our own where there is none that can be used."""
    given = request.headers.get("x-request-id", "")
    return given if given.isascii() and given.isprintable() and 0 < len(given) <= MAX_ID else str(uuid.uuid4())


def named_customer(request: Request) -> str | None:
    """X-Customer-Id, in UTF-8 as in a path; HTTP itself would read it as Latin-1."""
    given = request.headers.get("x-customer-id")
    if given is None:
        return None
    try:
        named = given.encode("latin-1").decode()
    except UnicodeDecodeError:
        named = ""
    if not named:
        raise Refusal(422, "cannot use the request", [field("x-customer-id", "empty or not UTF-8")])
    return named


def must_be_json(request: Request) -> None:
    """Refuse another type, and a body that is compressed."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "cannot read the body: send content-type application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "cannot read the body: send it without content-encoding")


async def read_body(request: Request) -> bytes:
    """The body, but never more of it than `MAX_BODY_BYTES`: a length that is announced may be a lie."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Refusal(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
        parts.append(part)
    return b"".join(parts)
