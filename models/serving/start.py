"""Starting a release: reads and checks what the Bento carries, and opens the stores of the place it runs in.

In two steps, for several workers share the first: `load_parts` holds no connection and no open file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from models.errors import PipelineError, ReleaseError
from models.serving.runtime import Runtime, build_runtime

if TYPE_CHECKING:
    from models.serving.payload import Payload

RELEASE: Final = Path(__file__).resolve().parents[2] / "release"
PLACES: Final = ("CHURN_FEAST_REGISTRY", "CHURN_FEAST_ONLINE", "CHURN_FEAST_PROJECT", "CHURN_PREDICTION_LOG",
                 "CHURN_CUSTOMER_KEY_FILE")


@dataclass(frozen=True)
class Parts:
    """What workers may share: all of a release that holds no connection and no open file."""

    payload: Payload
    release_id: str
    customer_key: bytes


def load_runtime(folder: Path, *, release_id: str) -> Runtime:
    """Load a release from its folder and the place from the environment, for one process.

    Raises:
        ReleaseError: the payload, the feature store or the environment is not as the release needs it.
    """
    return open_runtime(load_parts(folder, release_id=release_id))


def load_parts(folder: Path, *, release_id: str) -> Parts:
    """Read and check the release, and import what answering needs.

    Raises:
        ReleaseError: the payload or the environment is not as the release needs it.
    """
    key_file = [_variable(name) for name in PLACES][-1]  # all of them: a missing one is said before the long imports
    # BentoML and Feast each switch prometheus_client to files shared by several processes, in a folder that the
    # next release to start would empty. Ours, or none, is chosen at the first import.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    if os.environ.get("CHURN_METRICS_DIR"):
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ["CHURN_METRICS_DIR"]
    import models.serving.service_metrics  # noqa: F401

    from models.serving.features_online import import_feast  # isort: skip
    from models.serving.payload import load_payload

    payload = load_payload(folder)
    import_feast(os.environ["CHURN_FEAST_ONLINE"])
    try:
        key = Path(key_file).read_bytes().strip()
    except OSError as error:
        raise ReleaseError(f"cannot open {error.filename}: {error.strerror}. Set CHURN_CUSTOMER_KEY_FILE to a file the "
                           "release may read") from None
    if len(key) < 16:
        raise ReleaseError(f"the key in CHURN_CUSTOMER_KEY_FILE has {len(key)} bytes, at least 16 are needed")
    return Parts(payload, release_id, key)


def open_runtime(parts: Parts) -> Runtime:
    """Open the feature store and the prediction log, and answer a first read and row.

    Raises:
        ReleaseError: the feature store is not as the release needs it, or a file cannot be opened.
    """
    from models.serving.api_keys import ApiKeys, platform_key
    from models.serving.features_online import open_online
    from models.serving.platform_clock import PlatformClock
    from models.serving.prediction_log import PredictionLog

    payload, clock_file = parts.payload, os.environ.get("CHURN_CLOCK_FILE")
    read_online = open_online(_variable("CHURN_FEAST_REGISTRY"), _variable("CHURN_FEAST_ONLINE"), payload.contract,
                              view=payload.manifest["feature_view"], project=_variable("CHURN_FEAST_PROJECT"),
                              service_name=payload.manifest["feature_service"])
    try:
        log = PredictionLog(Path(_variable("CHURN_PREDICTION_LOG")), rotate_bytes=_rotate_bytes())
    except OSError as error:
        raise ReleaseError(f"cannot open {error.filename}: {error.strerror}. Set CHURN_PREDICTION_LOG to a file the "
                           "release may write") from None
    keys_file, metrics_folder = os.environ.get("CHURN_API_KEYS"), os.environ.get("CHURN_METRICS_DIR")
    keys = ApiKeys(Path(keys_file), platform_key(parts.customer_key)) if keys_file else None
    try:
        return build_runtime(payload, release_id=parts.release_id, read_online=read_online, log=log,
                             customer_key=parts.customer_key, keys=keys,
                             clock=PlatformClock(Path(clock_file) if clock_file else None),
                             metrics_folder=Path(metrics_folder) if metrics_folder else None)
    except PipelineError:
        raise
    except Exception as error:
        raise ReleaseError(f"the first online read or score failed: {type(error).__name__}. Run the features stage "
                           "for this contract") from error


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ReleaseError(f"cannot start the release: {name} is not set")
    return value


def _rotate_bytes() -> int:
    """CHURN_LOG_ROTATE_BYTES: how long the prediction log may become before it goes on in a new file."""
    from models.serving.prediction_log import ROTATE_BYTES

    given = os.environ.get("CHURN_LOG_ROTATE_BYTES", str(ROTATE_BYTES))
    if not given.isdecimal() or not int(given):
        raise ReleaseError(f"cannot use CHURN_LOG_ROTATE_BYTES={given!r}: not a whole number of bytes above zero")
    return int(given)
