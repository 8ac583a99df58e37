"""Retention stage. Says which files of the lake nothing needs any more, and drops them.

Raw rows stay: features count orders ever. What is dropped can be made again from them (snapshots, to the
byte) or has served its purpose (training sets of models that were never registered, scores that were judged,
the text of old bad rows). Truth stays: then it is all that is left of the predictions. What is not understood is
kept and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.cuts import plan_cuts, regular_cuts
from models.decision import Decision
from models.errors import DataError
from tasks.data.lake import parse_stamp, stamp, sweep_unfinished
from tasks.data.manifest import Partition, committed_partitions, record_partitions, write_raw
from tasks.data.quarantine import DROPPED, text_dropped, without_text
from tasks.erasure.forget_files import drop_replaced, next_revision, sweep_spill
from tasks.erasure.retention_scored import old_batch_scores, old_predictions, truth_files
from tasks.features.snapshots import first_event
from tasks.home import Home
from tasks.locks import hold
from tasks.monitoring.truth import closed_cuts
from tasks.release.rollouts import CHAMPION_STATES, OPEN_STATES
from tasks.state import last_load, read_decisions, record_decision
from tasks.tables import RELEASES, ROLLOUTS

_LOOK_BACK: Final = 100_000  # ledger rows: years of checks


@dataclass(frozen=True)
class Item:
    """A file that can go, or one that stays because it is not understood."""

    path: Path
    size: int  # bytes
    why: str


@dataclass(frozen=True)
class Retention:
    """What can go, and what is kept because nobody can tell."""

    as_of: datetime
    drop: tuple[Item, ...]
    empty: tuple[tuple[Partition, Item], ...]  # quarantine whose text goes and whose keys stay
    unknown: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes of what can go; emptied partitions keep their keys, so a little less is freed."""
        return sum(item.size for item in self.drop) + sum(item.size for _, item in self.empty)


@dataclass(frozen=True)
class _Needs:
    """What snapshots are needed for."""

    live: Mapping[str, frozenset[datetime] | None]  # fingerprint -> cuts a release learnt from; None: not known
    oldest: datetime | None  # first cut a training as of now or later uses; None: none can be planned yet
    regular: frozenset[datetime]
    checked: frozenset[datetime]  # as_of the drift check looks back on
    followed: frozenset[datetime]  # cuts whose predictions were joined to their labels, for good
    now: datetime
    maturity: timedelta


def plan_retention(charter: Charter, contract: Contract, home: Home, engine: sa.Engine) -> Retention:
    """What nothing needs any more, as of the last load; changes nothing.

    Raises:
        DataError: nothing was ever loaded.
    """
    now = last_load(engine)
    if now is None:
        raise DataError(f"cannot say what is needed in {home.root}: nothing was ever loaded. Run `make run` first")
    needs = _read_needs(charter, contract, home, engine, now)
    drop: list[Item] = []
    unknown: list[Item] = []
    for path, why in [*_snapshots(home, needs), *_training_sets(home, now), *_scores(home, engine, needs),
                      *old_predictions(home, engine, now=now, maturity=needs.maturity, followed=needs.followed),
                      *old_batch_scores(home, engine), *truth_files(home)]:
        if why:
            item = Item(path, path.stat().st_size, why.removeprefix("?"))
            (unknown if why.startswith("?") else drop).append(item)
    limit = charter.requirements.keep_quarantine_days
    empty = [
        (one, Item(home.lake / one.path, (home.lake / one.path).stat().st_size,
                   f"bad rows loaded more than {limit:g} days ago: their text goes, their keys stay"))
        for one in committed_partitions(engine, kind="quarantine")
        if now - one.as_of > timedelta(days=limit) and one.rows and not text_dropped(home, one)
    ]
    return Retention(now, tuple(drop), tuple(empty), tuple(unknown))


def apply_retention(plan: Retention, home: Home, engine: sa.Engine) -> None:
    """Drop what the plan says, and write it to the ledger."""
    with hold(home, "lake"):
        sweep_unfinished(home)
        sweep_spill(home)
        # Another command may have put files in their place since the plan was made.
        listed = {one.path for one in committed_partitions(engine, kind="quarantine")}
        swaps = [(old, _empty(old, home)) for old, _ in plan.empty if old.path in listed]
        with engine.begin() as connection:
            record_partitions(connection, [new for _, new in swaps], remove=[old for old, _ in swaps])
        drop_replaced(home, engine)
    for item in plan.drop:
        item.path.unlink(missing_ok=True)
    files = len(plan.drop) + len(plan.empty)
    if files:
        reason = f"{files:,} files, {plan.size:,} bytes, that nothing needs as of {plan.as_of:%Y-%m-%d}"
        record_decision(engine, Decision("retention", "drop", reason, {"files": files, "bytes": plan.size}),
                        as_of=plan.as_of)


