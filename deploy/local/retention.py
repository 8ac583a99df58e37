"""`make retention`: what nothing needs any more, with size and reason; `make retention APPLY=1` drops it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from deploy.local.command import command
from deploy.local.status import existing_place
from flows.settings import load_settings
from tasks.erasure.retention import Item, Retention, apply_retention, plan_retention
from tasks.home import Home


@command()
def main(values: Mapping[str, str]) -> int:
    """0; 1 with one line on stderr where nothing can be said."""
    apply = values.get("APPLY", "").lower() in ("1", "yes", "true")
    existing_place(load_settings())
    from flows.context import open_context

    context = open_context()
    plan = plan_retention(context.charter, context.contract, context.home, context.engine)
    print(text(plan, context.home, apply=apply), flush=True)
    if apply:
        apply_retention(plan, context.home, context.engine)
    return 0


def text(plan: Retention, home: Home, *, apply: bool) -> str:
    """What goes, a line a folder and reason; then what stays because it is not understood."""
    items = [*plan.drop, *(item for _, item in plan.empty)]
    goes = "goes" if apply else "could go"
    lines = [f"as of {plan.as_of:%Y-%m-%d}: {len(items):,} files, {_size(plan.size)}, {goes}", *_lines(items, home)]
    if plan.unknown:
        lines += ["stays, for it is not understood:", *_lines(plan.unknown, home)]
    lines.append("raw rows stay, whatever their age: features count orders ever")
    if items and not apply:
        lines.append("nothing was changed. To drop it: make retention APPLY=1")
    return "\n".join(lines)


def _lines(items: Iterable[Item], home: Home) -> list[str]:
    def kind(item: Item) -> tuple[Path, str]:
        return item.path.parent, item.why

    lines = []
    for (folder, why), group in groupby(sorted(items, key=lambda item: (*kind(item), item.path)), kind):
        found = list(group)
        names = found[0].path.name if len(found) == 1 else f"{found[0].path.name} to {found[-1].path.name}"
        size = _size(sum(one.size for one in found))
        lines.append(f"  {folder.relative_to(home.root)}: {len(found):,} files, {size} ({names}): {why}")
    return lines


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


if __name__ == "__main__":
    sys.exit(main(os.environ))
