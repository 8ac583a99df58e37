"""Whose a shared feature store is. Reads and writes a Redis key, a row beside the registry, a file in the home.

Two homes of one charter on one Redis or one registry would overwrite each other's features without a word: the
first that applies its features writes its mark, and every other home is refused.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from models.errors import PlatformError
from models.serving.features_online import shown
from tasks.features.apply import reachable
from tasks.home import Home

SECONDS: Final = 5
TABLE: Final = sa.Table("churn_homes", sa.MetaData(), sa.Column("project", sa.String(200), primary_key=True),
                        sa.Column("home", sa.String(4000), nullable=False))


def check_stores(home: Home) -> None:
    """The shared stores answer and are no other home's; writes nothing.

    Raises:
        PlatformError: not so.
    """
    with reachable(home):
        _visit(home, claim=False)


def claim_stores(home: Home) -> None:
    """Write whose the project is, where nobody's mark stands yet.

    Raises:
        PlatformError: another home's stands there, or a store cannot be reached.
    """
    with reachable(home):
        _visit(home, claim=True)


def _visit(home: Home, *, claim: bool) -> None:
    if home.online_store:
        _refuse_other(home, _redis_mark(home, home.online_store, claim=claim), f"the online store "
                      f"{shown(home.online_store)}", f"delete the Redis key {_key(home)}")
    if home.feature_registry:
        _refuse_other(home, _registry_mark(home, claim=claim), f"the feature registry {shown(home.feature_registry)}",
                      f"there: DELETE FROM {TABLE.name} WHERE project = '{home.feast_project}'")


def _redis_mark(home: Home, place: str, *, claim: bool) -> str | None:
    from redis import Redis

    with Redis.from_url(place, socket_timeout=SECONDS, socket_connect_timeout=SECONDS) as server:
        if claim:
            server.set(_key(home), _mark(home, make=True), nx=True)
        found = server.get(_key(home))
    return found.decode(errors="replace") if isinstance(found, bytes) else None


def _registry_mark(home: Home, *, claim: bool) -> str | None:
    from sqlalchemy.dialects.postgresql import insert

    engine = sa.create_engine(home.feast_registry, connect_args={"connect_timeout": SECONDS}
                              if home.feast_registry.startswith("postgresql") else {})
    try:
        with engine.begin() as connection:
            if claim:
                TABLE.create(connection, checkfirst=True)
                connection.execute(insert(TABLE).values(project=home.feast_project, home=_mark(home, make=True))
                                   .on_conflict_do_nothing())
            elif not sa.inspect(connection).has_table(TABLE.name):
                return None
            found: str | None = connection.execute(
                sa.select(TABLE.c.home).where(TABLE.c.project == home.feast_project)).scalar()
            return found
    finally:
        engine.dispose()


def _refuse_other(home: Home, found: str | None, store: str, way_on: str) -> None:
    if found is not None and found.split(" ")[0] != _mark(home, make=False).split(" ")[0]:
        raise PlatformError(f"cannot use {store}: its project {home.feast_project!r} belongs to the home "
                            f"{found.partition(' ')[2]}. Use another database or another charter name; if that home "
                            f"is gone, {way_on}")


def _key(home: Home) -> str:
    return f"churn-home:{home.feast_project}"


def _mark(home: Home, *, make: bool) -> str:
    """Number and path of a home. The number counts: a path may stand for other files on another machine."""
    known = make or (home.feast / "home-number").exists()
    return f"{home.number() if known else 'none'} {home.root.resolve()}"
