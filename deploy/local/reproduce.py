"""`make reproduce RUN=<run id>`: data and model of an experiment again, from its record; the same figures, or why not.

With a running platform its server sees the run; without one Prefect starts a temporary server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from deploy.local.command import command, join_platform
from flows.settings import load_place, load_settings
from models.errors import ConfigError


@command("interrupted; nothing was changed")
def main(values: Mapping[str, str]) -> int:
    """0 where every figure comes out the same; 1 where one does not, or with one line where it cannot be tried."""
    run_id = values.get("RUN", "").strip()
    if not run_id:
        raise ConfigError("cannot reproduce: RUN is missing. Write: make reproduce RUN=id; MLflow's UI and the "
                          "ledger (`make why`) name the runs")
    settings = load_settings()
    _charter, home = load_place(settings)
    join_platform(settings, home)
    from tasks.training.record import read_record

    read_record(home, run_id)  # before a server is started: what can be found out now need not wait
    from flows.reproduce import reproduce  # imports Prefect, which reads the environment once

    answer = reproduce(run_id)
    print(answer.text())
    return 0 if answer.same else 1


if __name__ == "__main__":
    sys.exit(main(os.environ))
