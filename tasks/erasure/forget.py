"""Erasure stage. Finds a person in everything the home holds, removes them, and says what can no longer be rebuilt.

The order matters. First it is written down that the person is forgotten (as a salted hash), so that an ingest
drops them from then on; then the lake, from which everything else is made; then what was made of it. Each
step looks for what is there: killed half-way, the same command again does what is left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from models.contract import Contract
from models.decision import Decision
from models.errors import DataError, PlatformError
from tasks.data.ingest import committed_loads
from tasks.data.lake import sweep_unfinished
from tasks.data.manifest import current_version
from tasks.data.sources import Sources
from tasks.erasure.forget_files import Person, Trace, erase_files, erase_loads, sweep_spill
from tasks.erasure.forget_serving import erase_logs, erase_online, erase_scores_table
from tasks.erasure.forget_texts import erase_texts, find_in_sources, find_remains
from tasks.erasure.forgotten import entity_hash, forgotten_since, remember_forgotten, salted
from tasks.features.apply import LOCK
from tasks.home import Home
from tasks.locks import hold
from tasks.monitoring.ship_log import LOCK as SHIPPING
from tasks.monitoring.truth import LOCK as TRUTH
from tasks.release.releases import read_releases
from tasks.state import read_decisions, record_decision

_ROUNDS: Final = 3  # a flow that had read the old lake may write a file after we looked


@dataclass(frozen=True)
class Place:
    """Where to look, and under which names."""

    home: Home
    engine: sa.Engine
    contract: Contract
    sources: Sources
    root: Path  # where relative source paths start


@dataclass(frozen=True)
class Found:
    """What the home holds of a person, and what of the past rests on it."""

    traces: tuple[Trace, ...]
    remains: tuple[tuple[str, str], ...]  # file or place, and why it is not erased
    unrepeatable: tuple[str, ...]  # what can no longer be rebuilt to the byte
    forgotten_at: str | None  # when this person was forgotten before

    @property
    def rows(self) -> int:
        return sum(trace.rows for trace in self.traces)

    @property
    def files(self) -> int:
        return sum(trace.files for trace in self.traces)


def find_person(entity: str, place: Place) -> Found:
    """What there is of a person; changes nothing.

    Raises:
        DataError: no such person was ever seen, or the name is empty.
    """
    person = name_person(entity, place)
    home = place.home
    traces, loads, files = _search(person, place, apply=False)
    remains = [*find_in_sources(person, place.contract, place.sources, home, place.root), *find_remains(person, home)]
    before = forgotten_since(place.engine, entity_hash(home, person.entity)) if salted(home) else None
    found = Found(tuple(traces), tuple(remains), tuple(_unrepeatable(home, place.engine, loads, files)), before)
    if not found.rows and not found.forgotten_at:
        held = f", though {found.remains[0][0]} does" if found.remains and person.telling else ""
        raise DataError(f"cannot forget {person.entity!r}: nothing in {home.root} names them{held}. Check the "
                        f"{person.entity_key}; nothing was changed")
    return found


def forget_person(entity: str, place: Place, *, who: str, why: str, as_of: datetime | None) -> Found:
    """Remove a person from everything the home holds, for good, and write that down without their name.

    Works with the platform up or down. A flow that reads the lake at this moment may find a file gone: run it again.

    Returns:
        What was removed.

    Raises:
        DataError: no such person was ever seen.
        PlatformError: a file or store cannot be looked into, or another process keeps writing the person down.
    """
    person, found = name_person(entity, place), find_person(entity, place)
    hashed = entity_hash(place.home, person.entity, make_salt=True)
    who, why = (_without(text, person) for text in (who, why))
    if not found.rows and _recorded(place.engine, hashed):
        return found
    _record(place.engine, "begun", found, hashed, who, why, as_of)
    remember_forgotten(place.engine, hashed, who=who, why=why)
    for _ in range(_ROUNDS):
        _search(person, place, apply=True)
        left, _loads, _files = _search(person, place, apply=False)
        if not left:
            _record(place.engine, "erased", found, hashed, who, why, as_of)
            return found
    raise PlatformError(f"cannot forget wholly: {left[0].where} holds {left[0].rows:,} rows again; another process "
                        "writes what it read before. Let running flows end, then run the same command again")


def name_person(entity: str, place: Place) -> Person:
    """The person of an entity key, as ingest would read it.

    Raises:
        DataError: it is empty.
    """
    if not entity.strip():
        raise DataError(f"cannot forget nobody: the {place.contract.entity_key} is empty")
    columns = {place.contract.entity_key, *_older_entity_keys(place.home)} | {
        column.name for table in place.contract.tables for column in table.columns if column.role == "entity_key"
    }
    return Person(entity.strip(), place.contract.entity_key, frozenset(columns))


def _older_entity_keys(home: Home) -> Iterator[str]:
    """Of every contract that ever took a snapshot; its JSON may be older than `Contract`."""
    for path in (home.lake / "snapshots").glob("*.json"):
        yield str(json.loads(path.read_text(encoding="utf-8"))["entity_key"])


def _search(person: Person, place: Place, *, apply: bool) -> tuple[list[Trace], list[datetime], list[Path]]:
    """The traces (erased, where it applies), the loads with raw rows of the person, and the files made of them."""
    home, engine = place.home, place.engine
    with hold(home, "lake") if apply else nullcontext():
        if apply:
            sweep_unfinished(home)
            sweep_spill(home)
        loaded, loads = erase_loads(person, home, engine, apply=apply)
    # Who puts a snapshot online must not be between the two, nor who ships a line that is about to be blank, nor who
    # joins predictions to labels.
    with ExitStack() as locks:
        for name in (LOCK, SHIPPING, TRUTH) if apply else ():
            locks.enter_context(hold(home, name))
        logged = erase_logs(person, home, apply=apply)
        made, files = erase_files(person, home, engine, apply=apply)
        online = erase_online(person, home, apply=apply)
    traces = [*loaded, *made, *online, *erase_scores_table(person, home, apply=apply), *logged,
              *erase_texts(person, home, apply=apply)]
    return traces, loads, files


def _unrepeatable(home: Home, engine: sa.Engine, loads: Sequence[datetime], files: Sequence[Path]) -> list[str]:
    """What was made with the person's rows, and would come out otherwise if it were made again."""
    lines = []
    if loads:
        later = [load for load in committed_loads(engine) if load.as_of >= loads[0]]
        lines.append(f"dataset versions {', '.join(load.dataset_version for load in later)} (loads since "
                     f"{loads[0]:%Y-%m-%d}): the lake that had them is gone")
    training = {path.name for path in files if path.is_relative_to(home.lake / "training")}
    lines += [f"training set {name}: its rows are fewer than the model saw" for name in sorted(training)]
    runs = _runs_of(home, training)
    lines += [f"MLflow run {run}: trained on them, so its metrics come out otherwise when it is run again"
              for run in sorted(runs)]
    for release in read_releases(engine):
        if release.run_id in runs:
            lines.append(f"model version {release.model_version} ({release.release_id}): it serves on as it is; "
                         "packaged anew it would get another release id")
    return lines


