"""`make why-retrain`: each check, its verdict and what followed, from the ledger, oldest first; and the same as a page.

Needs no running platform.
"""

from __future__ import annotations

import os
import sys

from deploy.local.command import command
from deploy.local.status import existing_place
from flows.settings import load_settings
from models.errors import ConfigError, PlatformError
from tasks.monitoring.why import CHECKS, read_checks, story
from tasks.state import open_state


@command()
def main() -> int:
    """0; 1 with one line where nothing was ever checked, or the ledger cannot be read."""
    given = os.environ.get("LAST", "").strip() or str(CHECKS)
    if not given.isdigit() or not int(given):
        raise ConfigError(f"cannot tell the last checks: LAST is {given!r}, not a number from 1. Write: make "
                          "why-retrain LAST=12")
    charter, home = existing_place(load_settings())
    engine = open_state(home.state_url)
    checks = read_checks(engine, charter, limit=int(given))
    if not checks:
        raise PlatformError(f"cannot say why: no check was ever made in {home.root}. Run the flow `monitor` first")
    from tasks.monitoring.why_page import write_why  # brings Prefect, which takes a second

    page = write_why(engine, charter, home)
    print(story(checks))
    print(f"\n{page.absolute().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
