"""`make card`: write the model card of what is live, or of VERSION, and say where it is. Needs no running platform."""

from __future__ import annotations

import os
import sys

from deploy.local.command import command
from deploy.local.status import existing_place
from flows.settings import load_settings
from models.errors import ConfigError
from tasks.state import open_state
from tasks.training.model_card import live_version, run_of_version, write_run_card


@command()
def main() -> int:
    """0; 1 with one line where there is no such version, or nothing is live."""
    given = os.environ.get("VERSION", "").strip()
    if given and not given.isdigit():
        raise ConfigError(f"cannot write a model card: VERSION is {given!r}, not a number. Write: make card "
                          "VERSION=3")
    charter, home = existing_place(load_settings())
    engine = open_state(home.state_url)
    version = given or live_version(engine)
    paths = write_run_card(run_of_version(home, charter.name, version), engine, home.reports / f"card-v{version}")
    print(f"model card of version {version}, also in its MLflow run:")
    for path in paths:
        print(f"  {path.absolute().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
