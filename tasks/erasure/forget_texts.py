"""Erasure in free text. The ledger's reasons, Prefect's and MLflow's databases, logs, reports; and where it cannot be.

The name is crossed out by as many `x`: a sentence, a number or a JSON document around it stays what it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import polars as pl

from models.contract import Contract
from models.errors import PipelineError
from tasks.data.source_files import find_files
from tasks.data.sources import Sources
from tasks.erasure.forget_files import Person, Trace, own_files
from tasks.erasure.forget_serving import empty_pages
from tasks.home import Home

_SQLITE: Final = b"SQLite format 3\x00"
_CHUNK: Final = 1 << 22


def erase_texts(person: Person, home: Home, *, apply: bool) -> list[Trace]:
    """Cross the name out of every database and text file of the home that is not Parquet or a log of serving.

    Only where it is telling (see `Person`); files that are no text are left, `find_remains` names them.
    """
    if not person.telling:
        return []
    traces = []
    for path in own_files(home):
        if path.suffix == ".parquet" or path == home.feast_online or path.name.endswith(("-wal", "-shm")):
            continue
        if _head(path) == _SQLITE:
            found = _cross_out_of_database(path, person, apply=apply)
        else:
            found = _cross_out_of_text(path, person, apply=apply)
        if found:
            traces.append(Trace(str(path.relative_to(home.root)), found, 1))
    return traces


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_SQLITE))


def _cross_out_of_database(path: Path, person: Person, *, apply: bool) -> int:
    """Every text of every table; returns how many rows had the name in one."""
    def crossed(text: str) -> str:
        return person.token.sub(b"x" * len(person.entity.encode()), text.encode()).decode()

    count = 0
    with closing(sqlite3.connect(path, timeout=60)) as database:
        database.create_function("crossed", 1, crossed, deterministic=True)
        database.execute("PRAGMA secure_delete = ON")
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
                                  "AND sql NOT LIKE 'CREATE VIRTUAL%'").fetchall()
        for (table,) in tables:
            for column in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                name = '"' + column[1].replace('"', '""') + '"'
                where = f"typeof({name}) = 'text' AND instr({name}, ?) AND crossed({name}) <> {name}"
                rows = database.execute(f'SELECT count(*) FROM "{table}" WHERE {where}', (person.entity,))
                found = rows.fetchone()[0]
                if found and apply:
                    database.execute(f'UPDATE "{table}" SET {name} = crossed({name}) WHERE {where}', (person.entity,))
                count += found
        database.commit()
        if apply and count:
            empty_pages(database, path, person.entity.encode())
    return count


def _cross_out_of_text(path: Path, person: Person, *, apply: bool) -> int:
    """In place, so that a process that appends to the file goes on; returns how often it stood there."""
    places = _places(path, person)
    if not places or not _is_text(path):
        return 0
    if apply:
        with path.open("r+b") as file:
            for place in places:
                file.seek(place)
                file.write(b"x" * len(person.entity.encode()))
    return len(places)


def _places(path: Path, person: Person) -> list[int]:
    """Where the name stands in a file, in bytes; read piece by piece."""
    found: set[int] = set()
    overlap = len(person.entity.encode()) + 8
    with path.open("rb") as file:
        offset, before = 0, b""
        while piece := file.read(_CHUNK):
            content = before + piece
            at_end = len(piece) < _CHUNK
            found |= {offset - len(before) + match.start() for match in person.token.finditer(content)
                      if (at_end or match.end() < len(content)) and (match.start() or not before)}
            offset += len(piece)
            before = content[-overlap:]
    return sorted(found)


def _is_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def find_remains(person: Person, home: Home) -> list[tuple[str, str]]:
    """Files of the home that still hold the name, and why: what is neither Parquet nor database nor text."""
    if not person.telling:
        return [("free text", f"{person.entity!r} is too short or too plain a word to be told from others in messages "
                              "and logs: they were not looked at")]
    return [(str(path.relative_to(home.root)), "no text, no Parquet: look at it by hand") for path in own_files(home)
            if path.suffix not in (".parquet",) and not path.name.endswith(("-wal", "-shm"))
            and _head(path) != _SQLITE and _places(path, person) and not _is_text(path)]


def find_in_sources(person: Person, contract: Contract, sources: Sources, home: Home, root: Path) -> list[
        tuple[str, str]]:
    """Source files that still hold the person: they are not ours to change; ingest drops such rows from now on."""
    found: dict[str, str] = {}
    why = "not ours: have the person removed there; ingest drops their rows"
    for name, source in sources.tables.items():
        key = contract.table(name).column("entity_key")
        theirs = source.columns.get(key.name) if key else None
        if theirs is None:
            continue
        if source.path is None:
            found[f"the database of {name}"] = "not looked at; " + why
            continue
        try:
            files: Sequence[Path] = find_files(name, source, root=root)
        except PipelineError as error:
            found[f"source of {name}"] = f"not looked at: {error}"
            continue
        for path in files:
            try:
                rows = _source_rows(path, theirs, person)
            except (pl.exceptions.PolarsError, OSError) as error:
                found[str(path)] = f"not looked at: {str(error).splitlines()[0]}"
                continue
            if rows:
                found[str(path)] = f"{rows:,} rows; {why}"
    if person.telling and home.landing.exists():  # what lies beside the sources, such as the sample world's truth
        for path in sorted(home.landing.rglob("*")):
            if path.is_file() and str(path) not in found and _stands_in(path, person):
                found[str(path)] = why
    return sorted(found.items())


def _source_rows(path: Path, theirs: str, person: Person) -> int:
    rows = (pl.scan_parquet(path, glob=False) if path.suffix == ".parquet"
            else pl.read_csv(path, infer_schema=False, columns=[theirs]).lazy())
    mine = pl.col(theirs).cast(pl.String).str.strip_chars() == person.entity
    return int(rows.filter(mine).select(pl.len()).collect().item())


def _stands_in(path: Path, person: Person) -> bool:
    if path.suffix != ".parquet":
        return bool(_places(path, person))
    rows = pl.scan_parquet(path, glob=False)
    texts = [name for name, dtype in rows.collect_schema().items() if dtype == pl.String]
    mine = pl.any_horizontal((pl.col(name) == person.entity).fill_null(False) for name in texts)
    return bool(texts) and bool(rows.filter(mine).select(pl.len()).collect().item())
