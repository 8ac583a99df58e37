"""Concept drift. Reads `lake/truth`, a release's payload and our state; writes the bets on new cohorts to our state.

Each cohort of the release's predictions is bet on once, when it is closed in `lake/truth`: its labels are mature and
suffice. Only customers nobody contacted count, with the weights they have there. A new champion has a stream and a
reference of its own. The judging is `models.gates.concept`; the decision and its place in the ledger are the monitor's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from models.contract import Contract
from models.errors import PlatformError, ReleaseError, describe
from models.gates.concept import Reference, likely_change, log_statistic
from models.gates.signals import Signal, State
from tasks.home import Home
from tasks.monitoring.concept_bets import CUT, Look, new_cohorts
from tasks.monitoring.concept_state import Cohort, Stream, add_cohorts, read_stream
from tasks.monitoring.due import due_cuts
from tasks.monitoring.truth_rows import rows_of_release

COLUMNS: Final = (CUT, "release_id", "probability", "label", "contacted", "weight", "labelled_as_of")  # that are read
TRIES: Final = 5  # runs that lay bets at once: one wins each time


def watch_concept(
    home: Home, engine: sa.Engine, charter: Charter, *, release_id: str, payload: Path, as_of: datetime
) -> Signal:
    """Bet on the cohorts whose labels became mature, and say whether customers still do what the release learnt.

    Idempotent per `as_of`: what was bet on is not bet on again.

    Args:
        release_id: of the champion.
        payload: its folder, with `release.json` and `contract.json`.
        as_of: platform clock, time zone aware.

    Returns:
        good, bad, waiting while no label is mature, or broken where it cannot be judged; `changed_since` of the
        evidence is the first cohort of the change (ISO date), or None.
    """
    try:
        from tasks.monitoring.truth import cohorts_until

        key = Contract.from_json((payload / "contract.json").read_text(encoding="utf-8")).entity_key
        return judge_cohorts(
            lambda: cohorts_until(home, as_of, columns=(key, *COLUMNS), newest_first=False), key, engine, charter,
            release_id=release_id, payload=payload, as_of=as_of)
    except Exception as error:  # whatever it is, the check fails closed: an alarm that says why
        return Signal("concept", "broken", f"concept drift cannot be judged: {describe(error)}",
                      {"release_id": release_id, "changed_since": None})


def judge_cohorts(
    cohorts: Callable[[], Iterator[tuple[datetime, pl.DataFrame]]], key: str, engine: sa.Engine, charter: Charter, *,
    release_id: str, payload: Path, as_of: datetime
) -> Signal:
    """The same on the cohorts of `lake/truth`.

    Args:
        cohorts: each cut with its rows, oldest first; read anew where others bet at the same time.

    Raises:
        PlatformError: the state cannot be read or contradicts itself.
        DataError: the rows do.
        ReleaseError: the payload has no reference.
    """
    for _ in range(TRIES):
        stream = read_stream(engine, release_id)
        limit = partial(_limit, stream, charter, payload)
        there: set[datetime] = set()
        closed: set[datetime] = set()
        mine = _rows_of_release(cohorts(), key, release_id, as_of, there, closed)
        new, look = new_cohorts(mine, key, stream, charter, limit=limit, as_of=as_of, closed=closed)
        if not new or add_cohorts(engine, release_id, stream, new, limit=limit()):
            break
    else:
        raise PlatformError(f"cannot bet on the cohorts of {release_id}: others did {TRIES} times at once. Run the "
                            "monitor again, alone")
    known = tuple(cohort for cohort in (*(stream.cohorts if stream else ()), *new) if cohort.as_of <= as_of)
    lost = due_cuts(engine, charter, as_of=as_of, release_id=release_id).difference(there)
    fault = _fault(look, charter, [cut for cut in sorted(lost) if not known or cut > known[-1].bet.cut])
    if fault:
        return Signal("concept", "broken", fault, _evidence(known, look, charter, release_id, payload) if known else {
            "release_id": release_id, "changed_since": None})
    if not known:
        text = f"no mature label of {release_id} that counts yet: {look.waiting} cohorts wait"
        return Signal("concept", "waiting", text, {"release_id": release_id, "mature_cohorts": look.mature,
                                               "waiting_cohorts": look.waiting, "changed_since": None})
    return _verdict(known, look, charter, release_id, _limit(stream, charter, payload), payload)


def _fault(look: Look, charter: Charter, lost: Sequence[datetime]) -> str | None:
    """Why what should be bet on is not.

    Args:
        lost: cuts after the newest bet that have no truth though it is due.
    """
    if look.lost:
        cut = look.lost.cut
        return (f"{look.lost.left:,} of {look.lost.rows:,} rows of the cohort of {cut:%Y-%m-%d}, which was bet on, are "
                "left in lake/truth: whom others would count twice cannot be told. Restore it from a backup; without "
                f"it cohorts from {cut + charter.problem.horizon:%Y-%m-%d} on are judged again")
    if look.unlabelled:
        cut, share = look.unlabelled[-1]
        return (f"{len(look.unlabelled)} cohorts should be mature and cannot be judged: of {cut:%Y-%m-%d} {share:.0%} "
                "have a label, too few or too many of them contacted. See to the label feed")
    if lost:
        return (f"customers were scored on {len(lost)} dates up to {lost[-1]:%Y-%m-%d} whose labels are due, and "
                "lake/truth has no row of them. Restore it from a backup")
    return None


def read_reference(payload: Path) -> Reference:
    """What the release did on its own test rows.

    Raises:
        ReleaseError: its `release.json` does not say.
    """
    try:
        said = json.loads((payload / "release.json").read_text(encoding="utf-8"))["test_brier"]
        reference = Reference(*(float(said[name]) for name in ("excess", "error", "brier")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ReleaseError(f"cannot tell concept drift: test_brier of {payload.name}/release.json: "
                           f"{type(error).__name__}. Train and release a model: older ones do not carry it") from None
    if not (-0.125 <= reference.excess <= 1 and 0 <= reference.error < 1 and 0 <= reference.brier <= 1):
        raise ReleaseError(f"cannot tell concept drift: test_brier of {payload.name}/release.json is {said}, no Brier "
                           "score. Train and release a model")
    return reference


def _limit(stream: Stream | None, charter: Charter, payload: Path) -> float:
    """The limit of the release: what its first bets were against, whatever the charter says by now."""
    return stream.limit if stream else read_reference(payload).limit(charter.concept)


def _rows_of_release(
    cohorts: Iterator[tuple[datetime, pl.DataFrame]], key: str, release_id: str, as_of: datetime, there: set[datetime],
    closed: set[datetime]
) -> Iterator[tuple[datetime, pl.DataFrame]]:
    """Each cut up to `as_of` at which the release scored somebody, in UTC, and these rows.

    All cuts go to `there`, those whose cohort, of whatever release, was closed by `as_of` to `closed` as well.
    """
    for moment, everybody in cohorts:
        there.add(moment)
        last = everybody.filter(pl.col("weight").is_not_null())["labelled_as_of"].max()
        if isinstance(last, datetime) and last <= as_of:
            closed.add(moment)
        rows = rows_of_release(moment, everybody, key, release_id)
        if moment <= as_of and not rows.is_empty():
            yield moment.astimezone(UTC), rows


def _verdict(
    known: Sequence[Cohort], look: Look, charter: Charter, release_id: str, limit: float, payload: Path
) -> Signal:
    evidence = _evidence(known, look, charter, release_id, payload)
    bad = log_statistic([cohort.bet for cohort in known]) >= math.log(charter.concept.months_between_false_alarms)
    newest = known[-1]
    text = (f"Brier excess {newest.excess:+.4f} in the cohort of {newest.bet.cut:%Y-%m-%d} (limit {limit:+.4f}; Brier "
            f"{newest.brier:.4f}, {evidence['reference_brier']:.4f} when trained); the bets are worth "
            f"{evidence['statistic_months']:.4g} months (limit {evidence['limit_months']:g}) after "
            f"{evidence['rows']:,} rows")
    state: State = "bad" if bad else "good"
    if bad:
        text = f"customers behave otherwise, most likely since {evidence['changed_since']}: {text}"
    return Signal("concept", state, text, evidence)


def _evidence(
    known: Sequence[Cohort], look: Look, charter: Charter, release_id: str, payload: Path
) -> dict[str, float | int | str | None]:
    bets = [cohort.bet for cohort in known]
    statistic, alarm = log_statistic(bets), charter.concept.months_between_false_alarms
    rows, months = sum(cohort.rows for cohort in known), sum(bet.months for bet in bets)
    return {
        "release_id": release_id, "statistic_months": float(f"{math.exp(min(statistic, 700.0)):.6g}"),
        "limit_months": alarm, "rows_a_month": round(rows / months), "limit_rows": round(alarm * rows / months),
        "changed_since": likely_change(bets).date().isoformat() if statistic >= math.log(alarm) else None,
        "cohorts": len(known), "rows": rows, "newest_cohort": bets[-1].cut.date().isoformat(),
        "brier": round(known[-1].brier, 6), "reference_brier": round(read_reference(payload).brier, 6),
        "excess": round(known[-1].excess, 6), "largest_weight": round(known[-1].largest_weight, 4),
        "mature_cohorts": look.mature, "waiting_cohorts": look.waiting, "passed_over": look.passed_over,
    }
