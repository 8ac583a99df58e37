"""The Bento's service: loads what the Bento carries, opens the online store, and serves `models.api`.

It is ready only once the golden rows were scored as training did and a first row was read and scored;
else it says why in its log and ends. Everything heavy is imported in `__init__`: BentoML's parent
process and `bentoml build` load this module too.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

import bentoml

# Not public, so pinned in pyproject.toml and held by tests/models/test_service.py. The documented option
# (`tracing.excluded_urls`) has no effect in BentoML 1.4, and tracing costs 0.2 ms a request.
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry.util.http import ExcludeList

from models.api import LOGGER, build_app
from models.errors import PipelineError, ReleaseError
from models.runtime import Runtime, build_runtime

BentoMLContainer.tracing_excluded_urls.set(ExcludeList(["/v1/"]))

RELEASE: Final = Path(__file__).resolve().parent.parent / "release"
app: Final = build_app()


@bentoml.service(
    name="churn",
    workers=1,
    metrics={"enabled": False},  # ours are in models.service_metrics, which says why
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


def load_runtime(folder: Path, *, release_id: str) -> Runtime:
    """Load a release from its folder and the place from the environment.

    Raises:
        ReleaseError: the payload, the feature store or the environment is not as the release needs it.
    """
    registry, online = _variable("CHURN_FEAST_REGISTRY"), _variable("CHURN_FEAST_ONLINE")
    project = _variable("CHURN_FEAST_PROJECT")
    key_file, log_file = _variable("CHURN_CUSTOMER_KEY_FILE"), _variable("CHURN_PREDICTION_LOG")
    clock_file = os.environ.get("CHURN_CLOCK_FILE")

    # BentoML and Feast each switch prometheus_client to files shared by several processes, in a folder that the
    # next release to start would empty. One worker needs none, and the choice is made at this first import.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    import models.service_metrics  # noqa: F401

    from models.features_online import open_online  # isort: skip
    from models.payload import load_payload
    from models.platform_clock import PlatformClock
    from models.prediction_log import PredictionLog

    payload = load_payload(folder)
    read_online = open_online(registry, online, payload.contract, view=payload.manifest["feature_view"],
                              service_name=payload.manifest["feature_service"], project=project)
    try:
        key = Path(key_file).read_bytes().strip()
        log = PredictionLog(Path(log_file))
    except OSError as error:
        raise ReleaseError(f"cannot open {error.filename}: {error.strerror}. Set CHURN_CUSTOMER_KEY_FILE and "
                           "CHURN_PREDICTION_LOG to files the release may read and write") from None
    if len(key) < 16:
        raise ReleaseError(f"the key in CHURN_CUSTOMER_KEY_FILE has {len(key)} bytes, at least 16 are needed")
    try:
        return build_runtime(payload, release_id=release_id, read_online=read_online, log=log, customer_key=key,
                             clock=PlatformClock(Path(clock_file) if clock_file else None))
    except PipelineError:
        raise
    except Exception as error:
        raise ReleaseError(f"the first online read or score failed: {type(error).__name__}. Run the features stage "
                           "for this contract") from error


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


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ReleaseError(f"cannot start the release: {name} is not set")
    return value


def _release_id() -> str:
    """The Bento's own tag; CHURN_RELEASE_ID where the code runs outside a Bento."""
    bento: Any = getattr(Churn, "bento", None)  # set on the decorated service where it was loaded from a Bento
    return str(bento.tag) if bento is not None else os.environ.get("CHURN_RELEASE_ID", "unpackaged")
