"""Releases: Bentos that were built. Reads and writes the releases of our state; starts and routes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from models.errors import ReleaseError
from tasks.state import now
from tasks.tables import RELEASES


@dataclass(frozen=True)
class Release:
    """A Bento that was built; `port` while its process is wanted."""

    release_id: str
    model_version: str
    run_id: str
    fingerprint: str
    as_of: str
    auc: float
    monthly_value: float
    created_at: str
    port: int | None = None


def register_release(
    engine: sa.Engine, *, release_id: str, model_version: str, run_id: str, fingerprint: str, as_of: str, auc: float,
    monthly_value: float,
) -> Release:
    """Write down a Bento that was built; the same one twice is one row."""
    values = {"release_id": release_id, "model_version": str(model_version), "run_id": run_id,
              "fingerprint": fingerprint, "as_of": as_of, "auc": auc, "monthly_value": monthly_value}
    try:
        with engine.begin() as connection:
            connection.execute(RELEASES.insert().values(**values, created_at=now()))
    except sa.exc.IntegrityError:  # it stands there already
        pass
    return read_release(engine, release_id)


def read_release(engine: sa.Engine, release_id: str) -> Release:
    """One release.

    Raises:
        ReleaseError: there is none of that id.
    """
    with engine.connect() as connection:
        row = connection.execute(sa.select(RELEASES).where(RELEASES.c.release_id == release_id)).mappings().first()
        if row is None:
            known = connection.execute(sa.select(RELEASES.c.release_id)).scalars().all()
            raise ReleaseError(f"cannot find the release {release_id!r}; known: {', '.join(known) or 'none'}")
    return _release(row)


def read_releases(engine: sa.Engine) -> list[Release]:
    """Every release, newest first."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(RELEASES).order_by(RELEASES.c.created_at.desc())).mappings().all()
    return [_release(row) for row in rows]


def release_of_version(engine: sa.Engine, model_version: str) -> Release | None:
    """The newest release built from a model version."""
    return next((release for release in read_releases(engine) if release.model_version == str(model_version)), None)


def claim_port(engine: sa.Engine, release_id: str, ports: Sequence[int]) -> int:
    """Write down the first of `ports` that no other release holds; the one it holds already, if that is among them.

    Raises:
        ReleaseError: all are held.
    """
    held = read_release(engine, release_id).port
    if held in ports:
        return int(held or 0)
    for port in ports:
        try:
            with engine.begin() as connection:
                connection.execute(RELEASES.update().where(RELEASES.c.release_id == release_id).values(port=port))
        except sa.exc.IntegrityError:  # another release holds it
            continue
        return port
    raise ReleaseError(f"cannot start {release_id}: no free port among {list(ports)}. Set CHURN_RELEASE_PORT to the "
                       "first of ten free ports")


def free_port(engine: sa.Engine, release_id: str) -> None:
    """Its process is no longer wanted."""
    with engine.begin() as connection:
        connection.execute(RELEASES.update().where(RELEASES.c.release_id == release_id).values(port=None))


def _release(row: Mapping[Any, Any]) -> Release:
    return Release(**{field.name: row[field.name] for field in fields(Release)})
