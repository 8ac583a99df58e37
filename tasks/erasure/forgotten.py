"""Who was erased. Reads and writes the salted hashes in our state, and the salt in the home; no name stands in either.

Ingest asks here, so that a person does not come back from a source that delivers old rows again. The salt
makes the hashes worthless to whoever has the state alone; it lies in the home, readable by its owner only.
"""

from __future__ import annotations

import hashlib
import os
import secrets

import polars as pl
import sqlalchemy as sa

from models.errors import PlatformError
from tasks.home import Home
from tasks.state import now
from tasks.tables import FORGOTTEN


def entity_hash(home: Home, entity: str, *, make_salt: bool = False) -> str:
    """`SALT-HASH`: eight hex digits that name the salt, and 32 of the entity hashed with it; spaces around it go.

    Args:
        make_salt: where the home has none yet, make one.

    Raises:
        PlatformError: the home has no salt.
    """
    return _hash(_read_salt(home, make=make_salt), entity)


def forgotten_entities(engine: sa.Engine, home: Home, keys: pl.Series) -> pl.Series:
    """Whether each key (strings, nulls allowed; n of them) is a person who was erased: n booleans, no nulls.

    Costs one query where nobody was erased, else 1 µs a different key.

    Raises:
        PlatformError: somebody was erased, but the salt is gone or another one: who it was cannot be told, and
            taking everybody for somebody else would bring them back.
    """
    with engine.connect() as connection:
        erased = set(connection.execute(sa.select(FORGOTTEN.c.entity_hash)).scalars())
    if not erased:
        return pl.repeat(False, len(keys), dtype=pl.Boolean, eager=True).alias(keys.name)
    salt = _read_salt(home, make=False)
    others = {hashed for hashed in erased if not hashed.startswith(_salt_name(salt))}
    if others:
        raise PlatformError(f"cannot tell who was erased: {len(others)} of {len(erased)} were hashed with another salt "
                            f"than {_salt_path(home)}. Restore that file from a backup of the same time as our state")
    wanted = {bytes.fromhex(hashed.removeprefix(_salt_name(salt))) for hashed in erased}
    seen = keys.drop_nulls().unique().to_list()
    found = [key for key in seen
             if hashlib.blake2b(key.strip().encode(), key=salt, digest_size=16).digest() in wanted]
    return keys.is_in(pl.Series(found, dtype=keys.dtype).implode()).fill_null(False)


def remember_forgotten(engine: sa.Engine, hashed: str, *, who: str, why: str) -> bool:
    """Write down that somebody is erased; False where that was done before."""
    with engine.begin() as connection:
        if connection.execute(sa.select(FORGOTTEN.c.at).where(FORGOTTEN.c.entity_hash == hashed)).first():
            return False
        connection.execute(FORGOTTEN.insert().values(entity_hash=hashed, at=now(), who=who, why=why))
    return True


def forgotten_since(engine: sa.Engine, hashed: str) -> str | None:
    """When somebody was erased (ISO 8601 UTC), or None."""
    with engine.connect() as connection:
        at = connection.execute(sa.select(FORGOTTEN.c.at).where(FORGOTTEN.c.entity_hash == hashed)).scalar()
    return str(at) if at else None


def salted(home: Home) -> bool:
    """Whether anybody was ever erased here."""
    return (home.root / "forget-salt").exists()


def _hash(salt: bytes, entity: str) -> str:
    return _salt_name(salt) + hashlib.blake2b(entity.strip().encode(), key=salt, digest_size=16).hexdigest()


def _salt_name(salt: bytes) -> str:
    return hashlib.sha256(salt).hexdigest()[:8] + "-"


def _salt_path(home: Home) -> str:
    return str(home.root / "forget-salt")


def _read_salt(home: Home, *, make: bool) -> bytes:
    path = home.root / "forget-salt"
    if make and not path.exists():
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)  # whoever is first: two who forget at once must use the same
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    try:
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no hex digits"
        raise PlatformError(f"cannot tell who was erased: {path}: {reason}. Restore that file from a backup of "
                            "the same time as our state") from None
