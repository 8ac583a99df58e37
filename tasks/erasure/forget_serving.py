"""Erasure where serving reads and writes. Feast's online store, the prediction log, Envoy's access log.

A release goes on meanwhile. Its logs are open for appending, so a line is overwritten where it stands and
no byte moves: nothing that is being written is lost, and where a rollout began in the log stays true.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import mmap
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from models.errors import PlatformError
from models.serving.features_online import shown
from tasks.erasure.forget_files import Person, Trace
from tasks.features.apply import open_store
from tasks.features.materialize import IN_HOME, used_online
from tasks.home import Home
from tasks.release.routing import access_log
from tasks.scoring.scores_table import delete_person

_FORGOTTEN_LINE: Final = b'{"forgotten":true}'


def erase_online(person: Person, home: Home, *, apply: bool) -> list[Trace]:
    """The person in every view of the online store, by the key Feast makes of them: Feast has no call for one entity.

    The home's own file is looked into whichever store is used today: it may have been in use before.

    Raises:
        PlatformError: features were put online elsewhere than the settings say, or the store does not answer.
    """
    _refuse_other_stores(home)
    if not (home.feast.exists() or home.online_store):
        return []
    config = open_store(home).config
    key = _feast_key(person, config.entity_key_serialization_version)
    found = _erase_sqlite(key, home.feast_online, person, apply=apply)
    if home.online_store:
        found += _erase_redis(key + config.project.encode(), config.online_store, apply=apply)
    return found


def erase_scores_table(person: Person, home: Home, *, apply: bool) -> list[Trace]:
    """The person's rows where scores are written as a SQL table.

    Raises:
        PlatformError: the database does not answer, or scores were written to another one than the settings name.
    """
    found = delete_person(home, person.entity, apply=apply)
    return [Trace("scores table", found, 1)] if found else []


def _refuse_other_stores(home: Home) -> None:
    now = shown(home.online_store) if home.online_store else None
    for place in used_online(home):
        if place not in (IN_HOME, now):
            says = f"says {now}" if now else "is unset"
            raise PlatformError(f"cannot forget: features were put online in {place}, and CHURN_ONLINE_STORE {says}. "
                                f"Set it to that store, or remove its line from {home.online_record} once that store "
                                "is gone")


def _feast_key(person: Person, version: int) -> bytes:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=[person.entity_key], entity_values=[Value(string_val=person.entity)])
    return bytes(serialize_entity_key(key, entity_key_serialization_version=version))


def _erase_redis(key: bytes, config: Any, *, apply: bool) -> list[Trace]:
    import redis
    from feast.infra.online_stores.redis import RedisOnlineStore

    try:
        client = RedisOnlineStore()._get_client(config)  # parses Feast's own connection string
        fields = int(client.hlen(key))
        if fields and apply:
            client.delete(key)
    except redis.exceptions.RedisError as error:
        raise PlatformError(f"cannot forget in the online store: Redis says {str(error).splitlines()[0]}. Start it, "
                            "then try again") from None
    return [Trace("online store (redis)", fields, 1)] if fields else []


def _erase_sqlite(key: bytes, path: Path, person: Person, *, apply: bool) -> list[Trace]:
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=60)) as online:
        tables = [name for (name,) in online.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                  if any(column[1] == "entity_key" for column in online.execute(f'PRAGMA table_info("{name}")'))]
        counts = {name: online.execute(f'SELECT count(*) FROM "{name}" WHERE entity_key = ?', (key,)).fetchone()[0]
                  for name in tables}
        if apply:
            online.execute("PRAGMA secure_delete = ON")  # zeros, not only a free page
            for name in tables:
                online.execute(f'DELETE FROM "{name}" WHERE entity_key = ?', (key,))
            online.commit()
            empty_pages(online, path, person.entity.encode())
    found = {name: count for name, count in counts.items() if count}
    return [Trace("online store (sqlite)", sum(found.values()), len(found))] if found else []


def empty_pages(database: sqlite3.Connection, path: Path, text: bytes) -> None:
    """Have SQLite write its log back and, where free pages still hold `text`, write the whole file anew.

    Earlier writers deleted without zeros. Another's key that contains `text` costs a needless rewrite, no more.
    """
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if any(_holds(one, text) for one in (path, Path(f"{path}-wal"))):
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _holds(path: Path, text: bytes) -> bool:
    with _mapped(path) as content:
        return content is not None and content.find(text) >= 0


def erase_logs(person: Person, home: Home, *, apply: bool) -> list[Trace]:
    """The person's lines of the prediction log, and their HMAC in Envoy's access log.

    A prediction is replaced as a whole, for the features stand in it. An access line keeps its counts, and gets a
    random customer that is the same in every line of a log: a rollout that is being judged sees as many customers.
    """
    traces = []
    for path in sorted(home.serving.glob("predictions*.jsonl*")):
        needle = b'"entity":' + json.dumps(person.entity, ensure_ascii=False).encode()
        found = _overwrite(path, re.compile(re.escape(needle)), _blank, apply=apply)
        traces += [Trace(f"serving/{path.name}", found, 1)] if found else []
    pseudonym = _pseudonym(person, home)
    for path in sorted(home.serving.glob(f"{access_log(home).stem}*.jsonl*")) if pseudonym else []:
        found = _overwrite(path, re.compile(re.escape(pseudonym)), _somebody_else(pseudonym), apply=apply)
        traces += [Trace(f"serving/{path.name}", found, 1)] if found else []
    return traces


def _pseudonym(person: Person, home: Home) -> bytes:
    """What a release tells Envoy of the person (models/serving/runtime.py); empty where no release ever ran."""
    key = home.run / "customer-key"
    if not key.exists():
        return b""
    return hmac.new(key.read_bytes().strip(), person.entity.encode(), hashlib.sha256).hexdigest()[:32].encode()


def _somebody_else(pseudonym: bytes) -> Callable[[bytes], bytes]:
    nobody = secrets.token_hex(len(pseudonym) // 2).encode()
    return lambda line: line.replace(pseudonym, nobody)


def _blank(line: bytes) -> bytes:
    return _FORGOTTEN_LINE.ljust(len(line)) if len(line) >= len(_FORGOTTEN_LINE) else b" " * len(line)


def _overwrite(path: Path, wanted: re.Pattern[bytes], by: Callable[[bytes], bytes], *, apply: bool) -> int:
    """Replace each line that holds `wanted`, in place and by as many bytes; returns how many."""
    count = 0
    with _mapped(path, write=apply) as content:
        end = -1
        for match in wanted.finditer(content) if content is not None else ():
            if match.start() < end:
                continue  # the same line
            begin = content.rfind(b"\n", 0, match.start()) + 1
            end = content.find(b"\n", match.end())
            end = len(content) if end < 0 else end
            if apply:
                content[begin:end] = by(content[begin:end])
            count += 1
    return count


@contextmanager
def _mapped(path: Path, *, write: bool = False) -> Iterator[Any]:
    """A file's bytes without reading it whole; None where it is empty or not there."""
    if not path.is_file() or path.stat().st_size == 0:
        yield None
        return
    with path.open("r+b" if write else "rb") as file, mmap.mmap(
        file.fileno(), 0, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
    ) as content:
        yield content
        if write:
            content.flush()
