"""The Bento's service for `bentoml serve`: loads what the Bento carries and serves `models.serving.api`.

The platform serves the same Bento by `models.serving.prefork`. It is ready only once the golden rows were scored as
training did and a first row was read and scored; else it says why in its log and ends. Everything heavy is imported in
`__init__`: BentoML's parent process and `bentoml build` load this module too.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from typing import Any, Final

import bentoml

# Not public, so pinned in pyproject.toml and held by tests/models/serving/test_service.py. The documented option
# (`tracing.excluded_urls`) has no effect in BentoML 1.4, and tracing costs 0.2 ms a request.
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry.util.http import ExcludeList

from models.errors import PipelineError
from models.serving.api import LOGGER, build_app
from models.serving.start import RELEASE, load_runtime

BentoMLContainer.tracing_excluded_urls.set(ExcludeList(["/v1/"]))

app: Final = build_app()


@bentoml.service(
    name="churn",
    workers=1,
    metrics={"enabled": False},  # ours are in models.serving.service_metrics, which says why
    traffic={"timeout": 10},  # its timer is never cancelled: one a request, so keep it short
    logging={"access": {"enabled": False}},  # Envoy's access log is the one, without the customer's id
)
@bentoml.asgi_app(app, path="/")
class Churn:
    """Who is about to leave, and whether a contact is worth its cost."""

    def __init__(self) -> None:
        end_with_parent()
        try:
            app.state.runtime = load_runtime(RELEASE, release_id=_release_id())
        except Exception as error:
            LOGGER.critical("the release does not start: %s", error, exc_info=not isinstance(error, PipelineError))
            end_parent()
            raise


def end_with_parent() -> None:
    """Have Linux end this worker with BentoML's parent: an orphan would keep the port and the old release."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def end_parent() -> None:
    """End BentoML's parent process, and this worker at once: a release that may not start, may not try for ever.

    Left alone, the parent starts the worker again and again, at several CPU seconds each. Whoever
    started the parent (supervisor, a container's runtime) sees it end. Does nothing outside a worker.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or spec.name != "_bentoml_impl.worker.service":
        return
    os.kill(os.getppid(), signal.SIGTERM)
    logging.shutdown()  # flushes: what follows runs no clean-up, or BentoML would bury the reason in tracebacks
    os._exit(1)


def _release_id() -> str:
    """The Bento's own tag; CHURN_RELEASE_ID where the code runs outside a Bento."""
    bento: Any = getattr(Churn, "bento", None)  # set on the decorated service where it was loaded from a Bento
    return str(bento.tag) if bento is not None else os.environ.get("CHURN_RELEASE_ID", "unpackaged")
