"""`make release VERSION=V WHO=name WHY=text` and `make rollback WHO=name WHY=text`: the same judge, started by hand.

The values come from the environment, where make puts them: a reason may hold quotes.
"""

from __future__ import annotations

import os
import sys

from deploy.local.parts import client_environment, place_environment
from deploy.local.run import QUIET
from deploy.local.status import existing_place
from flows.settings import load_settings
from models.errors import ConfigError, PipelineError, PlatformError
from tasks.processes import supervisor_running


def arguments_for(what: str, values: dict[str, str]) -> list[str]:
    """What `flows.release` is called with.

    Raises:
        ConfigError: a value is missing; says which, and shows a full command.
    """
    needed = ["WHO", "WHY"] if what == "rollback" else ["VERSION", "WHO", "WHY"]
    missing = [name for name in needed if not values.get(name, "").strip()]
    if missing:
        example = {"VERSION": "VERSION=3", "WHO": "WHO=ada", "WHY": "WHY='tested by hand'"}
        raise ConfigError(f"cannot {what}: {', '.join(missing)} is missing. Write: "
                          f"make {what} {' '.join(example[name] for name in needed)}")
    chosen = ["--rollback"] if what == "rollback" else ["--version", values["VERSION"]]
    return [*chosen, "--who", values["WHO"], "--why", values["WHY"]]


def main(what: str) -> int:
    """The exit code of `flows.release`; 1 with one line where it cannot be called."""
    try:
        arguments = arguments_for(what, dict(os.environ))
        settings = load_settings()
        _charter, home = existing_place(settings)
        if not supervisor_running(home):
            raise PlatformError(f"cannot {what}: the platform of {home.root} does not run. Start it with `make run`")
        os.environ.update(client_environment(settings, home) | place_environment(settings, home))
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from flows.release import main as release  # imports Prefect, which reads the environment once

    return release(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
