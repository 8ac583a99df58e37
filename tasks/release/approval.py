"""Approvals. Reads the ledger and a Bento's payload; writes who allowed which model to be released, on what evidence.

An approval is data, no paused process: it is for one release, is used once, expires, and counts only while what was
seen is still so: the same bytes of the model, the same verdicts, the same champion to be replaced. Words count in the
order they were written, whatever the clocks say: a no voids every yes before it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from models.errors import PlatformError, ReleaseError
from tasks.home import Home
from tasks.release import package, releases, rollouts
from tasks.state import LedgerRow, now, read_decisions
from tasks.tables import APPROVALS

VALID: Final = timedelta(days=7)  # wall time from a yes to the release that uses it
TRIES: Final = 20  # words that are written at once: one is next each time
WAITS: Final = timedelta(days=31)  # platform clock: a model that waited for longer is to be trained again


@dataclass(frozen=True)
class Approval:
    """A person's word on a model version; `seen` is the evidence he had."""

    approval_id: str
    at: str
    model_version: str
    release_id: str
    verdict: str
    who: str
    why: str
    seen: Mapping[str, str | None]
    used_at: str | None
    number: int | None


def evidence_now(engine: sa.Engine, home: Home, release_id: str) -> dict[str, str | None]:
    """What speaks for a release now: hash of its model, ids of its verdicts, the champion it would replace.

    Raises:
        ReleaseError: its Bento is gone.
    """
    version = releases.read_release(engine, release_id).model_version
    serving = rollouts.champion(engine)
    return {"model_version": version, "release_id": release_id,
            "model_sha256": hash_of(package.bento_payload(home, release_id)),
            "champion_id": serving.release_id if serving else None,
            "promotion_id": _newest(engine, "promotion", version), "go_id": _newest(engine, "go", version)}


def hash_of(folder: Path) -> str:
    """SHA-256 over every file below a folder: names and bytes."""
    whole = hashlib.sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        name = str(path.relative_to(folder)).encode()
        content = hashlib.sha256(path.read_bytes()).digest()
        whole.update(len(name).to_bytes(4, "big") + name + content)
    return whole.hexdigest()


def waiting(engine: sa.Engine, version: str | None = None) -> list[LedgerRow]:
    """Releases that wait for a person, newest first: their last word of the gate `release` is `wait`, and the last word
    on their version does not reject them."""
    newest: dict[str | None, LedgerRow] = {}
    for row in read_decisions(engine, gate="release", limit=10_000):
        newest.setdefault(row.subject, row)
    opened = {row.release_id for row in filter(None, (rollouts.open_rollout(engine), rollouts.champion(engine)))}
    return [row for subject, row in newest.items() if row.decision.verdict == "wait" and subject not in opened
            and version in (None, row.decision.evidence.get("model_version")) and not _rejected(engine, row)]


def _rejected(engine: sa.Engine, waits: LedgerRow) -> bool:
    word = last_word(engine, str(waits.decision.evidence.get("model_version")))
    return word is not None and word.verdict == "reject" and word.release_id == waits.subject


def write(engine: sa.Engine, verdict: str, *, who: str, why: str, seen: Mapping[str, str | None]) -> Approval:
    """Write a person's word down, behind all there are.

    Raises:
        PlatformError: others keep writing.
    """
    values: dict[str, Any] = {
        "approval_id": uuid.uuid4().hex, "at": now(), "model_version": str(seen["model_version"]),
        "release_id": str(seen["release_id"]), "verdict": verdict, "who": who, "why": why, "used_at": None}
    for _ in range(TRIES):
        with engine.connect() as connection:
            number = (connection.execute(sa.select(sa.func.max(APPROVALS.c.number))).scalar() or 0) + 1
        try:
            with engine.begin() as connection:
                connection.execute(APPROVALS.insert().values(**values, number=number, seen=json.dumps(dict(seen))))
            return Approval(**values, number=number, seen=seen)
        except sa.exc.IntegrityError:  # somebody else has that number
            continue
    raise PlatformError(f"cannot write down the word of {who}: others wrote {TRIES} times at once. Say it again")


def approved(engine: sa.Engine, model_version: str) -> Approval | None:
    """The last word on a version, if that is a yes which is neither used nor expired."""
    last = last_word(engine, model_version)
    return last if last and last.verdict == "approve" and not last.used_at and not expired(last) else None


def expired(approval: Approval) -> bool:
    """Whether a yes is too old to be used; one from the future is no yes either."""
    age = datetime.now(UTC) - datetime.fromisoformat(approval.at)
    return not timedelta(minutes=-1) <= age <= VALID


def last_word(engine: sa.Engine, model_version: str) -> Approval | None:
    """The approval or rejection of a version that was written last."""
    with engine.connect() as connection:
        row = connection.execute(sa.select(APPROVALS).where(APPROVALS.c.model_version == str(model_version))
                                 .order_by(APPROVALS.c.number.desc().nulls_last(), APPROVALS.c.at.desc()).limit(1)
                                 ).mappings().first()
    return Approval(**{**row, "seen": json.loads(row["seen"])}) if row else None


def use(connection: sa.Connection, approval: Approval) -> None:
    """Mark a yes as used, in the transaction that acts on it: where that fails, the yes is as it was.

    Raises:
        ReleaseError: another call was first, or another word was written since.
    """
    later = APPROVALS.alias("later")
    since = sa.select(later.c.approval_id).where(
        later.c.model_version == approval.model_version, later.c.number > (approval.number or 0))
    done = connection.execute(APPROVALS.update().where(
        APPROVALS.c.approval_id == approval.approval_id, APPROVALS.c.used_at.is_(None), ~since.exists(),
    ).values(used_at=now()))
    if done.rowcount != 1:
        raise ReleaseError(f"cannot release version {approval.model_version} by the approval of {approval.who}: it was "
                           "used by another call, or somebody spoke since. See `make status`")


def differences(then: Mapping[str, Any], today: Mapping[str, Any]) -> str | None:
    """What changed between two pieces of evidence, in words; None where nothing did."""
    words = {"model_sha256": "the model's bytes", "champion_id": "the champion", "promotion_id": "the gate's verdict",
             "go_id": "the go of its development", "release_id": "the release", "model_version": "the version"}
    return "; ".join(f"{text} was {_short(then.get(name))}, is {_short(today.get(name))}"
                     for name, text in words.items() if then.get(name) != today.get(name)) or None


def too_old(row: LedgerRow, as_of: datetime) -> bool:
    """Whether a model has waited for too long, by the platform clock; without a date it has."""
    return row.as_of is None or as_of - datetime.fromisoformat(row.as_of) > WAITS


def check_free(engine: sa.Engine, version: str) -> None:
    """Raises ReleaseError where a rollout is open: a yes could not be acted on."""
    rollout = rollouts.open_rollout(engine)
    if rollout:
        raise ReleaseError(f"cannot approve version {version} now: the rollout of {rollout.release_id} is open "
                           f"({rollout.state}, by {rollout.who}). Wait for its end or roll it back")


def _newest(engine: sa.Engine, gate: str, version: str) -> str | None:
    rows = read_decisions(engine, gate=gate, subject=version, limit=1)
    return rows[0].decision_id if rows else None


def _short(value: object) -> str:
    return str(value)[:40] if value else "none"
