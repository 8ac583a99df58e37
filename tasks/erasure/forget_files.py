"""Erasure in Parquet. Reads the manifest and every Parquet file of the home; writes files without a person's rows.

What the manifest lists is written beside and swapped in one transaction, so a reader sees the old lake or
the new one. Other files keep their name: one is renamed over the other.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import polars as pl
import sqlalchemy as sa

from models.errors import PlatformError
from tasks.data.lake import hash_file
from tasks.data.manifest import Kind, Partition, committed_partitions, record_partitions
from tasks.home import Home

LOGGED_ENTITY: Final = "entity"  # what the prediction log calls the entity key, whatever the contract does
_SPILL_SECONDS: Final = 86_400  # what DuckDB spilled and nobody has touched for a day, a killed process left


@dataclass(frozen=True)
class Person:
    """Who is to be forgotten, and under which names of columns a file knows them."""

    entity: str  # without spaces around it
    entity_key: str  # the contract's: Feast's join key
    columns: frozenset[str]  # entity keys of raw tables and snapshots

    @cached_property
    def telling(self) -> bool:
        """Found in free text it means this person: letters and digits (or an address), five at least. `42` could
        be any number and `basic` any word: those are looked for where a key stands, and nowhere else."""
        return bool(len(self.entity) >= 5 and re.search(r"[^\W\d]", self.entity) and re.search(r"[\d@]", self.entity))

    @cached_property
    def token(self) -> re.Pattern[bytes]:
        """The entity in text, not as a part of a longer word."""
        return re.compile(rb"(?<![\w-])" + re.escape(self.entity.encode()) + rb"(?![\w-])")


@dataclass(frozen=True)
class Trace:
    """What is kept of a person in one place (or was, after an erasure)."""

    where: str
    rows: int
    files: int


def erase_loads(person: Person, home: Home, engine: sa.Engine, *, apply: bool) -> tuple[list[Trace], list[datetime]]:
    """The committed raw and quarantined rows; the caller holds the lock "lake" when it applies.

    Returns:
        The traces, and the loads (their `as_of`) that had raw rows of the person.
    """
    rows: Counter[str] = Counter()
    files: Counter[str] = Counter()
    swaps: list[tuple[Partition, Partition | None]] = []
    loads: set[datetime] = set()
    kinds: tuple[Kind, ...] = ("raw", "quarantine")
    for partition in [one for kind in kinds for one in committed_partitions(engine, kind=kind)]:
        found = count_rows(home.lake / partition.path, person, texts=partition.kind == "quarantine")
        if not found:
            continue
        where = f"lake/{partition.kind}/{partition.table}"
        rows[where] += found
        files[where] += 1
        loads |= {partition.as_of} if partition.kind == "raw" else set()
        swaps.append((partition, _written_beside(partition, home, person) if apply else None))
    if apply and swaps:
        with engine.begin() as connection:
            record_partitions(connection, [new for _, new in swaps if new], remove=[old for old, _ in swaps])
    if apply:
        drop_replaced(home, engine)
    return [Trace(where, rows[where], files[where]) for where in sorted(rows)], sorted(loads)


def _written_beside(partition: Partition, home: Home, person: Person) -> Partition:
    old = home.lake / partition.path
    new = next_revision(old)
    kept = rewrite_without(old, new, person, texts=partition.kind == "quarantine")
    return replace(partition, path=str(new.relative_to(home.lake)), rows=kept, sha256=hash_file(new))


def next_revision(path: Path) -> Path:
    """`load=AS_OF,N.parquet` for the first N that no file of this load has: what takes its place."""
    number = 1 + max((int(match[1]) for one in path.parent.glob(f"{_load(path)},*.parquet")
                      if (match := re.search(r",(\d+)\.parquet$", one.name))), default=0)
    return path.with_name(f"{_load(path)},{number}.parquet")


def _load(path: Path) -> str:
    """`load=AS_OF` of `load=AS_OF.parquet` and of `load=AS_OF,N.parquet`."""
    return path.name.removesuffix(".parquet").split(",")[0]


def drop_replaced(home: Home, engine: sa.Engine) -> None:
    """Remove raw and quarantine files in whose place the manifest lists another of the same load.

    A file it does not know at all may be the last copy of something, and is not ours to drop.
    """
    listed = {home.lake / one.path for kind in ("raw", "quarantine") for one in committed_partitions(engine, kind=kind)}
    loads = {(path.parent, _load(path)) for path in listed}
    for path in [*(home.lake / "raw").glob("*/*.parquet"), *(home.lake / "quarantine").glob("*/*.parquet")]:
        if path not in listed and (path.parent, _load(path)) in loads:
            path.unlink()


def erase_files(person: Person, home: Home, engine: sa.Engine, *, apply: bool) -> tuple[list[Trace], list[Path]]:
    """Every other Parquet file: snapshots, training sets, scores, what MLflow and the Bentos carry, files no row lists.

    Returns:
        The traces, and the files.
    """
    listed = {home.lake / one.path for kind in ("raw", "quarantine") for one in committed_partitions(engine, kind=kind)}
    rows: Counter[str] = Counter()
    touched: dict[str, list[Path]] = {}
    for path in own_files(home):
        if path.suffix != ".parquet" or path in listed:
            continue
        texts = path.is_relative_to(home.lake / "quarantine")
        named = path.is_relative_to(home.lake / "predictions")
        whom = replace(person, columns=person.columns | {LOGGED_ENTITY}) if named else person
        found = count_rows(path, whom, texts=texts)
        if found:
            parts = path.relative_to(home.root).parts[:-1]
            where = "/".join(parts[:3 if parts[0] == "lake" else 2])
            rows[where] += found
            touched.setdefault(where, []).append(path)
            if apply:
                rewrite_without(path, path, whom, texts=texts)
    return ([Trace(where, rows[where], len(touched[where])) for where in sorted(rows)],
            [path for paths in touched.values() for path in paths])


def own_files(home: Home) -> Iterator[Path]:
    """Every regular file of the home but libraries (`venvs/`) and source files (`landing/`), which are not ours."""
    for folder, folders, names in os.walk(home.root):
        if Path(folder) == home.root:
            folders[:] = [name for name in folders if name not in ("venvs", "landing")]
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


def count_rows(path: Path, person: Person, *, texts: bool = False) -> int:
    """Rows of a Parquet file that are this person's.

    Args:
        texts: look into every text, where it is telling: a bad row may have its cells in the wrong columns.

    Raises:
        PlatformError: it cannot be read, so nobody knows.
    """
    try:
        rows = _scan(path)
        whose = _whose(rows, person, texts=texts)
        return 0 if whose is None else int(rows.filter(whose).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PlatformError(f"cannot look into {path}: {str(error).splitlines()[0]}. Mend or remove it, then try "
                            "again") from None


def rewrite_without(path: Path, to: Path, person: Person, *, texts: bool) -> int:
    """Write a Parquet file without a person's rows, beside and renamed; returns how many rows stay."""
    rows = _scan(path)
    whose = _whose(rows, person, texts=texts)
    kept = rows if whose is None else rows.filter(~whose)
    beside = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        beside.touch(mode=0o600)
        beside.chmod(path.stat().st_mode & 0o777)
        kept.sink_parquet(beside, compression="zstd", statistics=True, maintain_order=True)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.rename(to)
    finally:
        beside.unlink(missing_ok=True)
    return int(_scan(to).select(pl.len()).collect().item())


def _scan(path: Path) -> pl.LazyFrame:
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def _whose(rows: pl.LazyFrame, person: Person, *, texts: bool) -> pl.Expr | None:
    schema = rows.collect_schema()
    tests = [pl.col(name).cast(pl.String).str.strip_chars() == person.entity
             for name in schema.names() if name in person.columns]
    if texts and "_key" in schema:  # of a row whose text retention dropped: the entity stands first in it
        tests.append(pl.col("_key").str.starts_with(f"{person.entity}\x1f"))
    if texts and person.telling:
        word = rf"(?:^|[^\w-]){re.escape(person.entity)}(?:$|[^\w-])"
        tests += [pl.col(name).str.contains(word) for name, dtype in schema.items() if dtype == pl.String]
    return pl.any_horizontal(test.fill_null(False) for test in tests) if tests else None


def sweep_spill(home: Home) -> int:
    """Remove what DuckDB spilled in a process that was killed: nobody can look into it. Returns how many files."""
    old = [path for path in (home.lake / "spill").rglob("*") if path.is_file()
           and time.time() - path.stat().st_mtime > _SPILL_SECONDS]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)
