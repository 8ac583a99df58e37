"""Lines of Envoy's access log. Reads all its pieces; answers with those of one rollout, and where a rollout begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from models.errors import DataError
from models.gates.canary_counts import Edges
from tasks.home import Home
from tasks.release.prediction_lines import opening_place
from tasks.release.router_log import access_logs
from tasks.release.routing import STABLE_ARM, access_log

MAX_UNREADABLE_SHARE: Final = 0.01  # more lines than this that are no log lines of ours: the log proves nothing
QUANTILES: Final = (0.5, 0.75, 0.9, 0.97)  # of the champion's latency before the rollout: what is slow
BEYOND: Final = (8.0, 64.0)  # times the uppermost of them: a champion that is slower since hides no canary that hangs
LEAST_CUSTOMERS: Final = 200  # to know these quantiles
LOOKED_BACK: Final = 8 << 20  # bytes of the log before the rollout: some 20,000 requests
FIXED_US: Final = tuple(500.0 * 2**power for power in range(11))  # 0.5 ms to half a second
Line = dict[str, Any]


def opening_evidence(home: Home) -> dict[str, Any]:
    """What is fixed when a rollout gets its first traffic: where both logs stand, and what is slow."""
    predictions, log = opening_place(home), access_log(home)
    try:
        place = log.stat()
    except FileNotFoundError:
        return {"log_byte": 0, **predictions}
    import numpy as np

    slow = _champion_latency(log, place.st_size)
    return {"log_byte": place.st_size, "log_inode": place.st_ino, **predictions,
            **({"slow_us": [float(f"{one:.4g}") for one in np.quantile(slow, QUANTILES)]} if slow else {})}


def latency_edges(start: Mapping[str, Any]) -> Edges:
    """Above which latencies a request is slow: as fixed at the opening."""
    if start.get("slow_us"):
        usual = tuple(start["slow_us"])
        return Edges((*usual, *(usual[-1] * times for times in BEYOND)),
                     (*(1 - quantile for quantile in QUANTILES), *(None for _ in BEYOND)))
    return Edges(FIXED_US, (None,) * len(FIXED_US))


def read_lines(home: Home, rollout_id: str, start: Mapping[str, Any]) -> Iterator[Line]:
    """One rollout's lines in the log's order, one by one: a busy day's do not fit into memory.

    Args:
        start: `log_byte` and `log_inode` of `opening_evidence`; a log that was rotated since is read from there on,
            piece by piece, and one that is shorter than it was is read whole.

    Raises:
        DataError: the log proves nothing, which may show at its end only: then the lines before prove nothing either.
    """
    read, unreadable, ours = 0, 0, rollout_id.encode()
    try:
        for line in _lines(home, int(start.get("log_byte", 0)), start.get("log_inode")):
            read += 1
            if ours not in line and line.startswith(b"{") and line.endswith(b"}\n"):
                continue  # another rollout's, or nobody's: not worth parsing
            entry = parse(line)
            if entry is None:
                unreadable += 1
            elif entry.get("rollout") == rollout_id:
                yield entry
    except OSError as error:
        raise DataError(f"no evidence: the access log {access_log(home).name} cannot be read "
                        f"({error.strerror})") from None
    if unreadable > MAX_UNREADABLE_SHARE * read:
        raise DataError(f"no evidence: {unreadable} of {read} lines of the access log cannot be read "
                        f"(limit {MAX_UNREADABLE_SHARE:.0%})")


def parse(line: bytes) -> Line | None:
    """A line of the access log, or None where it is none of ours."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    ours = isinstance(entry, dict) and isinstance(entry.get("code"), int) and isinstance(entry.get("ms"), int)
    return entry if ours and isinstance(entry.get("attempts"), int) else None


def _lines(home: Home, from_byte: int, inode: int | None) -> Iterator[bytes]:
    """Whole lines of all pieces from where the rollout began; the last one may still be half-written and is left."""
    pieces = access_logs(home)
    began = next((at for at, path in enumerate(pieces) if inode and path.exists() and path.stat().st_ino == inode),
                 len(pieces) - 1 if inode is None else 0)
    for at, path in enumerate(pieces[began:]):
        with open(path, "rb") as file:
            first = at == 0 and (inode is None or path.stat().st_ino == inode)
            file.seek(from_byte if first and from_byte <= path.stat().st_size else 0)
            yield from (line for line in file if line.endswith(b"\n"))


def _champion_latency(log: Path, size: int) -> list[int]:
    """Latency of the first request of each customer the champion answered lately; empty where these are few."""
    first: dict[str, int] = {}
    with open(log, "rb") as file:
        file.seek(max(0, size - LOOKED_BACK))
        for line in file:
            entry = parse(line)
            if (entry and entry.get("customer") and entry["code"] == 200 and isinstance(entry.get("us"), int)
                    and str(entry.get("cluster")).startswith(f"{STABLE_ARM}/")):
                first.setdefault(entry["customer"], entry["us"])
    return list(first.values()) if len(first) >= LEAST_CUSTOMERS else []
