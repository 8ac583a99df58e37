"""A client of the pipeline, as a shop's own system would be: `python -m examples.shop.campaign --help`.

Each morning it takes the first names of the list of scores, asks the API about each of them once more, leaves out who
has changed since, and writes down who is contacted: the file that the optional raw table `contacts` takes, so that the
next training knows whose rows no longer say who would have left. It imports nothing of the pipeline: a Parquet file or
a SQL table, HTTP, and a CSV file are all they share.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import sqlalchemy as sa

TRIES = 5  # a customer
LONGEST_WAIT = 30.0  # seconds, whatever the API asks for
TIMEOUT = 10.0
GIVE_UP_AFTER = 3  # customers in a row without an answer: it is the API, not they
AGAIN = (429, 502, 503, 504)
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class CampaignError(Exception):
    """One line: what could not be done; nothing was written."""


@dataclass(frozen=True)
class Listed:
    """Whom the list proposes, the most worthwhile first."""

    as_of: datetime
    customers: tuple[str, ...]


@dataclass(frozen=True)
class Campaign:
    """What became of the list."""

    contacts: Path
    contacted: tuple[str, ...]
    left: Counter[str]  # reason -> customers

    def text(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left.items()))
        return f"{len(self.contacted):,} contacted, {self.left.total():,} left" + (f" ({reasons})" if reasons else "")


def read_list(scores: str, *, first: int, table: str = "shop_scores") -> Listed:
    """The first customers within the budget, of the newest `as_of`.

    Args:
        scores: a Parquet file, the folder of them, or the URL of a database.
        table: where it is a database.

    Raises:
        CampaignError: there is no list.
    """
    if "://" in scores:
        return _read_table(scores, table, first)
    path = Path(scores)
    if path.is_dir():
        path = max(path.glob("as_of=*.parquet"), default=path / "as_of=*.parquet")
    if not path.is_file():
        raise CampaignError(f"cannot read the list: there is no {path}. Run the score flow first")
    rows = pl.scan_parquet(path, glob=False).filter("within_budget").sort("rank").head(first).select(
        "as_of", "customer_id").collect()
    if rows.is_empty():
        raise CampaignError(f"cannot start the campaign: nobody in {path} is within the budget")
    return Listed(rows["as_of"][0], tuple(rows["customer_id"]))


def _read_table(url: str, table: str, first: int) -> Listed:
    rows = sa.table(table, *(sa.column(name) for name in ("as_of", "entity", "rank", "within_budget")))
    newest = sa.select(sa.func.max(rows.c.as_of)).scalar_subquery()
    query = sa.select(sa.type_coerce(rows.c.as_of, sa.DateTime(timezone=True)), rows.c.entity).where(
        rows.c.as_of == newest, rows.c.within_budget).order_by(rows.c.rank).limit(first)
    try:
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sa.NullPool)
        with engine.connect() as connection:
            found = connection.execute(query).all()
    except sa.exc.SQLAlchemyError as error:  # its message may hold the URL
        raise CampaignError(f"cannot read the list from the table {table}: {type(error).__name__}. Run the score flow "
                            "with CHURN_SCORES_URL first") from None
    if not found:
        raise CampaignError(f"cannot start the campaign: nobody in {table} is within the budget")
    as_of: datetime = found[0][0]
    return Listed(as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC), tuple(row[1] for row in found))


def ask(api: str, customer: str, *, key: str | None = None, sleep: Callable[[float], None] = time.sleep) -> tuple[
        int, dict[str, Any]]:
    """Status and document about a customer; asked again where the API says so, as late as it says.

    Asking changes nothing, so it may be repeated. Status 0: no answer that can be used.
    """
    headers = {"accept": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(f"{api.rstrip('/')}/v1/customers/{quote(customer, safe='')}/churn",
                                     headers=headers)
    for attempt in range(TRIES):
        wait = float(2**attempt) / 4
        try:
            with _OPENER.open(request, timeout=TIMEOUT) as answer:
                return answer.status, dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            if error.code not in AGAIN:
                return error.code, {}
            wait = _seconds(error.headers.get("retry-after"), wait)
        except (OSError, ValueError):  # refused, reset, too late, or no JSON
            pass
        if attempt < TRIES - 1:
            sleep(min(wait, LONGEST_WAIT))
    return 0, {}


def _seconds(retry_after: str | None, otherwise: float) -> float:
    """Of a `Retry-After`: whole seconds; a date, which our API never sends, is not waited for."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else otherwise