def _read_needs(charter: Charter, contract: Contract, home: Home, engine: sa.Engine, now: datetime) -> _Needs:
    problem = charter.problem
    first = first_event(contract, home=home, engine=engine, as_of=now)
    try:  # plans only move on with time, so a later one needs no earlier cut
        oldest = plan_cuts(problem, train_cuts=charter.training.train_cuts, first_event=first, as_of=now).train[0]
    except DataError:
        oldest = None
    live: dict[str, frozenset[datetime] | None] = {contract.fingerprint: frozenset()}
    # Who ever was champion and was not rolled back can come back, one `make rollback` after another.
    can_serve = sa.select(RELEASES.c.fingerprint, RELEASES.c.model_version).where(RELEASES.c.release_id.in_(
        sa.select(ROLLOUTS.c.release_id).where(ROLLOUTS.c.state.in_([*CHAMPION_STATES, *OPEN_STATES]))))
    with engine.connect() as connection:
        rows = connection.execute(can_serve).all()
    for fingerprint, version in rows:
        known, cuts = live.get(fingerprint, frozenset()), _learnt_from(engine, version)
        live[fingerprint] = None if known is None or cuts is None else known | cuts
    checks = sorted({row.as_of for row in read_decisions(engine, gate="drift", limit=_LOOK_BACK) if row.as_of})
    return _Needs(live, oldest, frozenset(regular_cuts(problem, first_event=first, until=now)),
                  frozenset(datetime.fromisoformat(as_of) for as_of in checks[-charter.drift.of_checks:]),
                  closed_cuts(home), now, problem.maturity)


def _learnt_from(engine: sa.Engine, version: str) -> frozenset[datetime] | None:
    """The cuts a model version was trained and tested on, as the gate wrote them down; None where it did not."""
    for row in read_decisions(engine, gate="promotion", subject=version):
        evidence = row.decision.evidence
        moments = [parse_stamp(text) for name in ("train_cuts", "test_cuts")
                   for text in str(evidence.get(name) or "").split(", ")]
        return None if None in moments else frozenset(one for one in moments if one)
    return None


def _by_stamp(files: Sequence[Path], prefix: str) -> tuple[dict[Path, datetime], datetime | None]:
    """The moment in the name of each file that has one, `PREFIX` and stamp, and the newest of them."""
    found = {path: parse_stamp(path.name.removeprefix(prefix).removesuffix(".parquet")) for path in files
             if path.name.startswith(prefix) and path.suffix == ".parquet"}
    known = {path: moment for path, moment in found.items() if moment is not None}
    return known, max(known.values(), default=None)


def _snapshots(home: Home, needs: _Needs) -> Iterator[tuple[Path, str]]:
    """Each snapshot and why it can go; `?` and why it cannot be told; empty where it is needed."""
    for folder in sorted(path for path in (home.lake / "snapshots").glob("*") if path.is_dir()):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        cuts, newest = _by_stamp(files, "cut=")
        for path in files:
            cut = cuts.get(path)
            if cut is None:
                yield path, "?its name is no cut"
            elif not folder.with_name(f"{folder.name}.json").exists():
                yield path, "?no contract lies beside its folder, so it could not be made again"
            elif folder.name not in needs.live:
                yield path, "neither the code of today nor a release that can come back has this contract"
            elif needs.live[folder.name] is None:
                yield path, "?the ledger does not say what a release of this contract learnt from"
            else:
                yield path, "" if cut == newest else _why_not(cut, needs.live[folder.name] or frozenset(), needs)


def _why_not(cut: datetime, learnt: frozenset[datetime], needs: _Needs) -> str:
    if cut in learnt or cut in needs.checked or cut + needs.maturity > needs.now or needs.oldest is None:
        return ""
    if cut in needs.regular:
        return "" if cut >= needs.oldest else f"no training from now on uses a cut before {needs.oldest:%Y-%m-%d}"
    return "no training cut, its labels are mature and no drift check looks back on it"


def _training_sets(home: Home, now: datetime) -> Iterator[tuple[Path, str]]:
    registered = _registered_sets(home)
    for path in sorted((home.lake / "training").glob("*/*")):
        if path.suffix != ".parquet" or not path.name.startswith("as_of="):
            yield path, "?its name is no training set's"
        elif registered is None:
            yield path, "?MLflow cannot be asked which models came from it"
        elif path.name in registered or path.name.startswith(f"as_of={stamp(now)},"):
            yield path, ""
        else:
            yield path, "no registered model version came from it"


def _registered_sets(home: Home) -> set[str] | None:
    """Names of the training sets registered model versions came from; None where that cannot be read."""
    if not (home.mlflow / "mlflow.db").exists():
        return None
    query = ("SELECT v.version, t.value FROM model_versions v LEFT JOIN tags t "
             "ON t.run_uuid = v.run_id AND t.key = 'training_set'")
    try:
        with sa.create_engine(home.mlflow_uri).connect() as connection:
            names = [name for _version, name in connection.execute(sa.text(query))]
    except sa.exc.SQLAlchemyError:
        return None
    return None if None in names else set(names)


def _scores(home: Home, engine: sa.Engine, needs: _Needs) -> Iterator[tuple[Path, str]]:
    judged = {datetime.fromisoformat(row.as_of) for row in read_decisions(engine, gate="drift", limit=_LOOK_BACK)
              if row.as_of and row.decision.verdict != "alarm"}
    files = sorted((home.lake / "scores").glob("*"))
    moments, newest = _by_stamp(files, "as_of=")
    for path in files:
        moment = moments.get(path)
        if moment is None:
            yield path, "?its name is no as_of"
        elif (moment == newest or moment in needs.checked or moment + needs.maturity > needs.now
              or moment not in judged & needs.followed):
            yield path, ""
        else:
            yield path, "it was joined to its labels, and the drift check has judged it"


def _empty(partition: Partition, home: Home) -> Partition:
    """The partition without its text: a source may deliver these rows again, and they must be known then."""
    old = home.lake / partition.path
    rows = pl.read_parquet(old, glob=False, hive_partitioning=False)
    return write_raw(home, without_text(rows, DROPPED), next_revision(old), table=partition.table, kind="quarantine",
                     as_of=partition.as_of)
