"""`make release`, `approve`, `promote`, `rollback`, `pause`, `resume` and `keep`: a person's steps, with WHO and WHY.

The values come from the environment, where make puts them: a reason may hold quotes. All but `release` and `approve`
need neither Prefect nor MLflow.
"""

from __future__ import annotations

import os
import sys
from typing import Final, get_args

from deploy.local.command import command, keep_quiet
from deploy.local.parts import client_environment, place_environment
from deploy.local.status import existing_place
from flows.releasing import pause_now, promote_now, release_place, resume_now, roll_back_now
from flows.settings import load_settings
from models.decision import Decision
from models.errors import ConfigError, PlatformError
from tasks.release.bake_state import keep_champion
from tasks.release.processes import supervisor_running
from tasks.release.rollouts import Strategy

OF_A_VERSION: Final = ("release", "approve")
BY_HAND: Final = {"promote": promote_now, "pause": pause_now, "resume": resume_now, "keep": keep_champion}


def check_values(what: str, values: dict[str, str]) -> None:
    """Raises ConfigError where a value is missing or cannot be used; says which, and shows a full command."""
    needed = ["VERSION", "WHO", "WHY"] if what in OF_A_VERSION else ["WHO", "WHY"]
    missing = [name for name in needed if not values.get(name, "").strip()]
    if missing:
        example = {"VERSION": "VERSION=3", "WHO": "WHO=ada", "WHY": "WHY='tested by hand'"}
        raise ConfigError(f"cannot {what}: {', '.join(missing)} is missing. Write: "
                          f"make {what} {' '.join(example[name] for name in needed)}")
    if what in OF_A_VERSION and not values["VERSION"].strip().isdecimal():
        raise ConfigError(f"cannot {what} VERSION={values['VERSION']!r}: not a number. Write it as VERSION=3")
    if what == "approve" and values.get("REJECT", "") not in ("", "1"):
        raise ConfigError(f"cannot approve with REJECT={values['REJECT']!r}: write REJECT=1, or leave it out")
    if what == "rollback" and values.get("FURTHER", "") not in ("", "1"):
        raise ConfigError(f"cannot roll back with FURTHER={values['FURTHER']!r}: write FURTHER=1, or leave it out")
    strategy = values.get("STRATEGY", "")
    if what == "release" and strategy and strategy not in get_args(Strategy):
        raise ConfigError(f"cannot release with STRATEGY={strategy!r}: known are {', '.join(get_args(Strategy))}")


def act(what: str, values: dict[str, str]) -> Decision:
    """What was asked for; needs the running platform."""
    if what == "approve":
        from flows.approve import approve  # imports Prefect, which reads the environment once

        said: Decision = approve(version=int(values["VERSION"]), who=values["WHO"], why=values["WHY"],
                                 reject=values.get("REJECT") == "1")
        return said
    if what != "release":
        charter, place = release_place()
        if what == "rollback":
            return roll_back_now(charter, place, who=values["WHO"], why=values["WHY"],
                                 further=values.get("FURTHER") == "1")
        return BY_HAND[what](charter, place, who=values["WHO"], why=values["WHY"])
    from flows.release import release  # imports Prefect, which reads the environment once

    answer: Decision = release(version=int(values["VERSION"]), who=values["WHO"], why=values["WHY"],
                               strategy=values.get("STRATEGY") or None)
    return answer


def exit_code(what: str, decision: Decision) -> int:
    """1 where it was refused, or another call was first, so that a script takes no `hold` for a rollback."""
    return int(decision.verdict == "refuse" or (what not in OF_A_VERSION and decision.verdict == "hold"))


@command()
def main(what: str) -> int:
    """0; 1 with one line where it cannot be done, or was refused."""
    check_values(what, dict(os.environ))
    settings = load_settings()
    _charter, home = existing_place(settings)
    if what != "rollback" and not supervisor_running(home):  # going back needs state and route file alone
        raise PlatformError(f"cannot {what}: the platform of {home.root} does not run. Start it with `make run`")
    os.environ.update(client_environment(settings, home) | place_environment(settings, home))
    keep_quiet()
    decision = act(what, dict(os.environ))
    print(f"{decision.gate}: {decision.verdict}: {decision.reason}")
    return exit_code(what, decision)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
