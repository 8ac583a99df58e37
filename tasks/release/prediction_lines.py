"""Lines of the prediction log. Reads what releases wrote of the requests they scored."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from tasks.home import Home

REQUEST_ID: Final = b'"request_id":"'
MOST_SAMPLED: Final = 20_000  # requests: at 2 % missing the share is known to a tenth or so of it


@dataclass
class RequestSample:
    """Ids of requests: all of them or, of more than `MOST_SAMPLED`, an even sample of half as many or more.

    Which ones follows from the ids, so that two looks take the same.
    """

    ids: set[str] = field(default_factory=set)
    halved: int = 0

    def add(self, request_id: str) -> None:
        if self._takes(request_id):
            self.ids.add(request_id)
        if len(self.ids) > MOST_SAMPLED:
            self.halved += 1
            self.ids = {one for one in self.ids if self._takes(one)}

    def _takes(self, request_id: str) -> bool:
        return zlib.crc32(request_id.encode()) % (1 << self.halved) == 0



@dataclass(frozen=True)
class ScoredRequest:
    """What one release wrote of one request: one entry a row.

    Attributes:
        as_of: of the features that were read from the online store; None where the caller gave them.
    """

    entity: str | None
    as_of: datetime | None
    probabilities: list[float]
    actions: list[str]
    features: list[dict[str, Any]]


@dataclass(frozen=True)
class Scored:
    """What a release wrote: ids of the requests there are lines of, and those that were asked for in full."""

    written: set[str]
    requests: dict[str, ScoredRequest]


def prediction_logs(home: Home, since: datetime) -> list[Path]:
    """The pieces of the log that may hold lines written `since`, the oldest first."""
    pieces = [path for path in home.serving.glob("predictions*.jsonl") if path.stat().st_mtime >= since.timestamp()]
    return sorted(pieces, key=lambda path: path.stat().st_mtime)


def opening_place(home: Home) -> dict[str, int]:
    """Where the log ends now, for `read_scored` to begin there; empty where there is none yet."""
    try:
        place = (home.serving / "predictions.jsonl").stat()
    except FileNotFoundError:
        return {}
    return {"predictions_byte": place.st_size, "predictions_inode": place.st_ino}


def read_scored(
    home: Home, release_ids: Collection[str], request_ids: Collection[str], *, in_full: Collection[str],
    since: datetime, start: Mapping[str, Any],
) -> dict[str, Scored]:
    """Release id -> what it wrote of these requests.

    A line that is none of ours (torn when a disk was full, erased for somebody who asked) is passed over: what is not
    there is missing. Of several attempts the last one counts.

    Args:
        request_ids: requests that should be there.
        in_full: those of them whose rows are wanted; a day's log holds more than anybody wants to parse.
        start: what `opening_place` said before the first of these requests; without it whole pieces are read.

    Raises:
        OSError: a piece cannot be read.
    """
    written: dict[str, set[str]] = {release_id: set() for release_id in release_ids}
    marks = [(release_id, f'"release_id":"{release_id}"'.encode()) for release_id in release_ids]
    rows: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for path in prediction_logs(home, since):
        with open(path, "rb") as file:
            place = os.fstat(file.fileno())
            first = start.get("predictions_byte", 0) if start.get("predictions_inode") == place.st_ino else 0
            file.seek(first if first <= place.st_size else 0)
            for line in file:
                release_id = next((release_id for release_id, mark in marks if mark in line), None)
                begin = line.find(REQUEST_ID) + len(REQUEST_ID)
                request_id = line[begin:line.find(b'"', begin)].decode(errors="replace")
                if release_id and request_id in request_ids and line.endswith(b"}\n"):
                    written[release_id].add(request_id)
                    if request_id in in_full:
                        _take(line, rows)
    found: dict[str, Scored] = {release_id: Scored(written[release_id], {}) for release_id in release_ids}
    for (release_id, request_id), by_row in rows.items():
        in_order = [by_row[number] for number in sorted(by_row)]
        as_of = in_order[0].get("features_as_of")
        if release_id in found:
            found[release_id].requests[request_id] = ScoredRequest(
                in_order[0].get("entity"), datetime.fromisoformat(as_of) if as_of else None,
                [float(one["probability"]) for one in in_order], [one["decision"]["action"] for one in in_order],
                [one["features"] for one in in_order])
    return found


def first_requests(customers: Mapping[str, str | None]) -> dict[str, str]:
    """Customer -> the first of their requests, of request id -> customer in order."""
    first: dict[str, str] = {}
    for request_id, customer in customers.items():
        if customer:
            first.setdefault(customer, request_id)
    return first


def _take(line: bytes, rows: dict[tuple[str, str], dict[int, dict[str, Any]]]) -> None:
    try:
        entry = orjson.loads(line)
        if isinstance(entry["probability"], float | int) and entry["decision"]["action"]:
            rows.setdefault((entry["release_id"], entry["request_id"]), {})[int(entry["row"])] = entry
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return
