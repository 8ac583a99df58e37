"""`make forget CUSTOMER=c000123 WHO=name WHY=text YES=1`: remove a person from everything the home holds.

Without YES=1 it says what would go, and changes nothing: it cannot be undone. The values come from the
environment, where make puts them: a reason may hold quotes. Needs no running platform and minds none.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from deploy.local.command import command
from deploy.local.status import existing_place
from flows.settings import load_settings
from models.errors import ConfigError
from tasks.erasure.forget import Found, Place, find_person, forget_person

YES = ("1", "yes", "true")
_ROWS = re.compile(r"^([\d,]+) rows; ")  # as a source file's line begins


@command("interrupted; the same command goes on where this stopped")
def main(values: Mapping[str, str]) -> int:
    """0; 1 with one line on stderr where nothing was changed or something is left to do; 130 on Ctrl-C."""
    customer = check_values(values)
    existing_place(load_settings())
    from flows.context import open_context

    context = open_context()
    place = Place(context.home, context.engine, context.contract, context.sources, context.root)
    if values.get("YES", "").lower() in YES:
        found = forget_person(customer, place, who=values["WHO"], why=values["WHY"], as_of=context.as_of)
        print(text(found, customer, done=True))
    else:
        print(text(find_person(customer, place), customer, done=False))
    return 0


def check_values(values: Mapping[str, str]) -> str:
    """The customer.

    Raises:
        ConfigError: a value is missing; says which, and shows a full command.
    """
    needed = ["CUSTOMER", "WHO", "WHY"] if values.get("YES", "").lower() in YES else ["CUSTOMER"]
    missing = [name for name in needed if not values.get(name, "").strip()]
    if missing:
        raise ConfigError(f"cannot forget: {', '.join(missing)} is missing. Write: make forget CUSTOMER=c000123 "
                          "WHO=ada WHY='asked for it on 3 May'")
    return values["CUSTOMER"]


def text(found: Found, customer: str, *, done: bool) -> str:
    """What was or would be removed, a line a place; what stays, and what can no longer be rebuilt."""
    begin = f"{customer.strip()}: "
    if not found.traces:
        begin += f"forgotten on {(found.forgotten_at or '')[:10]}, nothing of them is left"
    else:
        begin += f"{found.rows:,} rows in {found.files:,} files and tables {'are gone' if done else 'would go'}"
    lines = [begin, *(f"  {trace.where:<40} {trace.rows:>8,} rows {trace.files:>5,} files" for trace in found.traces)]
    if found.remains:
        lines += ["stays:", *(f"  {line}" for line in by_folder(found.remains))]
    if found.unrepeatable:
        lines += ["cannot be rebuilt to the byte any more:", *(f"  {line}" for line in found.unrepeatable),
                  "  models hold coefficients, their golden and reference rows have no key: they name nobody"]
    if not done and found.traces:
        lines.append("nothing was changed; it cannot be undone. To do it: make forget "
                     f"CUSTOMER={shlex.quote(customer)} WHO=name WHY=text YES=1")
    return "\n".join(lines)


def by_folder(remains: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A line a folder of source files that hold the person, with their number and rows; of all else a line each."""
    for (folder, why), group in groupby(remains, key=_folder):
        files = list(group)
        if len(files) == 1 or folder is None:
            yield from (f"{where}: {reason}" for where, reason in files)
            continue
        counts = [int(match[1].replace(",", "")) for _, reason in files if (match := _ROWS.match(reason))]
        yield f"{folder}: {len(files):,} files{f', {sum(counts):,} rows' if counts else ''}; {why}"


def _folder(remain: tuple[str, str]) -> tuple[Path | None, str]:
    where, why = Path(remain[0]), _ROWS.sub("", remain[1])
    return where.parent if where.is_absolute() and why.startswith("not ours") else None, why


if __name__ == "__main__":
    sys.exit(main(os.environ))
