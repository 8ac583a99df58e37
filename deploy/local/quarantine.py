"""`make quarantine`: what waits and why; `make redrive`: put it through today's checks again (DRY_RUN=1 only says so).

Neither needs a running platform: a re-drive takes the lake's lock, and is written down in the ledger.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from deploy.local.command import command
from deploy.local.status import existing_place
from flows.settings import load_settings
from models.decision import Decision
from tasks.data.quarantine import Waiting, list_quarantine
from tasks.data.redrive import Redrive, redrive_quarantine
from tasks.home import Home
from tasks.state import record_decision

YES = ("1", "yes", "true")


@command("interrupted; the quarantine is as it was, or as the whole re-drive leaves it")
def main(what: str, values: Mapping[str, str]) -> int:
    """0; 1 with one line on stderr where nothing could be read or changed; 130 on Ctrl-C."""
    _charter, home = existing_place(load_settings())
    from feature_repo.contract import RAW_TABLES
    from flows.context import open_context

    context = open_context()
    if what == "quarantine":
        print(listing(list_quarantine(home, context.engine, context.contract.present), home))
        return 0
    done = redrive_quarantine(
        context.sources, context.contract, RAW_TABLES, charter=context.charter, home=home, engine=context.engine,
        dry_run=values.get("DRY_RUN", "").lower() in YES,
    )
    if not done.dry_run:
        record_decision(context.engine, Decision("data", "accept", done.line), as_of=done.as_of,
                        subject=done.dataset_version)
    print(summary(done))
    return 0


def listing(found: list[Waiting], home: Home) -> str:
    """A line a table and set of reasons, with the newest rows as FILE:LINE, a database's by key."""
    if not found:
        return f"the quarantine of {home.root} is empty"
    lines = [f"{sum(one.rows for one in found):,} rows in the quarantine of {home.root}"]
    lines += [f"{one.rows:>9,}  {one.table}  {one.reason}  ({one.dimensions}; {', '.join(one.examples)}"
              f"{', ...' if one.rows > len(one.examples) else ''}; last load {one.newest:%Y-%m-%d})" for one in found]
    lines.append("mend the source, the rule in feature_repo/contract.py or what they refer to, then: make redrive")
    return "\n".join(lines)


def summary(done: Redrive) -> str:
    """What became of the rows, table by table, and from when on it shows."""
    lines = [done.line]
    for name, one in done.tables.items():
        lines.append(f"  {name}: {one.waiting:,} = {one.passed:,} passed + {one.bad:,} still bad + "
                     f"{one.redelivered:,} re-delivered")
        lines += [f"    {count:>9,}  {reason}" for reason, count in one.reasons]
    passed = sum(one.passed for one in done.tables.values())
    if done.dry_run:
        lines.append("nothing was changed. To do it: make redrive")
    elif passed:
        lines.append(f"what passed was not known as of {done.as_of:%Y-%m-%d}: it shows from the next as_of on, and the "
                     f"past stays as it was. Dataset {done.dataset_version}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], os.environ))