def why_left(status: int, answer: dict[str, Any]) -> str | None:
    """Why a customer is not contacted after all; None: contact them.

    Raises:
        CampaignError: the API wants a key.
    """
    if status in (401, 403):
        raise CampaignError("cannot ask the API: it wants a key. Set CHURN_API_KEY")
    if status == 404:
        return "unknown"
    if status != 200:
        return "without an answer"
    if answer.get("degraded"):
        return "of stale features"
    decision = answer["decision"]
    return None if decision["action"] == "contact" else f"by now {decision['why']}"


def run_campaign(
    listed: Listed, *, api: str, contacts: Path, at: datetime, key: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Campaign | None:
    """Ask about everyone on the list and write the contacts; None where this list had its campaign before.

    Args:
        contacts: the folder of the files of contacts; one a list.
        at: when they are contacted.

    Raises:
        CampaignError: the API does not answer at all, or wants a key; nothing was written.
    """
    path = contacts / f"contacts-{listed.as_of:%Y-%m-%d}.csv"
    if path.exists():
        return None
    contacted: list[str] = []
    left: Counter[str] = Counter()
    silent = 0
    for customer in listed.customers:
        status, answer = ask(api, customer, key=key, sleep=sleep)
        silent = silent + 1 if status == 0 else 0
        if silent == GIVE_UP_AFTER:
            raise CampaignError(f"cannot run the campaign: {api} did not answer about {silent} customers in a row. "
                                "Nothing was written; try again later")
        why = why_left(status, answer)
        if why is None:
            contacted.append(customer)
        else:
            left[why] += 1
    write_contacts(path, contacted, at)
    return Campaign(path, tuple(contacted), left)


def write_contacts(path: Path, customers: Sequence[str], at: datetime) -> None:
    """As the raw table `contacts` takes them; written beside and renamed, so there is all of a campaign or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    moment = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    rows = pl.DataFrame({"customer_id": list(customers)}, schema={"customer_id": pl.String}).with_columns(
        contacted_at=pl.lit(moment), arrived_at=pl.lit(moment))
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows.write_csv(beside)
    beside.rename(path)


def main(arguments: list[str] | None = None) -> int:
    """0; 1 with one line on stderr where there was no campaign."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop.campaign", description=__doc__)
    parser.add_argument("--scores", required=True, help="a Parquet file, the folder of them, or a database's URL")
    parser.add_argument("--table", default="shop_scores", help="where it is a database (default: %(default)s)")
    parser.add_argument("--api", default="http://127.0.0.1:8080", help="the API (default: %(default)s)")
    parser.add_argument("--contacts", type=Path, required=True, help="folder of the files of contacts")
    parser.add_argument("--first", type=int, default=600, help="customers at most (default: %(default)s)")
    parser.add_argument("--at", type=datetime.fromisoformat, help="when they are contacted (default: now)")
    options = parser.parse_args(arguments)
    try:
        listed = read_list(options.scores, first=options.first, table=options.table)
        at = options.at or datetime.now(UTC)
        done = run_campaign(listed, api=options.api, contacts=options.contacts, key=os.environ.get("CHURN_API_KEY"),
                            at=at if at.tzinfo else at.replace(tzinfo=UTC))
    except CampaignError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(done.text() if done else f"the list of {listed.as_of:%Y-%m-%d} had its campaign before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
