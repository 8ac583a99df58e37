"""Evidence stage. Reads Envoy's access log; answers with counts per arm and stage of one rollout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.canary import ArmCounts, StageCounts
from tasks.home import Home
from tasks.routing import CANARY_ARM, access_log

MAX_UNREADABLE_SHARE = 0.01  # more lines than this that are no log lines of ours: the log proves nothing
REFUSALS = (404, 422)
WAITED_MS = 1000  # a client that left after so long had waited for a whole try


@dataclass(frozen=True)
class Evidence:
    """What the log says, or in `fault` why it says nothing."""

    stages: Sequence[StageCounts]
    fault: str | None = None


@dataclass
class _Arm:
    customers: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    requests: int = 0
    errors: int = 0


def log_size(home: Home) -> int:
    """Bytes of the access log now: where a rollout that opens now will find its first line."""
    try:
        return access_log(home).stat().st_size
    except FileNotFoundError:
        return 0


def read_evidence(
    home: Home, rollout_id: str, shares: Sequence[float], *, canary_id: str, from_byte: int = 0
) -> Evidence:
    """Count one rollout's requests by arm and stage.

    A request belongs to the stage whose route dealt it (the route names rollout and share), whatever the
    clock says. It is an error when its arm did not answer it at the first try with less than 500: so
    a request that was dealt to the canary and answered by the champion is the canary's error.
    Requests of nobody in particular (no customer in the answer) count as requests only.

    Args:
        shares: the stages so far, the present one last.
        canary_id: the canary's release id.
        from_byte: where in the log the rollout began; a shorter log was rotated and is read whole.
    """
    stages: dict[str, tuple[_Arm, _Arm]] = {f"{share:g}": (_Arm(), _Arm()) for share in shares}
    read, unreadable, ours = 0, 0, rollout_id.encode()
    try:
        for line in _lines(access_log(home), from_byte):
            read += 1
            if ours not in line and line.startswith(b"{") and line.endswith(b"}\n"):
                continue  # another rollout's, or nobody's: not worth parsing
            entry = _parse(line)
            if entry is None:
                unreadable += 1
            elif entry.get("rollout") == rollout_id and entry.get("share") in stages:
                on_canary = str(entry.get("cluster")).startswith(f"{CANARY_ARM}/")
                _count(stages[entry["share"]][0 if on_canary else 1], entry, canary_id if on_canary else None)
    except OSError as error:
        return Evidence((), f"no evidence: the access log {access_log(home).name} cannot be read ({error.strerror})")
    if unreadable > MAX_UNREADABLE_SHARE * read:
        return Evidence((), f"no evidence: {unreadable} of {read} lines of the access log cannot be read "
                            f"(limit {MAX_UNREADABLE_SHARE:.0%})")
    return Evidence(list(_stage_counts(stages)))


def _count(arm: _Arm, entry: dict[str, Any], canary_id: str | None) -> None:
    code, attempts = entry["code"], entry["attempts"]
    left = code == 0  # the client hung up
    error = (code >= 500 or attempts > 1 or (left and entry["ms"] >= WAITED_MS)
             or (canary_id is not None and attempts > 0 and not left and entry.get("answered_by") != canary_id))
    if not attempts and not error:
        return  # refused by the router itself: a body too large, a client that left at once
    arm.requests += 1
    arm.errors += error
    customer = entry.get("customer")
    if customer:
        arm.customers.add(customer)
        if error:
            arm.failed.add(customer)
        elif code in REFUSALS:
            arm.refused.add(customer)


def _stage_counts(stages: dict[str, tuple[_Arm, _Arm]]) -> Iterator[StageCounts]:
    """Customers who failed (or were refused) in an earlier stage are no first failure of a later one."""
    failed_before: set[str] = set()
    refused_before: set[str] = set()
    for share, arms in stages.items():
        canary, champion = (
            ArmCounts(len(arm.customers), len(arm.failed), len(arm.failed - failed_before), len(arm.refused),
                      len(arm.refused - refused_before), arm.requests, arm.errors)
            for arm in arms)
        for arm in arms:
            failed_before |= arm.failed
            refused_before |= arm.refused
        yield StageCounts(float(share), canary, champion)


def _lines(path: Path, from_byte: int) -> Iterator[bytes]:
    """Whole lines; the last one may still be half-written and is left for the next look."""
    with open(path, "rb") as file:
        size = path.stat().st_size
        file.seek(from_byte if from_byte <= size else 0)
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    fields = isinstance(entry, dict) and all(isinstance(entry.get(name), int) for name in ("code", "attempts", "ms"))
    return entry if fields else None
