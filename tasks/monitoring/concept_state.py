"""State of the concept-drift detector. Reads and writes our state: a row a release, and a row each cohort it bet on.

What was bet stays: a cohort is written once, with the number it has in its release's stream, by compare-and-set on how
many there are. What is read is computed again from the cohorts; a stream that contradicts itself is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from models.errors import PlatformError
from models.gates.concept import STAKES, Bet, log_sums
from tasks.state import now
from tasks.tables import CONCEPT_COHORTS, CONCEPT_STREAMS

SAME = 1e-6  # relative: what a sum computed again may be off


@dataclass(frozen=True)
class Cohort:
    """A cohort that was bet on."""

    bet: Bet
    as_of: datetime  # platform clock when it was
    rows: int
    brier: float
    excess: float
    largest_weight: float


@dataclass(frozen=True)
class Stream:
    """All bets of one release, oldest first; `limit` is the mean excess they are against."""

    limit: float
    cohorts: tuple[Cohort, ...]

    @property
    def bets(self) -> list[Bet]:
        return [cohort.bet for cohort in self.cohorts]


def read_stream(engine: sa.Engine, release_id: str) -> Stream | None:
    """The bets of a release so far, or None where there was none yet.

    Raises:
        PlatformError: it cannot be read or contradicts itself; it is never taken for an empty one.
    """
    of_it, bets = CONCEPT_STREAMS.c.release_id == release_id, CONCEPT_COHORTS.c.release_id == release_id
    # One statement each: between two another check may write, and what they found would contradict itself.
    together = sa.select(CONCEPT_STREAMS.c.limit_excess, CONCEPT_STREAMS.c.cohorts, CONCEPT_STREAMS.c.log_sums,
                         CONCEPT_COHORTS).join_from(
        CONCEPT_STREAMS, CONCEPT_COHORTS, bets, isouter=True).where(of_it).order_by(CONCEPT_COHORTS.c.number)
    alone = sa.select(sa.func.count()).select_from(CONCEPT_COHORTS).where(bets, ~sa.exists().where(of_it))
    try:
        with engine.connect() as connection:
            found = connection.execute(together).mappings().all()
            orphans = 0 if found else connection.execute(alone).scalar_one()
    except sa.exc.SQLAlchemyError as error:
        raise _refused(release_id, f"{type(error).__name__} while reading it") from error
    if orphans:
        raise _refused(release_id, f"{orphans} cohorts and no stream they belong to")
    if not found:
        return None
    head, rows = found[0], [row for row in found if row["number"] is not None]
    try:
        stream = Stream(float(head["limit_excess"]), tuple(_cohort(row) for row in rows))
        sums = _numbers(head["log_sums"])
    except (ValueError, TypeError, KeyError) as error:
        raise _refused(release_id, f"{type(error).__name__} in its numbers") from error
    _check(release_id, stream, [int(row["number"]) for row in rows], int(head["cohorts"]), sums)
    return stream


def _check(release_id: str, stream: Stream, numbers: list[int], cohorts: int, sums: tuple[float, ...]) -> None:
    if numbers != list(range(cohorts)):
        raise _refused(release_id, f"cohorts {numbers}, its stream counts {cohorts}")
    cuts = [bet.cut for bet in stream.bets]
    if cuts != sorted(set(cuts)):
        raise _refused(release_id, "its cohorts are not in order")
    if not math.isfinite(stream.limit) or any(not 0 < bet.months < math.inf for bet in stream.bets):
        raise _refused(release_id, "a limit or a number of months that is none")
    if not np.allclose(log_sums(stream.bets), sums, rtol=SAME, atol=SAME):
        raise _refused(release_id, "its sum is not that of its cohorts")


def _cohort(row: Any) -> Cohort:
    bet = Bet(datetime.fromisoformat(row["cohort"]), float(row["months"]), _numbers(row["log_e"]))
    return Cohort(bet, datetime.fromisoformat(row["as_of"]), int(row["rows"]), float(row["brier"]),
                  float(row["excess"]), float(row["largest_weight"]))


def _numbers(text: str) -> tuple[float, ...]:
    found = tuple(float(one) for one in json.loads(text))
    if len(found) != len(STAKES) or not all(math.isfinite(one) for one in found):
        raise ValueError(f"{len(found)} numbers, {len(STAKES)} finite ones are needed")
    return found


def add_cohorts(
    engine: sa.Engine, release_id: str, before: Stream | None, new: Sequence[Cohort], *, limit: float
) -> bool:
    """Write new cohorts behind those of `before`; False when somebody else wrote first, and nothing was.

    Args:
        limit: of the release; used where `before` is None.
    """
    earlier = before.cohorts if before else ()
    sums = json.dumps(log_sums([cohort.bet for cohort in (*earlier, *new)]).tolist())
    try:
        with engine.begin() as connection:
            if before is None:
                connection.execute(CONCEPT_STREAMS.insert().values(
                    release_id=release_id, limit_excess=limit, cohorts=len(new), log_sums=sums))
            elif connection.execute(
                CONCEPT_STREAMS.update().where(CONCEPT_STREAMS.c.release_id == release_id,
                                               CONCEPT_STREAMS.c.cohorts == len(earlier))
                .values(cohorts=len(earlier) + len(new), log_sums=sums)
            ).rowcount != 1:
                return False
            for number, cohort in enumerate(new, len(earlier)):
                connection.execute(CONCEPT_COHORTS.insert().values(
                    release_id=release_id, cohort=cohort.bet.cut.isoformat(), number=number,
                    as_of=cohort.as_of.isoformat(), at=now(), months=cohort.bet.months, rows=cohort.rows,
                    brier=cohort.brier, excess=cohort.excess, largest_weight=cohort.largest_weight,
                    log_e=json.dumps(list(cohort.bet.log_e))))
    except sa.exc.IntegrityError:
        return False
    return True


def _refused(release_id: str, why: str) -> PlatformError:
    return PlatformError(f"cannot go on watching {release_id} for concept drift: {why}. Restore our state from a "
                         "backup, or release a model, which begins anew")
