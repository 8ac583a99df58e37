"""What the commands of the Makefile share: exit codes, quiet libraries, the platform that runs."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

from deploy.local.parts import client_environment, place_environment
from flows.settings import Settings
from models.errors import PipelineError
from tasks.home import Home
from tasks.release.processes import supervisor_running

Given = ParamSpec("Given")
# Defaults only: whoever wants Prefect's own lines sets these. The UI shows every line either way.
QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "MLFLOW_LOGGING_LEVEL": "WARNING",
         "PREFECT_CLI_COLORS": "false"}


def command(interrupted: str = "interrupted") -> Callable[[Callable[Given, int]], Callable[Given, int]]:
    """A command that ends with an exit code: 1 with one line on stderr where something can be mended, 130 on Ctrl-C.

    Args:
        interrupted: what Ctrl-C leaves behind, in one line.
    """
    def decorate(main: Callable[Given, int]) -> Callable[Given, int]:
        @functools.wraps(main)
        def with_exit_code(*args: Given.args, **kwargs: Given.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except PipelineError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                print(interrupted, file=sys.stderr)
                return 130
        return with_exit_code
    return decorate


def keep_quiet() -> None:
    """Let the libraries speak in the UI alone. Before they are imported: they read the environment once."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def join_platform(settings: Settings, home: Home) -> None:
    """Let the flows of this process run on the platform's server where it runs; else Prefect starts one for them.

    Before Prefect is imported, which reads the environment once.
    """
    keep_quiet()
    if supervisor_running(home):
        os.environ.update(client_environment(settings, home) | place_environment(settings, home))
