"""Reproduction. Reads a run's record and the lake; builds data and model again in a folder of its own, and compares.

Nothing of the home is written: the raw partitions are read where they lie, everything made from them (snapshots,
feature store, training set) is made anew in a temporary folder, by the contract, charter and settings of the record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.training.contacts import row_weights
from models.training.fit import fit_candidate
from models.training.search import Trial
from tasks.data.lake import hash_file
from tasks.data.manifest import Partition, committed_partitions, record_partitions
from tasks.features.snapshots import build_snapshots
from tasks.home import MEMORY_LIMIT, Home
from tasks.state import now, open_state
from tasks.tables import LOADS
from tasks.training.evaluate import evaluate_candidate, figures
from tasks.training.provenance import Difference
from tasks.training.record import Record
from tasks.training.training_set import TrainingSet, build_set

DIGITS: Final = 9  # relative; a figure near 0 may be off by as little in absolute terms
FOREVER: Final = 1e9  # seconds: the number of trials bounds the search, as it turned out to
SHOWN: Final = 20  # lines of one kind


@dataclass(frozen=True)
class Reproduction:
    """What came out the second time."""

    record: Record
    metrics: Mapping[str, float]
    differences: tuple[Difference, ...]  # code, libraries, data, contract, charter

    @property
    def unequal(self) -> tuple[str, ...]:
        """The figures that differ, or that only one of the two has."""
        names = {*self.record.metrics, *self.metrics}
        return tuple(sorted(name for name in names if not same_figure(self.record.metrics.get(name),
                                                                      self.metrics.get(name))))

    @property
    def same(self) -> bool:
        return not self.unequal and bool(self.metrics)

    def text(self) -> str:
        """What is printed: the verdict, what differs, and each figure that does with both values."""
        count, record = len(self.record.metrics), self.record
        head = (f"the same: {count} of {count} figures of run {record.run_id} to {DIGITS} digits" if self.same else
                f"not the same: {len(self.unequal)} of {count} figures of run {record.run_id} differ")
        lines = [head, f"hypothesis: {record.hypothesis}",
                 f"data as of {record.as_of:%Y-%m-%d}, dataset {record.dataset.version}, training set "
                 f"{record.content}: {record.rows.get('train', 0):,} + {record.rows.get('test', 0):,} rows"]
        if self.differences:
            lines += ["what is not as it was:", *_first([one.line for one in self.differences])]
        elif not self.same:
            lines.append("code, libraries and data are as they were: the fit itself is not deterministic here")
        shown = [f"{name}: {_shown(record.metrics.get(name))} recorded, {_shown(self.metrics.get(name))} now"
                 f"{_apart(record.metrics.get(name), self.metrics.get(name))}" for name in self.unequal]
        return "\n".join([*lines, *(["figures:", *_first(shown)] if shown else [])])


def same_figure(recorded: float | None, seen: float | None) -> bool:
    """Equal to `DIGITS` digits; not a number equals itself."""
    if recorded is None or seen is None:
        return False
    if math.isnan(recorded) or math.isnan(seen):
        return math.isnan(recorded) and math.isnan(seen)
    return math.isclose(recorded, seen, rel_tol=10.0**-DIGITS, abs_tol=10.0**-DIGITS)


def compare_data(record: Record, home: Home, engine: sa.Engine) -> list[Difference]:
    """Recorded partitions that are gone or have other bytes, and what stands in their place."""
    found = []
    recorded = {one.path: one for one in record.dataset.listed()}
    for path, one in recorded.items():
        place = home.lake / path
        seen = hash_file(place) if place.is_file() else None
        if seen != one.sha256:
            found.append(Difference(f"data partition {path}", one.sha256[:12], "absent" if seen is None else seen[:12]))
    last = record.dataset.last_load
    found += [Difference(f"data partition {one.path}", "absent", one.sha256[:12])
              for one in committed_partitions(engine) if one.path not in recorded and one.as_of.isoformat() <= last]
    return found


def compare_problem(record: Record, contract: Contract, charter: Charter) -> list[Difference]:
    """Where contract and charter of today are others. The recorded ones are used: this alone changes no figure."""
    was, here = _flat(record.charter.model_dump(mode="json")), _flat(charter.model_dump(mode="json"))
    found = [Difference(f"charter {key} (the recorded one was used)", str(was.get(key, "absent")),
                        str(here.get(key, "absent"))) for key in sorted({*was, *here}) if was.get(key) != here.get(key)]
    if record.contract.fingerprint == contract.fingerprint:
        return found
    before, after = _parts(record.contract), _parts(contract)
    changed = [part for part in sorted({*before, *after}) if before.get(part) != after.get(part)]
    return [*found, Difference(f"contract (the recorded one was used), in {', '.join(changed) or 'its tables'}",
                               record.contract.fingerprint, contract.fingerprint)]


def rebuild_data(
    record: Record, home: Home, engine: sa.Engine, folder: Path, *, memory_limit: str = MEMORY_LIMIT
) -> TrainingSet:
    """The training set again, from the raw partitions of the record; where one is gone, from what replaced it.

    Args:
        folder: empty; a home of its own is made in it.

    Raises:
        DataError: what is left of the data gives no training set.
    """
    replica = Home(folder / "home", home.name)
    replica.lake.mkdir(parents=True)
    (replica.lake / "raw").symlink_to((home.lake / "raw").resolve(), target_is_directory=True)
    state = open_state(replica.state_url)
    try:
        with state.begin() as connection:
            record_partitions(connection, _usable(record, home, engine))
            connection.execute(LOADS.insert().values(as_of=record.dataset.last_load, at=now(), counts="{}",
                                                     dataset_version=record.dataset.version))
        cuts = [*record.cuts.train, *record.cuts.test]
        build_snapshots(record.contract, None, home=replica, engine=state, cuts=cuts, memory_limit=memory_limit)
        return build_set(record.contract, record.charter, record.cuts, home=replica, engine=state, as_of=record.as_of,
                         run_id=record.run_id, memory_limit=memory_limit)
    finally:
        state.dispose()
        open_state.cache_clear()  # the folder is about to go


def compare_rows(record: Record, made: TrainingSet) -> list[Difference]:
    """Snapshots and training set whose rows came out differently."""
    found = [Difference(f"rows of the snapshot {cut}", was, made.snapshots.get(cut, "absent"))
             for cut, was in record.snapshots.items() if made.snapshots.get(cut) != was]
    if made.content != record.content:
        found.append(Difference("rows of the training set", record.content, made.content))
    return found


def rebuild_model(
    record: Record, made: TrainingSet, *, on_trial: Callable[[Trial], None] | None = None
) -> dict[str, float]:
    """Search, fit and evaluate as the record says; the figures that came out.

    A search that the clock or Ctrl-C ended is repeated for as many trials as it had.
    """
    train, test = made.split()
    config = record.config.model_copy(update={"trials": record.search.get("finished") or record.config.trials,
                                              "search_seconds": FOREVER})
    candidate = fit_candidate(train, test, record.contract, record.charter, config, on_trial=on_trial,
                              weight=row_weights(train))
    return figures(candidate, evaluate_candidate(candidate, test, record.contract, record.charter, config))


def _usable(record: Record, home: Home, engine: sa.Engine) -> list[Partition]:
    recorded = record.dataset.listed()
    if all((home.lake / one.path).is_file() and hash_file(home.lake / one.path) == one.sha256 for one in recorded):
        return recorded
    last = datetime.fromisoformat(record.dataset.last_load)
    return [one for one in committed_partitions(engine) if one.as_of <= last and (home.lake / one.path).is_file()]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _parts(contract: Contract) -> dict[str, Any]:
    return {**{f"column {column.name}": column for column in contract.snapshot},
            **{f"file {name}": text for name, text in contract.sql.items()},
            **{f"parameter {name}": value for name, value in contract.parameters.items()}}


def _first(lines: list[str]) -> list[str]:
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*(f"  {line}" for line in lines[:SHOWN]), *more]


def _shown(value: float | None) -> str:
    return "absent" if value is None else f"{value:.{DIGITS}g}"


def _apart(recorded: float | None, seen: float | None) -> str:
    return "" if recorded is None or seen is None else f" ({seen - recorded:+.3g})"
