"""`make down`: stop everything `make run` started; data stays."""

from __future__ import annotations

import sys
import time

from deploy.local.command import command
from deploy.local.platform import stop_platform
from deploy.local.status import existing_place
from flows.settings import load_settings
from tasks.release.processes import owned_pids


@command()
def main() -> int:
    """0 once nothing runs; 1 with one line where a process is left or no home is there."""
    begin = time.monotonic()
    settings = load_settings()
    _charter, home = existing_place(settings)
    count = len(owned_pids(home))
    stop_platform(settings, home)
    print(f"stopped {count} processes in {time.monotonic() - begin:.1f} s; data stays in {home.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
