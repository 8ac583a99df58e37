"""`make study`: how often to retrain and which feature groups pay, measured on history; AS_OF, ESTIMATOR and SECONDS.

With a running platform its server sees the run; without one Prefect starts a temporary server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from deploy.local.command import command, join_platform
from deploy.local.status import existing_place
from flows.settings import load_settings
from models.errors import ConfigError
from models.study.history import StudyConfig
from tasks.clock import parse_as_of

if TYPE_CHECKING:
    from models.decision import Decision


@command("interrupted; nothing was recorded")
def main(values: Mapping[str, str]) -> int:
    """0; 1 with one line on stderr where it cannot be measured; 130 on Ctrl-C."""
    as_of, config = read_values(values)
    settings = load_settings()
    _charter, home = existing_place(settings)
    join_platform(settings, home)
    from flows.study import study  # imports Prefect, which reads the environment once

    decision: Decision = study(as_of, config)
    print(f"{decision.verdict}: {decision.reason}")
    print(f"report  {(home.reports / str(decision.evidence['report'])).absolute().as_uri()}")
    return 0


def read_values(values: Mapping[str, str]) -> tuple[datetime | None, StudyConfig]:
    """`as_of` and config.

    Raises:
        ConfigError: a value that cannot be used.
    """
    given = {name: values[variable].strip() for variable, name in (("ESTIMATOR", "estimator"),
                                                                  ("SECONDS", "max_seconds"))
             if values.get(variable, "").strip()}
    try:
        config = StudyConfig.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"cannot study with {fault['loc'][0]}={fault['input']!r}: {fault['msg']}. Write: make study "
                          "ESTIMATOR=boosting SECONDS=600") from None
    as_of = values.get("AS_OF", "").strip()
    return (parse_as_of(as_of) if as_of else None), config


if __name__ == "__main__":
    sys.exit(main(os.environ))