def _runs_of(home: Home, training: set[str]) -> set[str]:
    """MLflow runs that name one of these training sets."""
    if not training or not (home.mlflow / "mlflow.db").exists():
        return set()
    with sa.create_engine(home.mlflow_uri).connect() as connection:
        rows = connection.execute(sa.text("SELECT run_uuid, value FROM tags WHERE key = 'training_set'")).all()
    return {str(run) for run, name in rows if name in training}


def _record(engine: sa.Engine, verdict: str, found: Found, hashed: str, who: str, why: str,
            as_of: datetime | None) -> None:
    evidence: dict[str, float | int | str | None] = {trace.where: trace.rows for trace in found.traces}
    evidence |= {"who": who, "why": why, "unrepeatable": "; ".join(found.unrepeatable),
                 "dataset_version": current_version(engine)}
    reason = f"erasing a person (by {who}: {why}): {found.rows:,} rows in {found.files:,} files and tables"
    record_decision(engine, Decision("erasure", verdict, reason, evidence), as_of=as_of, subject=hashed)


def _recorded(engine: sa.Engine, hashed: str) -> bool:
    """Whether an erasure of this person came to its end."""
    rows = read_decisions(engine, gate="erasure", subject=hashed)
    return bool(rows) and rows[0].decision.verdict == "erased"


def _without(text: str, person: Person) -> str:
    return person.token.sub(b"[the person]", text.encode()).decode()
